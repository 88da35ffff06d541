/**
 * What a process that stands by does once it has everything: it answers some requests of its own, where nobody else can
 * ask. Code that never ran is several times slower, and after a takeover all clients come at once. So it has run, and
 * V8 has compiled it, before it is needed.
 *
 * Only the wire is rehearsed, which all requests have in common: there is no state, and nothing is told. It ends as
 * soon as this process is to be luod. What fails in it is of no consequence: then it is as slow as it would have been.
 */
import { rmSync } from 'node:fs'
import { LuoError } from '../errors.js'
import { parseInterface } from '../protocol/idl.js'
import { INTERFACE_TEXT } from '../protocol/interface.js'
import { listenUnix } from '../sys/unix.js'
import { VarlinkClient } from '../wire/client.js'
import { type Handlers, Server } from '../wire/server.js'

/** A successor in an upgrade is luod by then, and luod has what it has to do at once behind it. */
const LATER_MS = 200
/** After that many it hardly gets quicker. Few at once, for what comes over the line meanwhile is taken in between. */
const ROUNDS = 40
const CONNECTIONS = 8
const PAUSE_MS = 2
const UNDER_WAY = { files: 1, bytes: 64 * 1024 }

/** `path`: a socket is there for the moment that it takes to connect to it. */
export async function rehearse(path: string, isOver: () => boolean): Promise<void> {
  await pause(LATER_MS)
  try {
    for (let round = 0; round < ROUNDS && !isOver(); round++) {
      await rehearseRound(path)
      await pause(PAUSE_MS)
    }
  } catch {
    // See above.
  }
}

async function rehearseRound(path: string): Promise<void> {
  const listener = listenUnix(path)
  let server: Server
  let clients: Promise<VarlinkClient>[]
  try {
    server = new Server({
      ...{ listener, handlers: handlers(), version: '', maxConnections: CONNECTIONS, maxUnderWay: UNDER_WAY },
      ...{ onDefect: () => {}, onRefused: () => {} },
    })
    // Connected when this returns, although the promises are not resolved yet.
    clients = Array.from({ length: CONNECTIONS }, () => VarlinkClient.connect(path))
  } catch (error) {
    listener.close()
    throw error
  } finally {
    rmSync(path)
  }
  try {
    await Promise.all(clients.map(ask))
  } finally {
    server.close()
  }
}

async function ask(connecting: Promise<VarlinkClient>): Promise<void> {
  const client = await connecting
  try {
    await client.call('Sessions', { limit: 1 })
  } finally {
    client.close()
  }
}

/** One answers, and nobody asks for another one. */
function handlers(): Handlers {
  const refuse = () => {
    throw new LuoError('LUO_WRONG_STATE', 'this luod only stands by')
  }
  const all = [...parseInterface(INTERFACE_TEXT).methods.keys()].map((method) => [method, refuse])
  return {
    ...(Object.fromEntries(all) as unknown as Handlers),
    Sessions: () => ({ output: { sessions: [], total: 0 } }),
  }
}

/** Nobody has to stay for it. */
function pause(ms: number): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, ms).unref())
}
