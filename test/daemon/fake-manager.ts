/**
 * A service manager for tests, as far as notifications go: it takes what sd_notify(3) sends, keeps files, answers
 * barriers, and starts a process with what it keeps. As the real one does, it drops files over its limit without a
 * word, and one of an open file that it has already.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { sameOpenFile } from '../../src/sys/file-info.js'
import { Poller, type Registration } from '../../src/sys/poller.js'
import { AF, bindSocket, openSocket, SOCK } from '../../src/sys/socket.js'
import { receive, unixAddress } from '../../src/sys/unix.js'

interface Kept {
  name: string
  fd: Fd
}

export class FakeManager implements Disposable {
  readonly path: string
  readonly limit: number
  /** Every message that brought no file to be kept, in order. */
  readonly messages: string[] = []
  readonly kept: Kept[] = []
  readonly #socket: Fd
  #reading: Registration | undefined
  /** As one that is busy: nothing is read until `resume`. */
  #paused = false

  constructor(path: string, limit = 512) {
    this.path = path
    this.limit = limit
    this.#socket = openSocket(AF.unix, SOCK.datagram)
    const address = unixAddress(path)
    bindSocket(this.#socket, address, path)
    this.resume()
  }

  get names(): string[] {
    return this.kept.map(({ name }) => name)
  }

  pause(): void {
    this.#paused = true
    this.#reading?.close()
    this.#reading = undefined
  }

  resume(): void {
    this.#paused = false
    this.#reading ??= Poller.shared().add(this.#socket, { read: true, write: false }, () => this.read())
  }

  /** Everything that is there now. */
  read(): void {
    for (let got = receive(this.#socket); got && !this.#paused; got = receive(this.#socket)) {
      this.#take(Buffer.from(got.bytes).toString(), got.fds)
    }
  }

  #take(text: string, fds: Fd[]): void {
    const fields = new Map(text.split('\n').map((line) => line.split('=', 2) as [string, string]))
    const name = fields.get('FDNAME') ?? 'stored'
    if (fields.has('FDSTORE')) {
      for (const fd of fds) this.#keep({ name, fd })
      return
    }
    this.messages.push(text.trim())
    if (fields.has('FDSTOREREMOVE')) {
      const removed = this.kept.filter((each) => each.name === name)
      this.kept.splice(0, this.kept.length, ...this.kept.filter((each) => each.name !== name))
      closeAll(removed.map(({ fd }) => fd))
    }
    // A barrier is answered by closing its file.
    closeAll(fds)
  }

  #keep(file: Kept): void {
    const known = this.kept.some(({ fd }) => sameOpenFile(fd, file.fd))
    if (known || this.kept.length >= this.limit) file.fd.close()
    else this.kept.push(file)
  }

  /** A kexec of systemd 261, with sessions that are in the next kernel; the records stand for memory files. */
  cross(): void {
    const crosses = ({ name }: Kept) => name.startsWith('luo/kexec/') || name === 'luo/records'
    const lost = this.kept.filter((each) => !crosses(each))
    this.kept.splice(0, this.kept.length, ...this.kept.filter(crosses))
    closeAll(lost.map(({ fd }) => fd))
  }

  /** A process of the service, with what is kept; its output is piped. */
  start(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): ChildProcess {
    // The variable holds the process's own id, which nobody knows before it is there.
    const script = 'LISTEN_PID=$$ exec "$0" "$@"'
    return spawn('/bin/sh', ['-c', script, command, ...args], {
      env: {
        ...env,
        NOTIFY_SOCKET: this.path,
        FDSTORE: String(this.limit),
        LISTEN_FDS: String(this.kept.length),
        LISTEN_FDNAMES: this.names.join(':'),
      },
      stdio: ['ignore', 'pipe', 'inherit', ...this.kept.map(({ fd }) => fd.number)],
    })
  }

  [Symbol.dispose](): void {
    this.#reading?.close()
    this.#socket.close()
    closeAll(this.kept.map(({ fd }) => fd))
  }
}
