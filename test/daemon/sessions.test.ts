/** Sessions beside those of workloads: who holds them, what ends them, and what an update does with them. */
import { expect, test } from 'vitest'
import { eventually, failure, type Puppet, Stage } from './stage.js'

const none = ({ total }: { total: number }) => total === 0

/** A session of the puppet, with as many files as asked for; its descriptor is called as the session. */
async function made(puppet: Puppet, name: string, options: { files?: number; keep_ms?: number; member?: string } = {}) {
  const { files = 1, ...more } = options
  const { session } = await puppet.call(
    'CreateSession',
    { id: `create ${name} ${Math.random()}`, name, ...more },
    { keep: [name] },
  )
  for (let token = 0; token < files; token++) await add(puppet, session.session, String(token))
  return session.session
}

async function add(puppet: Puppet, session: string, token: string): Promise<void> {
  const name = `file ${session} ${token}`
  await puppet.do('memfd', { name, size: 4096 })
  const id = `preserve ${name} ${Math.random()}`
  await puppet.call('Preserve', { id, session, files: [{ token, fd: 0 }], fds: 1 }, { send: [name] })
}

test('a session lives as long as its descriptor, and a closed one is gone for the next request', async () => {
  await using stage = await Stage.start()
  const puppet = await stage.puppet()
  const session = await made(puppet, 'cache', { files: 2 })
  expect((await stage.call('Sessions', {})).sessions).toMatchObject([
    { session, name: 'cache', custody: 'held', files: 2, bytes: '8192', keep_ms: 0, pid: puppet.pid },
  ])
  expect(await failure(made(puppet, 'cache'))).toBe('EEXIST')
  for (let round = 0; round < 20; round++) {
    await puppet.do('close', { name: 'cache' })
    await made(puppet, 'cache')
  }
  puppet.kill()
  await eventually(() => stage.call('Sessions', {}), none, 'it lives')
})
