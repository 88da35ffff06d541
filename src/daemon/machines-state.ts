/**
 * The emulated machines of a luod that is being replaced, on their way to the one that goes on: `luod-machines/1`. A
 * memory file with their state in JSON, and beside it every descriptor that the state names by its number. It is
 * written when luod stands still and read once, so it costs nothing while machines run; luod's records do not know of
 * it, and a luod that dies leaves none behind.
 *
 *     machines    {"version": 1, "files": COUNT, "machines": …}   a u64 is {"u64": "7"}, bytes are {"bytes": BASE64}
 *     machine/N   the descriptor that is {"file": N} there
 *
 * What is missing, of another kind, or makes no sense is LUO_RECORDS, another version LUO_RECORDS_VERSION.
 */
import { damaged, unknownVersion } from '../abi/bytes.js'
import { isLuoError, LuoError } from '../errors.js'
import { closeAll, Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import { createMemfd, fileSize, readAt, writeAt } from '../sys/memfd.js'
import type { MachineState } from './machine.js'
import { step } from './steps.js'
import type { VaultEntry } from './vault.js'

export const MACHINES_VERSION = 1
const STATE = 'machines'
const FILE = 'machine/'
const WHAT = 'the state of the emulated machines'

type Json = string | number | boolean | null | Json[] | { [name: string]: Json }

/** What goes to the other luod. Closing it closes what was made for this; the machines' descriptors stay theirs. */
export interface SavedMachines extends Disposable {
  readonly entries: readonly VaultEntry[]
}

export function writeMachines(machines: readonly MachineState[]): SavedMachines {
  step('upgrade.machines')
  const files: Fd[] = []
  const state = pack(machines, files)
  const text = Buffer.from(JSON.stringify({ version: MACHINES_VERSION, files: files.length, machines: state }))
  const memfd = createMemfd('luod-machines')
  try {
    writeAt(memfd, text, 0)
  } catch (error) {
    memfd.close()
    throw error
  }
  const entries = files.map((fd, index) => ({ key: `${FILE}${index}`, fd }))
  return { entries: [...entries, { key: STATE, fd: memfd }], [Symbol.dispose]: () => memfd.close() }
}

/** Of what has come from the other luod: whatever of it is theirs is taken out, and the caller's from here on. */
export function readMachines(descriptors: Map<string, Fd>): MachineState[] {
  step('takeover.machines')
  const memfd = descriptors.get(STATE)
  descriptors.delete(STATE)
  const files = new Map<number, Fd>()
  for (const [key, fd] of descriptors) if (key.startsWith(FILE)) files.set(Number(key.slice(FILE.length)), fd)
  const all = [...files.values()]
  for (const number of files.keys()) descriptors.delete(`${FILE}${number}`)
  try {
    if (!memfd) {
      closeAll(all)
      return []
    }
    const bytes = new Uint8Array(fileSize(memfd))
    const {
      version,
      files: count,
      machines,
    } = JSON.parse(Buffer.from(bytes.subarray(0, readAt(memfd, bytes, 0))).toString())
    if (version !== MACHINES_VERSION) throw unknownVersion(WHAT, version, MACHINES_VERSION)
    if (count !== files.size) throw damaged(WHAT, `it has ${count} files, and ${files.size} came`)
    const states = unpack(machines, files) as MachineState[]
    for (const state of states) checkKinds(state)
    if (files.size > 0) throw damaged(WHAT, `${files.size} files are nothing of it`)
    return states
  } catch (error) {
    closeAll(all)
    throw isLuoError(error) ? error : damaged(WHAT, 'it is not what was written', error)
  } finally {
    memfd?.close()
  }
}

/** Every descriptor of them. */
export function filesOf(machines: readonly MachineState[]): Fd[] {
  const files: Fd[] = []
  pack(machines, files)
  return files
}

function pack(value: unknown, files: Fd[]): Json {
  if (typeof value === 'bigint') return { u64: String(value) }
  if (value instanceof Fd) return { file: files.push(value) - 1 }
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString('base64') }
  if (Array.isArray(value)) return value.map((one) => pack(one, files))
  if (typeof value !== 'object' || value === null) return value as Json
  const known = Object.entries(value).filter(([, one]) => one !== undefined)
  return Object.fromEntries(known.map(([name, one]) => [name, pack(one, files)]))
}

/** What it has taken is no more in `files`. */
function unpack(value: Json, files: Map<number, Fd>): unknown {
  if (Array.isArray(value)) return value.map((one) => unpack(one, files))
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value)
  const [[name, only] = []] = entries
  if (entries.length === 1 && typeof only === 'string' && name === 'u64') return BigInt(only)
  if (entries.length === 1 && typeof only === 'string' && name === 'bytes') {
    return new Uint8Array(Buffer.from(only, 'base64'))
  }
  if (entries.length === 1 && typeof only === 'number' && name === 'file') {
    const fd = files.get(only)
    if (!fd) throw damaged(WHAT, `file ${only} did not come, or is there twice`)
    files.delete(only)
    return fd
  }
  return Object.fromEntries(entries.map(([key, one]) => [key, unpack(one, files)]))
}

function checkKinds({ name, things, notifiers, generation }: MachineState): void {
  const sockets = [...things.map(({ end }) => end), ...notifiers.map(({ channel }) => channel)]
  const check = (fd: Fd, wanted: string) => {
    const { kind } = fileInfo(fd)
    if (kind !== wanted) throw new LuoError('LUO_RECORDS', `machine ${name}: a file of kind ${kind}, not ${wanted}`)
  }
  for (const socket of sockets) check(socket, 'unix')
  if (generation.came) check(generation.came.image, 'memfd')
}
