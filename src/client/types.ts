/** What applications see: `join` answers a `Live`. */
import type { Server, Socket } from 'node:net'
import { LuoError } from '../errors.js'

export interface JoinOptions {
  /** Name of the workload; else $LUO_WORKLOAD, else this process is no workload. */
  workload?: string | undefined
  /** Socket of luod; else $LUO_SOCKET, else the place that fits the user. */
  socket?: string | undefined
  /** Formats of the state that this version can read (`store/1`). Without it, every one. */
  accepts?: readonly string[] | undefined
  /** Workloads that this one needs, by name: the order of an update of several at once. */
  after?: readonly string[] | undefined
  /** Milliseconds for which luod keeps the state of a crashed process for its restart; else as `luoctl run` said. */
  keepMs?: number | undefined
  /** What drains after an update may take this many milliseconds. Default 30,000. */
  drainMs?: number | undefined
  /** Ends this process after an update, when it has drained. Default true. */
  exitWhenReleased?: boolean | undefined
  /**
   * How long luod may be away, in milliseconds, such as when it is upgraded or restarted: this version serves on, calls
   * wait, and it is found again. After that they fail with LUO_GONE. A version that an update holds still waits for
   * half of it, then goes on. 0: not at all. Default 10,000.
   */
  reconnectMs?: number | undefined
  /**
   * The same of a version that has let go for a kexec, in milliseconds: luod may have ended for it, and what would be
   * written after that is lost. It goes on when a luod says so, or does not know of the kexec.
   * Infinity: as long as a timer can wait, 24 days. Default 600,000.
   */
  kexecWaitMs?: number | undefined
}

export interface MemoryOptions {
  /** Bytes, if it has to be made. Handed-over memory has the size that it has. */
  size: number
  /** How far `grow` may go, in bytes. Default `size`. */
  max?: number | undefined
  /** The version of what will be in it, such as `store/1`. */
  format?: string | undefined
}

export interface Memory {
  readonly name: string
  /** The version of what is in it, as it was made. */
  readonly format: string | undefined
  /** Bytes. */
  readonly size: number
  /** All of it. The same object for the life of the memory, but for `grow`. More than 4 GiB: use `window`. */
  readonly buffer: ArrayBuffer
  /**
   * A part of it, 4 GiB at most. A new window costs a garbage collection; of memory of more than 4 GiB a successor has
   * those of 2 GiB, each at a multiple of 2 GiB, before anybody waits for it.
   */
  window(offset: number, length: number): ArrayBuffer
  /** Makes it longer, up to `max`; answers the new buffer. Buffers handed out before have length 0 then. */
  grow(size: number): ArrayBuffer
}

export interface ServeOptions {
  port?: number | undefined
  host?: string | undefined
  /** A Unix socket. */
  path?: string | undefined
  backlog?: number | undefined
  /** How long requests under way may take at an update before it is refused, in milliseconds. Default 5,000. */
  settleMs?: number | undefined
  /**
   * A GET, HEAD, OPTIONS or TRACE that has been under way for this many milliseconds is not waited for at an update: the
   * old version answers it while it drains. Nor is a request of which no more than a part comes in that time. For HTTP.
   * Default 1,000.
   */
  longMs?: number | undefined
  /** For servers that are not HTTP: whether this connection may move now. Without it they drain. */
  movable?: ((socket: Socket) => boolean) | undefined
}

/** A u64 of the application's choice. */
export type Token = bigint | number | string

export interface SessionOptions {
  /**
   * Milliseconds for which it waits, with its files, when nobody has its descriptor any more. Default 0: it ends then.
   * In a workload it ends with the workload's own state at the latest, and waits for a restart as that does.
   */
  keepMs?: number | undefined
}

export interface AdoptSessionOptions {
  /** Socket of luod; else $LUO_SOCKET, else the place that fits the user. */
  socket?: string | undefined
  /** How long luod may be away, in milliseconds; calls wait meanwhile. Default 10,000. */
  reconnectMs?: number | undefined
}

export interface OpenSessionOptions extends SessionOptions, AdoptSessionOptions {}

/** A named container of files, each at a token. It lives as long as somebody has its descriptor. */
export interface LiveSession {
  readonly name: string
  /** Its descriptor, to be passed on, such as in the `stdio` of a child; undefined without luod. It stays open here. */
  readonly fd: number | undefined
  /** Has luod hold the file too, which stays yours. */
  preserve(token: Token, file: number | { readonly fd: number }, format?: string, options?: FileOptions): Promise<void>
  /** All of them or none. */
  unpreserve(...tokens: Token[]): Promise<void>
  /** Another descriptor of the preserved file, yours to close; without luod the one that you preserved. */
  retrieve(token: Token): Promise<number>
  /** In the order in which they were preserved. */
  tokens(): Promise<bigint[]>
  /** This process does not hold it any more. The last one to do so ends it, or lets it wait (`keepMs`). */
  close(): void
}

export type HookName = 'prepare' | 'freeze' | 'resume' | 'released'

export interface FileOptions {
  /**
   * `update`: it is for updates only, and a kexec leaves it behind. A luod that has the kernel's device refuses a file
   * that cannot cross a kexec (ENOENT), unless it is.
   */
  until?: 'update' | undefined
}

export interface UpdateInfo {
  update: string
  /**
   * What comes: another version, or, with kexec, another kernel, which ends every process and every connection. Then
   * nothing is handed over but what was preserved, and `resume` is all that may follow in this process.
   */
  purpose: 'update' | 'kexec'
  /** How long this version has to let go, in milliseconds. */
  deadlineMs: number
}

export interface Hooks {
  /**
   * An update has come, and everything is still served. Throw a `Refusal` to refuse it. What takes long belongs here.
   */
  prepare: (info: UpdateInfo) => unknown
  /** Nothing is served any more: the last moment to write what must be carried over. */
  freeze: (info: UpdateInfo) => unknown
  /** The update did not happen; everything is as it was. */
  resume: (reason: string) => unknown
  /** The new version has taken over. This one only drains. */
  released: () => unknown
}

export interface Live {
  /** Whether luod holds the state, and updates are possible. */
  readonly active: boolean
  /** Whether there is state to take over. */
  readonly successor: boolean
  /** new: first start; update: taking over from a running version; crash: taking over from a dead one. */
  readonly origin: 'new' | 'update' | 'crash'
  readonly workload: string | undefined
  /**
   * Memory by name: made, all zero, or handed over. A successor may write at once, and what it writes before `ready`
   * is only its own and vanishes at `ready`: the old version may still go on.
   */
  memory(name: string, options: MemoryOptions): Promise<Memory>
  /** New memory beside handed-over memory of the same name, for a new format. It takes its place at `ready`. */
  replace(name: string, options: MemoryOptions): Promise<Memory>
  /** Listens, or goes on with the listener and the idle connections that were handed over, from `ready` on. */
  serve(server: Server, options: ServeOptions): Promise<void>
  /**
   * An open file by name: the one that was handed over, else `file` (which stays yours). Answers its number, or
   * undefined when there is neither.
   */
  file(name: string, file?: number | { readonly fd: number }, options?: FileOptions): Promise<number | undefined>
  /**
   * A session of this workload, for files at tokens of your choice: made, or the one of this name that was handed over,
   * which can be read at once and changed from `ready` on. Its name is unique among all sessions of the user.
   */
  session(name: string, options?: SessionOptions): Promise<LiveSession>
  /** First start: this version serves. Successor: commit; from here on the state is this version's. */
  ready(): Promise<void>
  on<N extends HookName>(event: N, hook: Hooks[N]): Live
  /** Gives up the state and the workload: a planned end. */
  leave(): Promise<void>
  /** Ends the connection to luod; as after a crash, the state waits for a restart if it is kept. */
  close(): Promise<void>
}

/** Thrown by a `prepare` or `freeze` hook: the update is refused for this reason, and the old version goes on. */
export class Refusal extends LuoError {
  constructor(reason: string) {
    super('LUO_REFUSED', reason)
  }
}
