/** `server.listen` as a promise, with what an application asked `serve` for. */
import type { Server } from 'node:net'
import type { ServeOptions } from './types.js'

export function listen(server: Server, { port, host, path, backlog }: ServeOptions): Promise<void> {
  // A member that is there and undefined counts as given: `path` would be ignored.
  const where = path === undefined ? { port: port ?? 0, ...(host === undefined ? {} : { host }) } : { path }
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ ...where, ...(backlog === undefined ? {} : { backlog }) }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}
