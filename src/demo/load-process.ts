/** The harness's side of the load generator's process: calls with answers over IPC. A dead process fails every call. */
import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { LoadMethods } from './load-main.js'

interface Reply {
  id: number
  result?: unknown
  error?: string
}

export class LoadProcess {
  readonly #child: ChildProcess
  readonly #waiting = new Map<number, (reply: Reply) => void>()
  #calls = 0
  #ended = false

  constructor() {
    this.#child = fork(fileURLToPath(new URL('load-main.js', import.meta.url)), { stdio: ['ignore', 2, 2, 'ipc'] })
    this.#child.on('message', (reply: Reply) => this.#waiting.get(reply.id)?.(reply))
    this.#child.once('exit', () => {
      this.#ended = true
      for (const [id, settle] of this.#waiting) settle({ id, error: 'the load generator has ended' })
    })
  }

  call<M extends keyof LoadMethods>(
    method: M,
    ...[argument]: Parameters<LoadMethods[M]>
  ): Promise<Awaited<ReturnType<LoadMethods[M]>>> {
    const id = ++this.#calls
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(new Error(`load generator, ${method}: it has ended`))
      this.#waiting.set(id, (reply) => {
        this.#waiting.delete(id)
        if (reply.error === undefined) resolve(reply.result as Awaited<ReturnType<LoadMethods[M]>>)
        else reject(new Error(`load generator, ${method}: ${reply.error}`))
      })
      this.#child.send({ id, method, argument })
    })
  }

  kill(): void {
    this.#child.kill('SIGKILL')
  }
}
