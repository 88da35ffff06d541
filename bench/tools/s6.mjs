/**
 * A client of s6-fdholder-daemon that keeps its connection, so that what is compared is the daemon's work and not the
 * start of a process for each file. Its messages: u32 length and u16 number of descriptors, big-endian, then the
 * content. One answer for each message; 0 is success, anything else an errno.
 */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Poller } from '../../dist/sys/poller.js'
import { connectUnix, receive, send } from '../../dist/sys/unix.js'
import { removeDirectory, start, stop, temporaryDirectory } from './cleanup.mjs'

const DAEMON = '/usr/bin/s6-fdholder-daemon'
const HEADER_BYTES = 6
const START_LIMIT_MS = 5_000
/** TAI64N, 12 bytes: far in the future, and each later than the one before, as its own client makes them. */
const FAR_FUTURE = 0x60000000
const EAGAIN = 11

export class FdHolder {
  #directory
  #process
  #socket
  #registration
  #received = Buffer.alloc(0)
  #fds = []
  #wake = () => {}
  #stamps = 0

  static available() {
    return existsSync(DAEMON)
  }

  static async start(maxFiles) {
    const holder = new FdHolder()
    await holder.#begin(maxFiles)
    return holder
  }

  async #begin(maxFiles) {
    this.#directory = temporaryDirectory('s6')
    const rules = join(this.#directory, 'rules')
    const env = join(rules, 'uid', String(process.getuid()), 'env')
    mkdirSync(env, { recursive: true })
    writeFileSync(join(env, '..', 'allow'), '')
    for (const right of ['SETDUMP', 'GETDUMP', 'LIST']) writeFileSync(join(env, `S6_FDHOLDER_${right}`), '\n')
    for (const right of ['STORE', 'RETRIEVE']) writeFileSync(join(env, `S6_FDHOLDER_${right}_REGEX`), '.\n')
    const path = join(this.#directory, 'socket')
    const args = ['-1', '-n', String(maxFiles), '-T', '0', '-i', rules, path]
    this.#process = start(DAEMON, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    await new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error('s6-fdholder-daemon does not start')), START_LIMIT_MS)
      this.#process.stdout.once('data', resolve)
      this.#process.once('exit', (code) => reject(new Error(`s6-fdholder-daemon ended with ${code}`)))
      this.#process.stdout.once('data', () => clearTimeout(limit))
    })
    this.#socket = connectUnix(path)
    this.#registration = Poller.shared().add(this.#socket, { read: true, write: false }, () => this.#wake())
    Poller.shared().ref()
  }

  /** One descriptor a message, as its clients do it; `underWay` of them before an answer is awaited. */
  async store(fds, name, underWay) {
    let sent = 0
    for (let answered = 0; answered < fds.length; answered++) {
      for (; sent < fds.length && sent - answered < underWay; sent++) {
        this.#send(Buffer.concat([Buffer.from('S'), this.#entry(`${name}-${sent}`)]), [fds[sent]])
      }
      await this.#success()
    }
  }

  /** Its bulk operation: 253 descriptors a message. */
  async setDump(fds, name, perMessage) {
    const head = Buffer.from('!....')
    head.writeUInt32BE(fds.length, 1)
    this.#send(head, [])
    await this.#success()
    for (let at = 0; at < fds.length; at += perMessage) {
      const part = fds.slice(at, at + perMessage)
      const entries = part.map((_, index) => this.#entry(`${name}-${at + index}`))
      this.#send(Buffer.concat([Buffer.from('.'), ...entries]), part)
      await this.#success(EAGAIN)
    }
  }

  /** One; owned by the caller. */
  async retrieve(name) {
    const id = Buffer.from(name)
    this.#send(Buffer.concat([Buffer.from([0x52, 0, id.length]), id, Buffer.from([0])]), [])
    const { fds } = await this.#success()
    return fds[0]
  }

  async remove(name) {
    const id = Buffer.from(name)
    this.#send(Buffer.concat([Buffer.from([0x44, id.length]), id, Buffer.from([0])]), [])
    await this.#success()
  }

  #entry(name) {
    const stamp = Buffer.alloc(12)
    stamp.writeUInt32BE(FAR_FUTURE, 0)
    stamp.writeUInt32BE(this.#stamps++, 4)
    return Buffer.concat([stamp, Buffer.from([name.length]), Buffer.from(name), Buffer.from([0])])
  }

  #send(content, fds) {
    const header = Buffer.alloc(HEADER_BYTES)
    header.writeUInt32BE(content.length, 0)
    header.writeUInt16BE(fds.length, 4)
    const bytes = Buffer.concat([header, content])
    if (send(this.#socket, bytes, fds) !== bytes.length) throw new Error('s6-fdholder-daemon does not read')
  }

  async #success(also) {
    for (;;) {
      const length = this.#received.length < HEADER_BYTES ? undefined : this.#received.readUInt32BE(0)
      if (length !== undefined && this.#received.length >= HEADER_BYTES + length) {
        const fds = this.#fds.splice(0, this.#received.readUInt16BE(4))
        const [code] = this.#received.subarray(HEADER_BYTES)
        this.#received = this.#received.subarray(HEADER_BYTES + length)
        if (code !== 0 && code !== also) throw new Error(`s6-fdholder-daemon answered errno ${code}`)
        return { fds }
      }
      const got = receive(this.#socket)
      if (got && got.bytes.length === 0) throw new Error('s6-fdholder-daemon closed the connection')
      if (got) {
        this.#received = this.#received.length > 0 ? Buffer.concat([this.#received, got.bytes]) : Buffer.from(got.bytes)
        this.#fds.push(...got.fds)
      } else {
        await new Promise((resolve) => {
          this.#wake = resolve
        })
      }
    }
  }

  async close() {
    this.#registration.close()
    Poller.shared().unref()
    this.#socket.close()
    await stop(this.#process)
    removeDirectory(this.#directory)
  }
}
