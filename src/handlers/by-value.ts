/**
 * Files by value: what crosses a kexec without the kernel's help. `describe` writes down what a file is, as a value
 * that JSON holds; `recreate` makes a file of it under the next kernel. The other side of the same kernel will do too.
 *
 * What cannot be described is refused before, by kind and with the reason (ENOENT, as the kernel refuses what it has no
 * handler for): ask `whyNotByValue` when a file is preserved, and not at the reboot. A description comes from memory
 * that was handed over: whatever is wrong with it is LUO_RECORDS, and a newer version LUO_RECORDS_VERSION. A file that
 * is not what it was is LUO_CHANGED. On every failure nothing is left open.
 */
import { asLuoError, type ErrnoName, LuoError } from '../errors.js'
import { createEventfd, eventfdState, MAX_EVENTFD_COUNTER } from '../sys/eventfd.js'
import type { Fd } from '../sys/fd.js'
import type { FileKind } from '../sys/file-info.js'
import { howOpened } from '../sys/same-file.js'
import { setNonblocking } from '../sys/socket.js'
import type { HeldFile } from './held-file.js'
import { type ByValueKind, refusalOverKexec } from './kinds.js'
import { Check } from './value/check.js'
import { describeFile, type FileDescription, readFileDescription, recreateFile, whyFileCannot } from './value/file.js'
import {
  describeInternet,
  type InternetDescription,
  readInternetDescription,
  recreateInternet,
  whyInternetCannot,
} from './value/inet.js'
import { describeUnix, readUnixDescription, recreateUnix, type UnixDescription, whyUnixCannot } from './value/unix.js'

export const DESCRIPTION_VERSION = 1

/** What JSON holds: numbers are safe integers. */
export type Description = { version: typeof DESCRIPTION_VERSION } & (
  | ({ kind: 'file' | 'directory' } & FileDescription)
  | ({ kind: 'tcp' | 'mptcp' | 'udp' } & InternetDescription)
  | ({ kind: 'unix' } & UnixDescription)
  | ({ kind: 'eventfd' } & EventfdDescription)
)

interface EventfdDescription {
  counter: string
  semaphore: boolean
  nonblock: boolean
}

/** How one kind crosses. `read` checks everything that `make` uses. */
interface ByValue<T> {
  /** Cheap: some system calls. */
  whyNot(file: HeldFile): string | undefined
  describe(file: HeldFile): T
  read(check: Check): T
  make(description: T): Fd
}

function ofFiles(kind: 'file' | 'directory'): ByValue<FileDescription> {
  return {
    whyNot: whyFileCannot,
    describe: describeFile,
    read: readFileDescription,
    make: (description) => recreateFile(kind, description),
  }
}

function ofInternet(kind: 'tcp' | 'mptcp' | 'udp'): ByValue<InternetDescription> {
  return {
    whyNot: (file) => whyInternetCannot(kind, file),
    describe: (file) => describeInternet(kind, file),
    read: (check) => readInternetDescription(kind, check),
    make: (description) => recreateInternet(kind, description),
  }
}

const COUNTER = /^\d{1,20}$/

const EVENTFD: ByValue<EventfdDescription> = {
  whyNot: ({ fd }) => {
    try {
      eventfdState(fd)
      return undefined
    } catch (error) {
      return (error as Error).message
    }
  },
  describe: ({ fd }) => {
    const { counter, semaphore } = eventfdState(fd)
    return { counter: `${counter}`, semaphore, nonblock: howOpened(fd).flags.includes('nonblock') }
  },
  read: (check) => {
    const counter = check.text('counter', COUNTER)
    if (BigInt(counter) > MAX_EVENTFD_COUNTER) throw check.wrong('"counter" is too large')
    return { counter, semaphore: check.flag('semaphore'), nonblock: check.flag('nonblock') }
  },
  make: ({ counter, semaphore, nonblock }) => {
    const fd = createEventfd({ counter: BigInt(counter), semaphore })
    setNonblocking(fd, nonblock)
    return fd
  },
}

const KINDS: { readonly [K in ByValueKind]: ByValue<unknown> } = {
  file: ofFiles('file'),
  directory: ofFiles('directory'),
  tcp: ofInternet('tcp'),
  mptcp: ofInternet('mptcp'),
  udp: ofInternet('udp'),
  unix: { whyNot: whyUnixCannot, describe: describeUnix, read: readUnixDescription, make: recreateUnix },
  eventfd: EVENTFD,
}

function isByValue(kind: FileKind): kind is ByValueKind {
  return kind in KINDS
}

/**
 * Why this file cannot cross a kexec by value; undefined when it can. Cheap. Memory files cross by the kernel: they are
 * not asked about here.
 */
export function whyNotByValue(file: HeldFile): string | undefined {
  const { kind } = file.info
  return isByValue(kind) ? KINDS[kind].whyNot(file) : refusalOverKexec(kind)
}

/** ENOENT, with the reason, when it cannot cross. The file stays as it is. */
export function describe(file: HeldFile): Description {
  const { kind } = file.info
  const reason = whyNotByValue(file)
  if (reason !== undefined || !isByValue(kind)) {
    throw new LuoError('ENOENT', `take a file of kind ${kind} over a kexec: ${reason ?? 'the kernel does that'}`)
  }
  const fields = named(`describe a file of kind ${kind}`, () => KINDS[kind].describe(file))
  return { version: DESCRIPTION_VERSION, kind, ...(fields as object) } as Description
}

/** A file as it was described, close-on-exec. */
export function recreate(description: unknown): Fd {
  const check = new Check(description, 'a description of a file')
  const version = check.integer('version', 1, Number.MAX_SAFE_INTEGER)
  if (version > DESCRIPTION_VERSION) {
    throw new LuoError(
      'LUO_RECORDS_VERSION',
      `a description of a file has version ${version}, and ${DESCRIPTION_VERSION} at most is known here`,
    )
  }
  const kind = check.oneOf('kind', Object.keys(KINDS) as ByValueKind[])
  const checked = KINDS[kind].read(check)
  return named(`make a file of kind ${kind} again`, () => KINDS[kind].make(checked))
}

/** What Node's own calls throw, as a LuoError with the errno's name. */
function named<T>(action: string, run: () => T): T {
  try {
    return run()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    throw asLuoError(error, code?.startsWith('E') ? (code as ErrnoName) : 'EIO', action)
  }
}
