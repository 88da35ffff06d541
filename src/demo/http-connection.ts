/**
 * One HTTP/1.1 connection over a raw socket, for measuring: it is opened once, never again, and tells its owner when it
 * ends without having been asked to. HTTP client libraries reconnect behind the caller's back, and a connection that an
 * update lost would look like a slow request.
 *
 * One request at a time. It fails with the reason when the connection ends before the whole answer is there.
 */
import { connect, type Socket } from 'node:net'

export interface Answer {
  status: number
  body: Buffer
}

interface Pending {
  resolve: (answer: Answer) => void
  reject: (error: Error) => void
}

const HEAD_END = Buffer.from('\r\n\r\n')
const NO_BODY = new Set([204, 304])

export class HttpConnection {
  readonly #socket: Socket
  readonly #onLost: (reason: string) => void
  #pending: Pending | undefined
  #received: Buffer = Buffer.alloc(0)
  #reason = 'closed by the peer'
  #open = true

  private constructor(socket: Socket, onLost: (reason: string) => void) {
    this.#socket = socket
    this.#onLost = onLost
    socket.on('data', (chunk) => this.#take(chunk))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      this.#reason = error.code ?? error.message
    })
    socket.on('close', () => this.#closed())
  }

  static open(port: number, onLost: (reason: string) => void): Promise<HttpConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port, noDelay: true })
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.off('error', reject)
        resolve(new HttpConnection(socket, onLost))
      })
    })
  }

  get open(): boolean {
    return this.#open
  }

  get idle(): boolean {
    return this.#open && this.#pending === undefined
  }

  /** `body` is sent with PUT only. */
  request(method: 'GET' | 'PUT', path: string, body = ''): Promise<Answer> {
    if (!this.idle) return Promise.reject(new Error(this.#open ? 'a request is under way' : this.#reason))
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject }
      const rest = method === 'PUT' ? `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}` : '\r\n'
      this.#socket.write(`${method} ${path} HTTP/1.1\r\nhost: kv\r\n${rest}`)
    })
  }

  /** Closes on purpose: not a loss. */
  close(): void {
    this.#open = false
    this.#reason = 'closed on purpose'
    this.#socket.destroy()
  }

  #take(chunk: Buffer): void {
    this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk])
    const headEnd = this.#received.indexOf(HEAD_END)
    if (headEnd < 0) return
    const head = this.#received.toString('latin1', 0, headEnd)
    const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1])
    const length = NO_BODY.has(status) ? 0 : Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1])
    const start = headEnd + HEAD_END.length
    if (this.#pending === undefined || Number.isNaN(status) || Number.isNaN(length)) {
      this.#reason = `an answer that makes no sense: ${JSON.stringify(head.slice(0, 80))}`
      this.#socket.destroy()
      return
    }
    if (this.#received.length < start + length) return
    const body = this.#received.subarray(start, start + length)
    this.#received = this.#received.subarray(start + length)
    const { resolve } = this.#pending
    this.#pending = undefined
    resolve({ status, body })
  }

  #closed(): void {
    const onPurpose = !this.#open
    this.#open = false
    if (!onPurpose) this.#onLost(this.#reason)
    this.#pending?.reject(new Error(this.#reason))
    this.#pending = undefined
  }
}
