/** Steps of tests of sessions: puppets make, pass on and adopt them, and luod is asked what became of them. */
import type { Session } from '../../src/protocol/types.js'
import { eventually, type Puppet, Stage } from './stage.js'

let requests = 0
export const id = () => `request ${++requests}`

export interface MakeOptions {
  files?: number
  keep_ms?: number
  member?: string
}

/** A session of the puppet, with as many files as asked for; the puppet calls its descriptor as the session. */
export async function make(puppet: Puppet, name: string, { files = 1, ...more }: MakeOptions = {}): Promise<string> {
  const { session } = await puppet.call('CreateSession', { id: id(), name, ...more }, { keep: [name] })
  for (let token = 0; token < files; token++) await add(puppet, session.session, String(token))
  return session.session
}

export async function add(puppet: Puppet, session: string, token: string): Promise<void> {
  const name = `file ${session} ${token}`
  await puppet.do('memfd', { name, size: 4096 })
  const files = [{ token, fd: 0 }]
  await puppet.call('Preserve', { id: id(), session, files, fds: 1 }, { send: [name] })
}

export async function pass(from: Puppet, name: string, to: Puppet, as: string): Promise<void> {
  const path = await to.do('listen')
  await from.do('pass', { name, path })
  await to.do('take', { name: as })
}

/** Takes over the session of this name. */
export function adopt(puppet: Puppet, name: string, more: { member?: string } = {}) {
  return puppet.call('AdoptSession', { id: id(), name, ...more }, { keep: [name] })
}

export async function all(stage: Stage): Promise<Session[]> {
  return (await stage.call('Sessions', {})).sessions
}

export async function named(stage: Stage, name: string): Promise<Session | undefined> {
  return (await all(stage)).find((session) => session.name === name)
}

/** The custody of a session, once it is what is expected; `gone` for none. */
export function becomes(stage: Stage, name: string, custody: Session['custody'] | 'gone') {
  return eventually(
    async () => (await named(stage, name))?.custody ?? 'gone',
    (seen) => seen === custody,
    `${name} is not ${custody}`,
  )
}

/** Runs `work` with a luod that has nothing after it but what it had before. */
export async function leavesNothing(work: (stage: Stage) => Promise<unknown>, args: string[] = []): Promise<void> {
  await using stage = await Stage.start({ args })
  const before = await stage.atRest()
  await work(stage)
  for (const puppet of stage.puppets) if (puppet.alive) puppet.kill()
  await eventually(
    () => stage.call('Status', {}),
    ({ open_fds, usage }) =>
      open_fds === before.open_fds &&
      usage.every(({ sessions, files, bytes, workloads }) => sessions + files + bytes + workloads === 0),
    `luod had ${before.open_fds} descriptors, and none of the rest`,
  )
}
