/**
 * `luoctl sessions` and `luoctl release`: what is beneath the workloads, and ending by hand what nobody needs. To
 * release drops state, so it is asked about on a terminal; without one it is refused unless --yes says that it is
 * meant.
 */
import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline/promises'
import { LuoError } from '../errors.js'
import type { File, Session } from '../protocol/types.js'
import type { ReconnectingClient } from '../wire/reconnecting.js'
import { usageError } from './arguments.js'
import { type Context, EXIT, withClient } from './context.js'
import { clean, contentOf, sessionRows } from './format.js'

/** Of a list that comes in pages: some hundred thousand sessions or files. */
const MAX_PAGES = 1_000
const MAX_CHARACTERS = 32 * 1024 * 1024

export async function sessionsCommand(context: Context): Promise<number> {
  const sessions = await withClient(context, allSessions)
  if (context.json) context.out(JSON.stringify({ sessions }))
  else for (const line of sessionRows(sessions)) context.out(line)
  return EXIT.OK
}

export interface ReleaseRequest {
  /** Name or id. */
  session: string
  force: boolean
  yes: boolean
}

export async function releaseCommand(
  context: Context,
  { session: wanted, force, yes }: ReleaseRequest,
): Promise<number> {
  return withClient(context, async (client) => {
    const sessions = await allSessions(client)
    const session = findSession(sessions, wanted)
    const what = `${session.name} (session ${session.session}, ${session.custody})`
    if (
      !yes &&
      !(await confirmed(`${clean(what)} holds ${contentOf(contentWith(session, sessions))}; release? [y/N] `))
    ) {
      context.err(`luoctl: ${clean(session.name)}: nothing was released`)
      return EXIT.FAILED
    }
    const request = { id: randomUUID(), session: session.session, force }
    const { files } = (await client.call('ReleaseSession', request)).parameters
    context.out(
      context.json
        ? JSON.stringify({ ...session, files })
        : `${clean(session.name)}: ${files} ${files === 1 ? 'file' : 'files'} released`,
    )
    return EXIT.OK
  })
}

/** All files of a session. */
export function filesOf(client: ReconnectingClient, { session }: Session): Promise<File[]> {
  return allPages('Files', async (offset) => {
    const { files, total } = (await client.call('Files', { session, offset })).parameters
    return { page: files, total }
  })
}

function allSessions(client: ReconnectingClient): Promise<Session[]> {
  return allPages('Sessions', async (offset) => {
    const { sessions, total } = (await client.call('Sessions', { offset })).parameters
    return { page: sessions, total }
  })
}

/** LUO_PROTOCOL when there is always more. */
async function allPages<T>(
  method: string,
  ask: (offset: number) => Promise<{ page: T[]; total: number }>,
): Promise<T[]> {
  const all: T[] = []
  let characters = 0
  for (let pages = 1; ; pages++) {
    const { page, total } = await ask(all.length)
    all.push(...page)
    if (page.length === 0 || all.length >= total) return all
    characters += JSON.stringify(page).length
    if (pages === MAX_PAGES || characters > MAX_CHARACTERS)
      throw new LuoError('LUO_PROTOCOL', `${method}: after ${all.length} of them luod says that there are ${total}`)
  }
}

/** What goes with it: of a workload that waits for a restart, all sessions. */
function contentWith(session: Session, sessions: readonly Session[]): { files: number; bytes: string } {
  if (session.workload !== session.name) return session
  const all = sessions.filter(({ uid, workload }) => uid === session.uid && workload === session.workload)
  const files = all.reduce((sum, one) => sum + one.files, 0)
  return { files, bytes: String(all.reduce((sum, one) => sum + Number(one.bytes), 0)) }
}

/** By name, of which root may see several, or by id. */
function findSession(sessions: readonly Session[], wanted: string): Session {
  const named = sessions.filter(({ name }) => name === wanted)
  const found = named.length > 0 ? named : sessions.filter(({ session }) => session === wanted)
  const own = found.filter(({ uid }) => uid === process.getuid?.())
  const [session] = own.length === 1 ? own : found
  if (session && (found.length === 1 || own.length === 1)) return session
  const why = found.length > 1 ? `${found.length} users have one: give its id` : 'there is none'
  throw new LuoError('LUO_NOT_FOUND', `find the session ${wanted}: ${why}`)
}

async function confirmed(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) {
    throw usageError(`${question.replace(/\?.*/, '?')} nobody can be asked: use --yes`)
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr })
  try {
    const answer = await new Promise<string>((resolve, reject) => {
      // Ctrl-C, Ctrl-D or the end of the terminal: the question is not answered then, and leaves its line open.
      terminal.once('close', () => resolve('\n'))
      terminal.question(question).then(resolve, reject)
    })
    if (answer === '\n') process.stderr.write(answer)
    return /^y(es)?$/i.test(answer.trim())
  } finally {
    terminal.close()
  }
}
