/** A luod of the benchmark's own, and a client that has joined a workload there. */
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { VarlinkClient } from '../../dist/wire/client.js'
import { removeDirectory, start, stop, temporaryDirectory } from './cleanup.mjs'

export const MAX_FDS = 253
const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const START_LIMIT_MS = 10_000

export class Luod {
  #directory
  #process
  #clients = []

  /** Resolves when clients can connect; `startMs` says how long that took. */
  static async start(args = []) {
    const luod = new Luod()
    await luod.#begin(args)
    return luod
  }

  async #begin(args) {
    this.#directory = temporaryDirectory('luod')
    this.socket = join(this.#directory, 'luod.sock')
    const startedAt = performance.now()
    const all = [LUOD, '--socket', this.socket, '--ready-fd', '3', ...args]
    this.#process = start(process.execPath, all, { stdio: ['ignore', 'ignore', 'pipe', 'pipe'] })
    let log = ''
    this.#process.stderr.on('data', (chunk) => {
      log = (log + chunk).slice(-4_000)
    })
    await new Promise((resolve, reject) => {
      const limit = setTimeout(() => reject(new Error(`luod does not start: ${log}`)), START_LIMIT_MS)
      this.#process.stdio[3].once('data', resolve)
      this.#process.once('exit', (code) => reject(new Error(`luod ended with ${code}: ${log}`)))
      this.#process.once('exit', () => clearTimeout(limit))
      this.#process.stdio[3].once('data', () => clearTimeout(limit))
    })
    this.startMs = performance.now() - startedAt
    this.pid = this.#process.pid
  }

  async connect() {
    const client = await VarlinkClient.connect(this.socket)
    this.#clients.push(client)
    return client
  }

  /** A client that has joined; its session ends with `close`. */
  async join(workload) {
    const client = await this.connect()
    const { parameters, fds } = await client.call('Join', { id: randomUUID(), workload, accepts: ['*'] })
    return { client, session: parameters.session, member: parameters.member, sessionFd: fds[0] }
  }

  async close() {
    for (const client of this.#clients) client.close()
    await stop(this.#process)
    removeDirectory(this.#directory)
  }
}

/** Preserves `fds` under tokens that begin with `first`, in messages of `perMessage`. */
export async function preserve(client, session, fds, first, perMessage = MAX_FDS) {
  const calls = []
  for (let at = 0; at < fds.length; at += perMessage) {
    const part = fds.slice(at, at + perMessage)
    const files = part.map((_, index) => ({ token: String(first + at + index), fd: index }))
    calls.push(client.call('Preserve', { id: randomUUID(), session, files, fds: part.length }, part))
    // A few under way at once: luod works on one while the next is written.
    if (calls.length >= 4) await calls.shift()
  }
  await Promise.all(calls)
}
