/** Writes the archive that Linux unpacks as its first file system (cpio, "newc"): files in its top directory alone. */

const REGULAR_FILE = 0o100000
const ALIGNMENT = 4

export interface CpioFile {
  readonly name: string
  /** Of its permissions, as 0o755. */
  readonly mode: number
  readonly data: Uint8Array
}

export function cpio(files: readonly CpioFile[]): Buffer {
  const end = { name: 'TRAILER!!!', mode: 0, data: new Uint8Array() }
  return Buffer.concat([...files, end].flatMap(entry))
}

function entry({ name, mode, data }: CpioFile, index: number): Buffer[] {
  const named = `${name}\0`
  // Inode, mode, uid, gid, links, time, size, device (two), device it is (two), length of the name, checksum.
  const fields = [index + 1, REGULAR_FILE | mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, Buffer.byteLength(named), 0]
  const head = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}${named}`
  return [padded(Buffer.from(head)), padded(data)]
}

function padded(bytes: Uint8Array): Buffer {
  const whole = Buffer.alloc(Math.ceil(bytes.length / ALIGNMENT) * ALIGNMENT)
  whole.set(bytes)
  return whole
}
