/**
 * The line between luod and a process that can take its place: a pair of packet sockets. Down it goes what the vault
 * has and every change of it, and at last who is luod from here on; up it come the other's answers.
 *
 *     down   put KEYS, with as many files · remove KEYS · synced COUNT · heir, with one file or none
 *            connections COUNT, with as many · go
 *     up     hello (version, what it reads and takes) · ready · failed (code, message) · serving
 *
 * What was sent is in the other's queue, files included, whatever becomes of the sender: so a change is safe as soon as
 * it is sent, and nobody waits for an answer. The reader takes what comes at once, so that files under way stay far
 * below the kernel's limit; one that does not is given up after STALL_MS (LUO_SLOW_PEER). A message that is not of this
 * table is LUO_PROTOCOL, and the line is closed.
 */
import { isLuoError, isShortage, LuoError } from '../errors.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { Poller, waitWritable } from '../sys/poller.js'
import { type Received, receive, send } from '../sys/unix.js'
import { MAX_VAULT_BATCH, type VaultEntry, type VaultSink } from './vault.js'

/** How long the sender waits, and serves nobody, for a reader that does not read. */
const STALL_MS = 250
/** The kernel does not tell when fewer files are under way: it is asked again this often. */
const RETRY_MS = 1
/** Taken in one turn of the loop. */
const MAX_MESSAGES = 64
const MAX_KEY_BYTES = 200
/** Failures to receive for want of memory, one after the other: what has come is there still. */
const MAX_SHORTAGES = 100

export type DownMessage =
  | { put: string[] }
  | { remove: string[] }
  | { synced: number }
  /**
   * When luod dies the other one is next: with a file, if it can claim that (`takeover.ts`), else it is the only one.
   */
  | { heir: true }
  /** Copies of connections of clients, of which nothing depends (`connection-copies.ts`). */
  | { connections: number }
  /** `pausedAt`: when the last request was taken, of the monotonic clock, in nanoseconds. */
  | { go: { pausedAt: string } }

/** A build that knows nothing of the last three does not say them. */
export interface Hello {
  version: string
  pid: number
  /** Versions of the records that it reads. */
  records: number[]
  /** The same of the state of emulated machines. */
  machines: number[]
  /** It takes copies of connections. */
  connections: boolean
  /** It can be next beside another one. */
  claims: boolean
}

export type UpMessage =
  | { hello: Hello }
  | { ready: { entries: number } }
  | { failed: { code: string; message: string } }
  | { serving: true }

/** The side of luod. Owns `fd`. */
export class MirrorSender implements VaultSink {
  readonly #fd: Fd
  readonly #watch: Line

  /** `onMessage` gets what comes up; `onClosed` is called once, when the other side has closed or broken the line. */
  constructor(fd: Fd, options: { onMessage(message: UpMessage): void; onClosed(error?: LuoError): void }) {
    this.#fd = fd
    this.#watch = listen(fd, {
      onMessage: (message, fds) => {
        closeAll(fds)
        options.onMessage(checkUp(message))
      },
      onClosed: (error) => {
        this.close()
        options.onClosed(error)
      },
    })
  }

  put(entries: readonly VaultEntry[]): void {
    this.tell(
      { put: entries.map(({ key }) => key) },
      entries.map(({ fd }) => fd),
    )
  }

  /** The same, unless there is no room for it now. */
  tryPut(entries: readonly VaultEntry[]): boolean {
    const bytes = encode({ put: entries.map(({ key }) => key) })
    const fds = entries.map(({ fd }) => fd)
    return send(this.#fd, bytes, fds) > 0
  }

  remove(keys: readonly string[]): void {
    this.tell({ remove: [...keys] })
  }

  /** Unless there is no room for them now. */
  tryConnections(fds: readonly Fd[]): boolean {
    return send(this.#fd, encode({ connections: fds.length }), fds) > 0
  }

  /** Sent when this returns. */
  tell(message: DownMessage, fds: readonly Fd[] = []): void {
    transmit(this.#fd, message, fds)
  }

  close(): void {
    this.#watch.close()
    this.#fd.close()
  }
}

/** Gets what comes and goes, in order, and owns it. */
export interface MirrorTarget {
  /** In place of what is there under the key. */
  put(key: string, fd: Fd): void
  remove(key: string): void
}

export interface ReceiverOptions {
  into: MirrorTarget
  /** Something has come or gone. */
  onChange?(): void
  /** From here on this one is next. `claim`, owned by whoever gets it: so may another one be; none: nobody else is. */
  onHeir(claim: Fd | undefined): void
  /** All that there was has come: `count` descriptors. */
  onSynced(count: number): void
  onGo(go: { pausedAt: string }): void
  /** Owned by whoever gets them. `cutOff`: more of them came, and are lost. */
  onConnections(fds: Fd[], cutOff: boolean): void
  /** Nothing more comes, and `go` did not. `error`: what came made no sense. */
  onClosed(error?: LuoError): void
}

/** The side of whoever can take luod's place. Owns `fd`. */
export class MirrorReceiver {
  readonly #fd: Fd
  readonly #watch: Line
  readonly #options: ReceiverOptions
  #over = false

  constructor(fd: Fd, options: ReceiverOptions) {
    this.#fd = fd
    this.#options = options
    this.#watch = listen(fd, {
      onMessage: (message, fds, cutOff) => this.#received(checkDown(message, fds, cutOff), fds, cutOff),
      onClosed: (error) => {
        if (this.#over) return
        this.#over = true
        options.onClosed(error)
      },
    })
  }

  /** Nothing comes any more. */
  get closed(): boolean {
    return this.#over
  }

  tell(message: UpMessage): void {
    transmit(this.#fd, message, [])
  }

  /** Takes all that has come. Only for a line whose other side sends no more. */
  drain(): void {
    while (!this.#fd.closed && this.#watch.read());
  }

  close(): void {
    this.#over = true
    this.#watch.close()
    this.#fd.close()
  }

  #received(message: DownMessage, fds: Fd[], cutOff: boolean): void {
    const { into } = this.#options
    if ('put' in message) {
      message.put.forEach((key, index) => {
        const fd = fds[index]
        if (fd) into.put(key, fd)
      })
      this.#options.onChange?.()
    } else if ('remove' in message) {
      for (const key of message.remove) into.remove(key)
      this.#options.onChange?.()
    } else if ('synced' in message) this.#options.onSynced(message.synced)
    else if ('heir' in message) this.#options.onHeir(fds[0])
    else if ('connections' in message) this.#options.onConnections(fds, cutOff)
    else {
      this.#over = true
      this.#options.onGo(message.go)
    }
  }
}

function encode(message: DownMessage | UpMessage): Buffer {
  return Buffer.from(JSON.stringify(message))
}

function transmit(socket: Fd, message: DownMessage | UpMessage, fds: readonly Fd[]): void {
  const bytes = encode(message)
  const end = performance.now() + STALL_MS
  while (send(socket, bytes, fds) === 0) {
    const left = end - performance.now()
    if (left <= 0) {
      throw new LuoError(
        'LUO_SLOW_PEER',
        `send ${fds.length} files to the other luod: it takes nothing for ${STALL_MS} ms`,
      )
    }
    // Writable, and still refused: too many files are under way, of which nobody tells.
    if (waitWritable(socket, left)) pause(RETRY_MS)
  }
}

const nothing = new Int32Array(new SharedArrayBuffer(4))

function pause(ms: number): void {
  Atomics.wait(nothing, 0, 0, ms)
}

interface LineOptions {
  /** Owns the files; what it throws closes the line. `cutOff`: more files came, and are lost. */
  onMessage(message: unknown, fds: Fd[], cutOff: boolean): void
  onClosed(error?: LuoError): void
}

interface Line {
  /** Answers whether there may be more. */
  read(): boolean
  close(): void
}

function listen(fd: Fd, { onMessage, onClosed }: LineOptions): Line {
  let open = true
  const close = () => {
    open = false
    watch.close()
  }
  let shortages = 0
  const read = () => {
    for (let count = 0; count < MAX_MESSAGES && open && !fd.closed; count++) {
      let got: Received | undefined
      try {
        got = receive(fd)
        if (!got) return false
        shortages = 0
        if (got.bytes.length === 0) {
          closeAll(got.fds)
          close()
          onClosed()
          return false
        }
        onMessage(JSON.parse(Buffer.from(got.bytes).toString()), got.fds, got.truncated)
      } catch (error) {
        closeAll(got?.fds ?? [])
        // The other side died before it had read everything of ours: told once, and before what it had sent.
        if (!got && isLuoError(error, 'ECONNRESET')) continue
        if (!got && isShortage(error) && ++shortages < MAX_SHORTAGES) return open
        close()
        onClosed(error instanceof LuoError ? error : unknownMessage('it is not JSON', error))
        return false
      }
    }
    return open
  }
  const watch = Poller.shared().add(fd, { read: true, write: false }, read)
  return { read, close }
}

function unknownMessage(why: string, cause?: unknown): LuoError {
  return new LuoError('LUO_PROTOCOL', `read a message of the other luod: ${why}`, { cause })
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function areKeys(value: unknown): value is string[] {
  const isKey = (key: unknown) => typeof key === 'string' && key.length > 0 && key.length <= MAX_KEY_BYTES
  return Array.isArray(value) && value.length <= MAX_VAULT_BATCH && value.every(isKey)
}

function checkDown(message: unknown, fds: readonly Fd[], cutOff: boolean): DownMessage {
  if (!isRecord(message)) throw unknownMessage('it is no object')
  const { put, remove, synced, heir, connections, go } = message
  if (cutOff && connections === undefined) {
    throw new LuoError('EMFILE', 'receive files of the other luod: some are lost; raise the limit')
  }
  if (heir === true && fds.length <= 1) return { heir }
  if (typeof connections === 'number' && (cutOff || connections === fds.length)) return { connections }
  const files = put === undefined ? 0 : areKeys(put) ? put.length : -1
  if (files !== fds.length) throw unknownMessage(`${fds.length} files came with it, and ${files} were named`)
  if (put !== undefined) return { put: put as string[] }
  if (areKeys(remove)) return { remove }
  if (typeof synced === 'number' && Number.isSafeInteger(synced)) return { synced }
  if (isRecord(go) && typeof go.pausedAt === 'string' && /^\d{1,20}$/.test(go.pausedAt)) {
    return { go: { pausedAt: go.pausedAt } }
  }
  throw unknownMessage(`it has ${Object.keys(message).slice(0, 5).join(', ') || 'nothing'}`)
}

function areNumbers(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((one) => typeof one === 'number')
}

function checkUp(message: unknown): UpMessage {
  if (!isRecord(message)) throw unknownMessage('it is no object')
  const { hello, ready, failed, serving } = message
  if (isRecord(hello)) {
    const { version, pid, records, machines = [], connections, claims } = hello
    if (typeof version === 'string' && typeof pid === 'number' && areNumbers(records) && areNumbers(machines)) {
      const can = { connections: connections === true, claims: claims === true }
      return { hello: { version, pid, records, machines, ...can } }
    }
  }
  if (isRecord(ready) && typeof ready.entries === 'number') return { ready: { entries: ready.entries } }
  if (isRecord(failed) && typeof failed.code === 'string' && typeof failed.message === 'string') {
    return { failed: { code: failed.code, message: failed.message } }
  }
  if (serving === true) return { serving }
  throw unknownMessage(`it has ${Object.keys(message).slice(0, 5).join(', ') || 'nothing'}`)
}
