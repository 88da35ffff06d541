/** A luod in this process that breaks every rule: it says what a script has, whatever it is asked. */
import { openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { closeAll, Fd } from '../src/sys/fd.js'
import { createMemfd, writeAt } from '../src/sys/memfd.js'
import { Poller, type Registration } from '../src/sys/poller.js'
import { acceptUnix, listenUnix, receive, send, socketPair } from '../src/sys/unix.js'

const MODE = 0o600
const RETRY_MS = 1
/** A client that does not read for so long has closed, or never will. */
const MAX_RETRIES = 2_000

/** Memory of one byte, or another thing; a text is memory with that in it. */
export type HostileFile = 'memory' | 'socket' | 'directory' | 'device' | { text: string }
/**
 * What is sent at once: bytes with files, or with so many memory files. `to`: the connection, in the order in which
 * they came; without it the one that asks.
 */
export type Part = readonly [bytes: string | Uint8Array, files?: number | readonly HostileFile[], to?: number]
/**
 * One part after the other. `times`: and all of them so many times. `close`: and then it closes the connection. `forever`:
 * every later request gets it too.
 */
export interface Answer {
  parts: readonly Part[]
  times?: number
  close?: boolean
  forever?: boolean
}

/**
 * The n-th request, on whatever connection, gets the n-th answer; then nothing more is answered. `patienceMs`: once
 * somebody has come, and it has no answer left, or was not asked for so long, it is gone with all of its connections.
 * Requests are short: each comes as a whole.
 */
export class HostileLuod {
  readonly path: string
  readonly #listener: Fd
  readonly #watched = new Map<Registration, Fd>()
  readonly #connections: Fd[] = []
  readonly #answers: Answer[]
  readonly #patienceMs: number | undefined
  #timer: NodeJS.Timeout | undefined
  #onGone = () => {}
  /** Resolves when it is gone. */
  readonly gone = new Promise<void>((resolve) => {
    this.#onGone = resolve
  })

  constructor(path: string, answers: readonly Answer[], patienceMs?: number) {
    this.path = path
    this.#answers = [...answers]
    this.#patienceMs = patienceMs
    this.#listener = listenUnix(path, MODE)
    this.#watch(this.#listener, () => this.#accept())
    Poller.shared().ref()
  }

  #wait(): void {
    clearTimeout(this.#timer)
    if (this.#patienceMs !== undefined) this.#timer = setTimeout(() => this.close(), this.#patienceMs)
  }

  #watch(fd: Fd, onReadable: (stop: () => void) => void): void {
    const registration: Registration = Poller.shared().add(fd, { read: true, write: false }, () =>
      onReadable(() => this.#drop(registration)),
    )
    this.#watched.set(registration, fd)
  }

  #accept(): void {
    for (let fd = acceptUnix(this.#listener); fd; fd = acceptUnix(this.#listener)) {
      const connection = fd
      this.#wait()
      this.#connections.push(connection)
      let sent = Promise.resolve()
      this.#watch(connection, (stop) => {
        const answer = this.#read(connection, stop)
        if (!answer) return
        sent = sent.then(() => this.#send(connection, answer, stop))
      })
    }
  }

  #read(fd: Fd, stop: () => void): Answer | undefined {
    let got: ReturnType<typeof receive>
    try {
      got = receive(fd)
    } catch {
      // It has closed, with good reason.
      stop()
      return undefined
    }
    if (!got) return undefined
    closeAll(got.fds)
    if (got.bytes.length === 0) {
      stop()
      return undefined
    }
    const answer = this.#answers[0]
    if (!answer?.forever) this.#answers.shift()
    if (!answer && this.#patienceMs !== undefined) this.close()
    else this.#wait()
    return answer
  }

  async #send(fd: Fd, { parts, times = 1, close }: Answer, stop: () => void): Promise<void> {
    try {
      for (let time = 0; time < times && !fd.closed; time++) {
        for (const [bytes, files = 0, to] of parts) {
          await sendPart((to === undefined ? undefined : this.#connections[to]) ?? fd, Buffer.from(bytes), files)
        }
        if (time > 0) this.#wait()
      }
      if (close) stop()
    } catch {
      stop()
    }
  }

  #drop(registration: Registration): void {
    registration.close()
    this.#watched.get(registration)?.close()
    this.#watched.delete(registration)
  }

  /** It is gone. */
  close(): void {
    if (this.#listener.closed) return
    clearTimeout(this.#timer)
    for (const registration of [...this.#watched.keys()]) this.#drop(registration)
    Poller.shared().unref()
    this.#onGone()
  }
}

/** The client has a large buffer or reads; else it has closed. */
async function sendPart(fd: Fd, bytes: Uint8Array, files: number | readonly HostileFile[]): Promise<void> {
  const opened = (typeof files === 'number' ? Array<HostileFile>(files).fill('memory') : files).map(open)
  try {
    let sent = 0
    for (let retries = 0; sent < bytes.length && retries < MAX_RETRIES && !fd.closed; retries++) {
      const more = send(fd, sent === 0 ? bytes : bytes.subarray(sent), sent === 0 ? opened : [])
      sent += more
      if (more === 0) await sleep(RETRY_MS)
      else retries = 0
    }
  } finally {
    closeAll(opened)
  }
}

function open(file: HostileFile): Fd {
  if (file === 'directory' || file === 'device') return Fd.adopt(openSync(file === 'device' ? '/dev/zero' : '/', 'r'))
  if (file === 'socket') {
    const [one, other] = socketPair()
    other.close()
    return one
  }
  const text = typeof file === 'object' ? Buffer.from(file.text, 'latin1') : Buffer.alloc(1)
  const memory = createMemfd('hostile', { size: text.length })
  if (typeof file === 'object' && text.length > 0) writeAt(memory, text, 0)
  return memory
}
