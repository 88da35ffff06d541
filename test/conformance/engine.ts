/**
 * Runs the scripts of the conformance suite on a backend: its device and its sessions, called as objects. The engine, a
 * `Generation`, is one, and the kernel's device is the other (test/vm). What a kernel does around them, descriptors
 * that are copied, inherited and passed on, and closed with their process, is counted here. Backends have no structs,
 * pointers and paths, so some steps are not for them (`NOT_FOR_IT`).
 */
import { constants, fstatSync, openSync, rmSync, unlinkSync } from 'node:fs'
import { decodeName } from '../../src/abi/bytes.js'
import type { LiveDevice, LiveSession } from '../../src/backends/contract.js'
import { Generation, type Handover } from '../../src/backends/generation.js'
import { LuoError } from '../../src/errors.js'
import { kernelMemfdHandler } from '../../src/handlers/kernel-memfd.js'
import { Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { sameOpenFile } from '../../src/sys/file-info.js'
import { allocate, position, readAt, sealBits, setPosition, truncate, writeAt } from '../../src/sys/memfd.js'
import { isPathOnly } from '../../src/sys/remote.js'
import type { Answered, Answers, Script } from './script.js'
import { type Word, words } from './words.js'

const MFD_ALLOW_SEALING = 2
const MFD_HUGETLB = 4
const MFD_NOEXEC_SEAL = 8
const MFD_EXEC = 16
const F_ADD_SEALS = 1033
const NAME_BYTES = 64
const SHARED = '/dev/shm/conformance'
const O_PATH = 0o10000000
const O_TMPFILE = 0o20200000
const KINDS: Record<string, () => number> = {
  directory: () => openSync('/', 'r'),
  path: () => openSync('/', O_PATH),
  null: () => openSync('/dev/null', 'r+'),
  proc: () => openSync('/proc/self/status', 'r'),
  shm: newShared,
  'shm-unlinked': () => {
    const fd = newShared()
    unlinkSync(SHARED)
    return fd
  },
  'shm-tmpfile': () => openSync('/dev/shm', constants.O_RDWR | O_TMPFILE, 0o600),
}

function newShared(): number {
  // Of a run that was cut off.
  rmSync(SHARED, { force: true })
  return openSync(SHARED, 'wx+', 0o600)
}

const NO_STRUCTS = 'it is called with values, and no structs'
const NO_PATHS = 'it has no paths and flags'
const ONE_THREAD = 'it has one thread'
const NO_DESCRIPTORS = 'its devices and sessions are no descriptors'
const NO_KERNEL = 'it has no system calls'
const OTHER_FILES = 'it has no need of such a file'

/** Why the engine is not asked for these steps. */
const NOT_FOR_IT: Readonly<Record<string, string>> = {
  ioctl: NO_STRUCTS,
  'open-old': NO_PATHS,
  creat: NO_PATHS,
  openat: NO_PATHS,
  openat2: NO_PATHS,
  cd: NO_PATHS,
  'make-link': NO_PATHS,
  'race-create': ONE_THREAD,
  'race-retrieve-session': ONE_THREAD,
  'race-preserve': ONE_THREAD,
  'no-more-fds': NO_DESCRIPTORS,
  'more-fds': NO_DESCRIPTORS,
  'count-fds': NO_DESCRIPTORS,
  type: NO_DESCRIPTORS,
  link: NO_DESCRIPTORS,
  poll: NO_DESCRIPTORS,
  mode: NO_DESCRIPTORS,
  map: NO_KERNEL,
  reboot: NO_KERNEL,
  'kexec-file-load': NO_KERNEL,
}
/** Not asking for them changes nothing for what follows. */
const LOOKS_ONLY = new Set(['type', 'link', 'poll', 'mode', 'map', 'cloexec', 'count-fds', 'name'])

/** What the engine answered, or why it was not asked. */
export type EngineAnswer = { answer: string } | { reason: string }

type Thing =
  | { kind: 'device'; device: LiveDevice }
  | { kind: 'session'; session: LiveSession }
  | { kind: 'file'; fd: Fd }
  | { kind: 'flight'; held: Copy | undefined }

/** An open file with the number of its copies. */
interface Shared {
  readonly thing: Thing
  copies: number
}

/** A descriptor. */
interface Copy {
  readonly shared: Shared
  readonly cloexec: boolean
}

type Descriptors = Map<string, Copy>

/** `onDefect`: an operation that must not fail has failed. */
export function runOnEngine(script: Script, onDefect: (message: string) => void): EngineAnswer[][] {
  using engine = new Engine(onDefect)
  return script.parts.map((part, index) => {
    if (index > 0) engine.kexec()
    return part.map(({ text }) => engine.answer(text))
  })
}

/** Its message is the reason. */
class NotForIt extends Error {}

/** One script, step by step, on what `open` opens: up to a kexec, if that ends this process. */
export class Calls implements Disposable {
  readonly #open: () => LiveDevice
  #processes = new Map<string, Descriptors>([['', new Map()]])

  constructor(open: () => LiveDevice) {
    this.#open = open
  }

  [Symbol.dispose](): void {
    this.endProcesses()
  }

  endProcesses(): void {
    for (const process of this.#processes.keys()) this.#end(process, () => true)
    this.#processes = new Map([['', new Map()]])
  }

  answer(line: string): EngineAnswer {
    const [first = '', ...rest] = line.split(' ')
    const owner = first.endsWith(':') ? first.slice(0, -1) : ''
    const [verb, ...args] = words(owner === '' ? line : rest.join(' '))
    const descriptors = this.#processes.get(owner)
    if (!descriptors || !verb) return { answer: 'it has ended' }
    try {
      return { answer: this.#step(descriptors, verb.text, args) }
    } catch (error) {
      if (error instanceof NotForIt) return { reason: error.message }
      // What Node.js throws has the errno as its code, too.
      if (error instanceof Error && 'code' in error) return { answer: String(error.code) }
      throw error
    }
  }

  #step(own: Descriptors, verb: string, args: readonly Word[]): string {
    const reason = NOT_FOR_IT[verb]
    if (reason) throw new NotForIt(reason)
    const [a, b, c] = args.map(({ text }) => text)
    const at = (name = '') => own.get(name)
    const bind = (name: string | undefined, thing: Thing, cloexec: boolean) => {
      own.set(name ?? '', { shared: { thing, copies: 1 }, cloexec })
      return 'ok'
    }
    switch (verb) {
      case 'open':
        if (b?.startsWith('/dev/shm')) return bind(a, { kind: 'file', fd: openShared(c ?? '') }, false)
        if (b !== undefined) throw new NotForIt(NO_PATHS)
        return bind(a, { kind: 'device', device: this.#open() }, false)
      case 'close':
        this.#close(own, a ?? '')
        return 'ok'
      case 'dup':
        own.set(a ?? '', { shared: again(at(b)), cloexec: false })
        return 'ok'
      case 'create':
        return bind(a, { kind: 'session', session: deviceOf(at(b)).createSession(nameOf(args[2])) }, true)
      case 'retrieve-session':
        return bind(a, { kind: 'session', session: deviceOf(at(b)).retrieveSession(nameOf(args[2])) }, true)
      case 'preserve':
        sessionOf(at(a)).preserve(tokenOf(c), fileToPreserve(at(b)))
        return 'ok'
      case 'retrieve':
        return bind(a, { kind: 'file', fd: sessionOf(at(b)).retrieve(tokenOf(c)) }, true)
      case 'finish':
        if (b !== undefined) throw new NotForIt(NO_STRUCTS)
        sessionOf(at(a)).finish()
        return 'ok'
      case 'name':
        if (b !== undefined) throw new NotForIt(NO_STRUCTS)
        return `ok ${quote(nameBytes(sessionOf(at(a)).name))}`
      case 'cloexec':
        return `ok ${descriptorOf(at(a)).cloexec ? 1 : 0}`
      case 'spawn':
        this.#processes.set(
          a ?? '',
          new Map([...own].map(([name, { shared, cloexec }]) => [name, { shared: more(shared), cloexec }])),
        )
        return 'ok'
      case 'kill':
      case 'leave':
        this.#end(a ?? '', () => true)
        this.#processes.delete(a ?? '')
        return 'ok'
      case 'exec':
        this.#end(a ?? '', ({ cloexec }) => cloexec)
        return 'ok'
      case 'pass':
        this.#processes.get(a ?? '')?.set(b ?? '', { shared: again(at(b)), cloexec: false })
        return 'ok'
      case 'flight':
        return bind(a, { kind: 'flight', held: { shared: again(at(b)), cloexec: false } }, false)
      case 'land': {
        const from = at(b)?.shared.thing
        if (from?.kind !== 'flight' || !from.held) throw new LuoError('EBADF', 'nothing is on its way')
        own.set(a ?? '', from.held)
        from.held = undefined
        return 'ok'
      }
      case 'memfd':
        return bind(a, { kind: 'file', fd: memoryFile(args) }, false)
      case 'file': {
        const open = KINDS[b ?? '']
        if (!open) throw new NotForIt(OTHER_FILES)
        return bind(a, { kind: 'file', fd: Fd.adopt(open()) }, false)
      }
      case 'remove':
        unlinkSync(a ?? '')
        return 'ok'
      case 'reopen': {
        // As a path in /proc that is not there.
        if (!at(b)) throw new LuoError('ENOENT', 'open a descriptor again')
        const flags = c === 'readonly' ? 'r' : 'r+'
        return bind(a, { kind: 'file', fd: Fd.adopt(openSync(`/proc/self/fd/${fileOf(at(b)).number}`, flags)) }, false)
      }
      case 'same-file':
        return `ok ${sameOpenFile(fileOf(at(a)), fileOf(at(b))) ? 1 : 0}`
      default:
        return onFile(verb, fileOf(at(a)), args)
    }
  }

  /** EBADF when there is none. */
  #close(own: Descriptors, name: string): void {
    const copy = descriptorOf(own.get(name))
    own.delete(name)
    this.#letGo(copy.shared)
  }

  #letGo(shared: Shared): void {
    shared.copies -= 1
    if (shared.copies > 0) return
    const { thing } = shared
    if (thing.kind === 'device') thing.device.close()
    else if (thing.kind === 'session') thing.session.close()
    else if (thing.kind === 'file') thing.fd.close()
    else if (thing.held) this.#letGo(thing.held.shared)
  }

  #end(process: string, which: (copy: Copy) => boolean): void {
    const descriptors = this.#processes.get(process) ?? new Map()
    for (const [name, copy] of descriptors) if (which(copy)) this.#close(descriptors, name)
  }
}

/** On the engine: a generation, and with each kexec the next one. */
export class Engine extends Calls {
  readonly #onDefect: (message: string) => void
  #generation: Generation

  constructor(onDefect: (message: string) => void) {
    super(() => this.#generation.open())
    this.#onDefect = onDefect
    this.#generation = this.#begin()
  }

  #begin(handover?: Handover): Generation {
    return Generation.begin({
      register: (context) => context.registry.register(kernelMemfdHandler(context)),
      onDefect: (error, action) => this.#onDefect(`${action}: ${String(error)}`),
      ...(handover ? { handover } : {}),
    })
  }

  kexec(): void {
    const next = this.#generation.kexec()
    this.endProcesses()
    this.#generation = this.#begin(next)
  }

  override [Symbol.dispose](): void {
    this.endProcesses()
    this.#generation.close()
  }
}

/** The answers that count: what the engine answers, and Linux's own where it is not asked. */
export function compared(
  kernel: Answers,
  script: Script,
  engine: readonly (readonly EngineAnswer[])[],
): { expected: Answers; answered: Answers } {
  const expected: Answered[][] = []
  const answered: Answered[][] = []
  for (const [at, part] of kernel.entries()) {
    expected.push([])
    answered.push([])
    for (const [index, { text, answer }] of part.entries()) {
      const own = engine[at]?.[index] ?? { reason: 'it has no such step' }
      const verb = words(text.replace(/^\w+: /, ''))[0]?.text ?? ''
      if ('answer' in own) {
        expected.at(-1)?.push({ text, answer })
        answered.at(-1)?.push({ text: script.parts[at]?.[index]?.text ?? '', answer: own.answer })
        continue
      }
      // What the engine was not asked for has changed something: the rest is another story.
      const changes = !/^E[A-Z0-9]+$/.test(answer) || text.endsWith(' readonly')
      if (changes && !LOOKS_ONLY.has(verb)) return { expected, answered }
    }
  }
  return { expected, answered }
}

// --- descriptors -----------------------------------------------------------------------------------------------------

function descriptorOf(copy: Copy | undefined): Copy {
  if (copy) return copy
  throw new LuoError('EBADF', 'there is no such descriptor')
}

function more(shared: Shared): Shared {
  shared.copies += 1
  return shared
}

const again = (copy: Copy | undefined) => more(descriptorOf(copy).shared)

/** Calls on what is something else are answered by others. */
function deviceOf(copy: Copy | undefined): LiveDevice {
  const { thing } = descriptorOf(copy).shared
  if (thing.kind === 'device') return thing.device
  throw new NotForIt(NO_DESCRIPTORS)
}

function sessionOf(copy: Copy | undefined): LiveSession {
  const { thing } = descriptorOf(copy).shared
  if (thing.kind === 'session') return thing.session
  throw new NotForIt(NO_DESCRIPTORS)
}

function fileOf(copy: Copy | undefined): Fd {
  const { thing } = descriptorOf(copy).shared
  if (thing.kind === 'file') return thing.fd
  throw new NotForIt(NO_DESCRIPTORS)
}

function fileToPreserve(copy: Copy | undefined): Fd | undefined {
  if (!copy) return undefined
  const fd = fileOf(copy)
  return isPathOnly(fd) ? undefined : fd
}

// --- values ----------------------------------------------------------------------------------------------------------

const tokenOf = (text = '0') => String(BigInt(text))

/** As it comes out of the 64 bytes of a struct. */
function nameOf(word: Word | undefined): string {
  const field = (word?.bytes ?? new Uint8Array()).subarray(0, NAME_BYTES)
  const end = field.indexOf(0)
  return decodeName(end === -1 ? field : field.subarray(0, end))
}

/** Undo of `decodeName`. */
function nameBytes(name: string): Uint8Array {
  return Buffer.concat(
    [...name].map((character) => {
      const code = character.codePointAt(0) ?? 0
      return code >= 0xdc80 && code <= 0xdcff ? Buffer.from([code - 0xdc00]) : Buffer.from(character)
    }),
  )
}

function quote(bytes: Uint8Array): string {
  const text = [...bytes].map((byte) => {
    const plain = byte >= 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x5c
    return plain ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`
  })
  return `"${text.join('')}"`
}

// --- files -----------------------------------------------------------------------------------------------------------

function openShared(flags: string): Fd {
  return Fd.adopt(openSync('/dev/shm', flags.includes('path') ? O_PATH : constants.O_RDONLY))
}

function memoryFile(args: readonly Word[]): Fd {
  const value = (key: string) => args.find(({ text }) => text.startsWith(`${key}=`))
  const numberAt = (key: string) => Number(value(key)?.text.slice(key.length + 1) ?? 0)
  const flags = value('flags')?.text
  let bits = MFD_ALLOW_SEALING | MFD_EXEC
  if (flags !== undefined) {
    bits = flags.includes('sealing') ? MFD_ALLOW_SEALING : 0
    bits |= flags.includes('noexec') ? MFD_NOEXEC_SEAL : MFD_EXEC
    bits |= flags.includes('hugetlb') ? MFD_HUGETLB : 0
  }
  const fd = Fd.adopt(checked('create a memory file', 'memfd_create', 'conformance', bits))
  const text = value('text')?.bytes.subarray('text='.length)
  if (text) {
    writeAt(fd, text, 0)
    setPosition(fd, text.length)
  }
  if (value('size')) truncate(fd, numberAt('size'))
  if (value('pos')) setPosition(fd, numberAt('pos'))
  if (value('seals')) checked('seal', 'fcntl', fd.number, F_ADD_SEALS, numberAt('seals'))
  return fd
}

function onFile(verb: string, fd: Fd, args: readonly Word[]): string {
  const numbers = args.map(({ text }) => Number(text))
  const [, first = 0, second = 0] = numbers
  const read = (at: number, length: number) => {
    const bytes = new Uint8Array(length)
    return bytes.subarray(0, readAt(fd, bytes, at))
  }
  switch (verb) {
    case 'read': {
      const bytes = read(position(fd), first)
      setPosition(fd, position(fd) + bytes.length)
      return `ok ${quote(bytes)}`
    }
    case 'pread':
      return `ok ${quote(read(first, second))}`
    case 'write': {
      const bytes = args[1]?.bytes ?? new Uint8Array()
      writeAt(fd, bytes, position(fd))
      setPosition(fd, position(fd) + bytes.length)
      return 'ok'
    }
    case 'pwrite':
      writeAt(fd, args[2]?.bytes ?? new Uint8Array(), first)
      return 'ok'
    case 'seek':
      setPosition(fd, first)
      return `ok ${first}`
    case 'position':
      return `ok ${position(fd)}`
    case 'size':
      return `ok ${fstatSync(fd.number).size}`
    case 'allocated':
      return `ok ${fstatSync(fd.number).blocks * 512}`
    case 'seals':
      return `ok 0x${sealBits(fd).toString(16)}`
    case 'seal':
      checked('seal', 'fcntl', fd.number, F_ADD_SEALS, first)
      return 'ok'
    case 'truncate':
      truncate(fd, first)
      return 'ok'
    case 'allocate':
      if (args.length > 3) throw new NotForIt(NO_KERNEL)
      allocate(fd, first + second)
      return 'ok'
    default:
      throw new NotForIt(NO_DESCRIPTORS)
  }
}
