/**
 * Writes the archive that Linux unpacks as its first file system (cpio, "newc"): files, and the folders they are in.
 */
import { dirname } from 'node:path'

const REGULAR_FILE = 0o100000
const FOLDER = 0o040755
const ALIGNMENT = 4

export interface CpioFile {
  /** A path without a slash in front. */
  readonly name: string
  /** Of its permissions, as 0o755. */
  readonly mode: number
  readonly data: Uint8Array
}

/** The parts of the archive, one after the other: they may be large, and are not joined here. */
export function cpio(files: readonly CpioFile[]): Uint8Array[] {
  const folders = new Set<string>()
  for (const { name } of files) addFolders(name, folders)
  const entries = [
    ...[...folders].map((name) => ({ name, mode: FOLDER, data: new Uint8Array() })),
    ...files.map(({ name, mode, data }) => ({ name, mode: REGULAR_FILE | mode, data })),
    { name: 'TRAILER!!!', mode: 0, data: new Uint8Array() },
  ]
  return entries.flatMap(entry)
}

/** Those nearer to the top first: a file is unpacked only into a folder that is there. */
function addFolders(name: string, to: Set<string>): void {
  const folder = dirname(name)
  if (folder === '.' || to.has(folder)) return
  addFolders(folder, to)
  to.add(folder)
}

function entry({ name, mode, data }: CpioFile, index: number): Uint8Array[] {
  const named = `${name}\0`
  // Inode, mode, uid, gid, links, time, size, device (two), device it is (two), length of the name, checksum.
  const fields = [index + 1, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, Buffer.byteLength(named), 0]
  const head = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${named}`)
  return [head, padding(head.length), data, padding(data.length)]
}

function padding(length: number): Uint8Array {
  return new Uint8Array((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT)
}
