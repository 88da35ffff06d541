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

/** All files of a session, page by page. */
export async function filesOf(client: ReconnectingClient, { session }: Session): Promise<File[]> {
  const files: File[] = []
  for (;;) {
    const page = (await client.call('Files', { session, offset: files.length })).parameters
    files.push(...page.files)
    if (page.files.length === 0 || files.length >= page.total) return files
  }
}

async function allSessions(client: ReconnectingClient): Promise<Session[]> {
  const sessions: Session[] = []
  for (;;) {
    const page = (await client.call('Sessions', { offset: sessions.length })).parameters
    sessions.push(...page.sessions)
    if (page.sessions.length === 0 || sessions.length >= page.total) return sessions
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
