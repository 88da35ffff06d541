/** `luoctl upgrade`: replaces luod itself, and says when the other one serves. */
import { randomUUID } from 'node:crypto'
import { resolve } from 'node:path'
import { isLuoError, LuoError } from '../errors.js'
import { atMost, type Context, EXIT, type Status, withClient } from './context.js'
import { clean } from './format.js'

/** From the end of the connection to the first answer of the other luod. `--reconnect` sets it too. */
const ANSWER_LIMIT_MS = 10_000
/** It says two things. */
const MAX_REPLIES = 100
const RETRY_MS = 5

export async function upgradeCommand(context: Context, to: string | undefined): Promise<number> {
  const before = await withClient(context, async (_client, status) => status)
  const { successor, ended } = await replace(context, to)
  const status = await answerOf(context, successor, before.pid)
  // It has not ended at all: this was its answer.
  if (status.pid === before.pid) throw ended
  const { takeover } = status
  if (context.json) {
    context.out(
      JSON.stringify({
        ...{ old_pid: before.pid, new_pid: status.pid, old_version: before.version, new_version: status.version },
        pause_ms: takeover?.pause_ms,
      }),
    )
  } else {
    const pause = takeover ? `; nobody was served for ${takeover.pause_ms.toFixed(1)} ms` : ''
    context.out(`luod ${clean(status.version)} (pid ${status.pid}) took the place of pid ${before.pid}${pause}`)
  }
  return EXIT.OK
}

/** The pid of the process that is luod now, and how the one before has ended, as it seems. */
async function replace(context: Context, to: string | undefined): Promise<{ successor: number; ended: unknown }> {
  let successor: number | undefined
  let ended: unknown = new LuoError('LUO_GONE', 'upgrade luod: it goes on')
  const request = { id: randomUUID(), to: to && resolve(to) }
  try {
    // Asked again, the other one would be replaced in its turn.
    await withClient({ ...context, reconnectMs: 0 }, async (client) => {
      for await (const { parameters } of atMost(MAX_REPLIES, client.stream('Upgrade', request), 'upgrade luod')) {
        if (parameters.phase === 'ready') successor = parameters.pid
        if (context.json) context.out(JSON.stringify(parameters))
      }
    })
  } catch (error) {
    // The end of the connection is the end of the luod that was asked; who follows is asked next.
    if (successor === undefined || !isLuoError(error, 'LUO_NO_DAEMON')) throw error
    ended = error
  }
  if (successor === undefined) throw new LuoError('LUO_GONE', 'upgrade luod: it ended, and named no other process')
  return { successor, ended }
}

/** The first answer of this process, or of the one that it was to replace. */
async function answerOf(context: Context, successor: number, before: number): Promise<Status> {
  const end = performance.now() + (context.answerMs ?? ANSWER_LIMIT_MS)
  for (;;) {
    let failure: unknown
    try {
      const status = await withClient(context, async (_client, status) => status)
      if (status.pid === successor || status.pid === before) return status
      failure = new LuoError('LUO_GONE', `upgrade luod: pid ${status.pid} answers, and pid ${successor} should`)
    } catch (error) {
      failure = error
    }
    if (performance.now() > end) throw failure
    await new Promise((again) => setTimeout(again, RETRY_MS))
  }
}
