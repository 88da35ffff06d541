/**
 * A kexec as luod does it, with the device of an emulated kernel: what workloads have preserved comes back to the luod
 * after it, and until the reboot call everything can be undone. The real kernel is in test/vm.
 */
import { describe, expect, test } from 'vitest'
import type { Keeper } from '../../src/daemon/kexec-keeper.js'
import { LuoError } from '../../src/errors.js'
import { letsGo, Machine, steps } from './kexec-machine.js'
import { eventually, failure, NOBODY } from './stage.js'

describe('a dry run', () => {
  test('asks everybody, preserves everything, and undoes it', async () => {
    await using machine = await Machine.boot()
    const web = await machine.workload('web')
    const { puppet } = web
    const asked = machine.kexec({ dry_run: true })
    expect(await puppet.event('prepare')).toMatchObject({ purpose: 'kexec' })
    await letsGo(web)
    expect(steps(await asked)).toEqual(['asking', 'preserving', 'preserved', 'undone', 'undone'])
    expect(await puppet.event('resume')).toMatchObject({ reason: 'the kexec was a dry run' })
    const { workload } = await machine.stage.call('Show', { workload: 'web' })
    expect(workload).toMatchObject({ state: 'running', pid: puppet.pid, files: 1 })
    expect(machine.did).toEqual([])
  })
})

describe('a kexec', () => {
  test('brings everything to the next luod, orphaned, with owners, and history', async () => {
    await using machine = await Machine.boot()
    const web = await machine.workload('web')
    const { puppet } = web
    const nobody = await machine.stage.puppet({ uid: NOBODY })
    const { session } = await nobody.call('CreateSession', { id: 'c', name: 'mine' }, { keep: ['mine'] })
    await nobody.do('memfd', { name: 'a', size: 100 })
    await nobody.call(
      'Preserve',
      { id: 'p', session: session.session, files: [{ token: '7', fd: 0 }], fds: 1 },
      { send: ['a'] },
    )
    const asked = machine.kexec()
    await letsGo(web)
    const said = await asked
    expect(steps(said)).toEqual(['asking', 'preserving', 'preserved', 'stopping', 'rebooting', 'rebooting'])
    expect(said.at(-1)?.warnings).toEqual(['/busy stays writable (EBUSY)'])
    expect(said.find(({ step }) => step === 'preserved')).toMatchObject({ sessions: 2, files: 2, bytes: '4196' })
    expect(machine.did).toEqual(['sync', 'reboot'])
    // Its supervisor has yet to see that.
    await eventually(
      () => puppet.alive,
      (alive) => !alive,
      'the workload lives on',
    )
    await machine.next()
    const { stage } = machine
    const { sessions } = await stage.call('Sessions', {})
    expect(
      sessions.map(({ name, uid, custody, files, expires_ms: expires }) => [name, uid, custody, files, expires]),
    ).toEqual([
      ['web', 0, 'orphaned', 1, undefined],
      ['mine', NOBODY, 'orphaned', 1, undefined],
    ])
    const { takeover, backend } = await stage.call('Status', {})
    expect([backend, takeover?.how, takeover?.findings]).toEqual(['kernel', 'kexec', 0])
    const { events } = await stage.call('History', {})
    const crossed = events.find(({ event }) => event === 'kexec')
    expect(Object.keys(crossed?.spans ?? {})).toEqual(['letGo', 'preserve', 'stop', 'reboot', 'boot', 'luod'])
    // It claims what a dead one left, as after a crash; and that is the end of the kexec.
    const again = await stage.supervised('web', ['--keep', '60s'])
    const { member, origin } = await again.join('web')
    expect(origin).toBe('crash')
    const { files } = await again.call('Claim', { id: 'claim', member }, { keep: ['store'] })
    expect(files).toMatchObject([{ token: '1', kind: 'memfd', format: 'store/1' }])
    await again.call('Commit', { id: 'commit', member })
    const over = await eventually(
      async () => (await stage.call('History', {})).events.find(({ event }) => event === 'kexecOver'),
      Boolean,
      'the kexec is not over',
    )
    expect(Object.keys(over?.spans ?? {})).toEqual(['firstClaim', 'lastCommit'])
  })

  test('leaves behind what is for updates only, and refuses what cannot cross when it is preserved', async () => {
    await using machine = await Machine.boot()
    const web = await machine.workload('web')
    const { puppet, session } = web
    await puppet.do('pair', { name: 'pair' })
    const preserve = (token: string, until?: 'update') =>
      puppet.call(
        'Preserve',
        { id: `p${token}`, session, files: [{ token, fd: 0, ...(until ? { until } : {}) }], fds: 1 },
        { send: ['pair'] },
      )
    await expect(preserve('2')).rejects.toThrow(/token 2: a file of kind unix does not cross a kexec: /)
    await preserve('3', 'update')
    const { files } = await machine.stage.call('Files', { session })
    expect(files).toMatchObject([{ token: '1' }, { token: '3', kind: 'unix', until: 'update' }])
    const asked = machine.kexec()
    await letsGo(web)
    await asked
    await machine.next()
    const { sessions } = await machine.stage.call('Show', { workload: 'web' })
    expect(sessions.map(({ files: count }) => count)).toEqual([1])
  })
})

describe('everybody goes on', () => {
  test('when one refuses, is dead, or is too late', async () => {
    await using machine = await Machine.boot()
    const web = await machine.workload('web')
    const { puppet: other, member } = await machine.workload('other')
    const asked = failure(machine.kexec())
    const { update = '' } = await other.event('prepare')
    await letsGo(web)
    await other.call('Refuse', { id: 'no', member, update, reason: 'not now' })
    expect(await asked).toBe('LUO_REFUSED')
    await web.puppet.event('resume')
    await other.event('resume')
    expect(await failure(machine.kexec({ deadline_ms: 50 }))).toBe('LUO_DEADLINE')
    const { workloads } = await machine.stage.call('List', {})
    expect(workloads.map(({ state }) => state)).toEqual(['running', 'running'])
    expect(machine.did).toEqual([])
  })

  test('when it is aborted, before and after everything was preserved', async () => {
    await using machine = await Machine.boot()
    const web = await machine.workload('web')
    const { puppet } = web
    const first = failure(machine.kexec())
    await puppet.event('prepare')
    await machine.stage.call('AbortKexec', { id: 'a' })
    expect(await first).toBe('LUO_ABORTED')
    await puppet.event('resume')
    // The service manager was asked, and does not come to it.
    const second = machine.kexec({ how: 'systemd' })
    await eventually(
      () => puppet.events.filter(({ event }) => event === 'prepare').length,
      (count) => count === 2,
      'asked',
    )
    await letsGo(web)
    expect(steps(await second)).toEqual(['asking', 'preserving', 'preserved', 'stopping', 'stopping'])
    // Nothing else is answered meanwhile.
    let listed = false
    const list = machine.stage.call('List', {}).then(() => {
      listed = true
    })
    expect((await machine.stage.call('Status', {})).backend).toBe('kernel')
    expect(listed).toBe(false)
    await machine.stage.call('AbortKexec', { id: 'b' })
    await list
    await eventually(
      () => puppet.events.filter(({ event }) => event === 'resume').length,
      (count) => count === 2,
      'resumed',
    )
    expect(await failure(machine.stage.call('AbortKexec', { id: 'c' }))).toBe('LUO_WRONG_STATE')
    const { events } = await machine.stage.call('History', {})
    const ends = events.filter(({ event }) => event === 'kexecEnded')
    expect(ends.map(({ code }) => code)).toEqual(['LUO_ABORTED', 'LUO_ABORTED'])
  })

  test.each(['nobody', 'web'])('when it is aborted before systemd has said what it keeps, asking %s', async (who) => {
    await using machine = await Machine.boot()
    let say: (keeper: Keeper) => void = () => {}
    machine.keeper = () => new Promise((resolve) => (say = resolve))
    const asked: string[] = []
    machine.askManager = async () => void asked.push('kexec')
    const web = who === 'web' ? await machine.workload('web') : undefined
    const client = await machine.stage.client()
    const kexec = failure(machine.kexec({ how: 'systemd' }))
    if (web) await letsGo(web)
    const look = async () =>
      web ? (await machine.stage.call('Show', { workload: who })).sessions[0]?.custody : 'frozen'
    await eventually(look, (custody) => custody === 'frozen', 'web has not let go')
    const abort = machine.stage.call('AbortKexec', { id: 'a' })
    // Asked later, on another connection: luod has heard of the abort.
    await client.call('Status', {})
    say('luod')
    await abort
    expect(await kexec).toBe('LUO_ABORTED')
    expect(asked).toEqual([])
  })

  test('when the reboot call fails; who was stopped for it is an orphan', async () => {
    await using machine = await Machine.boot()
    const web = await machine.workload('web')
    machine.reboot = () => {
      throw new LuoError('EBUSY', 'start the loaded kernel: another kexec is being loaded')
    }
    const asked = failure(machine.kexec())
    await letsGo(web)
    expect(await asked).toBe('EBUSY')
    expect(machine.did).toEqual(['sync', 'reboot', 'writable /data'])
    const { sessions } = await eventually(
      () => machine.stage.call('Show', { workload: 'web' }),
      ({ sessions: [own] }) => own?.custody === 'orphaned',
      'no orphan',
    )
    expect(sessions).toMatchObject([{ files: 1 }])
  })

  test('when sessions would be lost that came in, unless they are named', async () => {
    await using machine = await Machine.boot()
    machine.incoming = [{ name: 'vm', pid: 17, command: 'qemu' }]
    await expect(machine.kexec()).rejects.toThrow(/vm \(process 17, qemu\); .*--drop vm/)
    expect(steps(await machine.kexec({ drop: ['vm'] }))).toContain('rebooting')
  })

  test('when whoever asks is not root, or asks twice', async () => {
    await using machine = await Machine.boot()
    const nobody = await machine.stage.puppet({ uid: NOBODY })
    expect(await failure(nobody.do('stream', { on: 'k', method: 'Kexec', input: { id: 'k' } }))).toBe('EPERM')
    const web = await machine.workload('web')
    const { puppet } = web
    const first = failure(machine.kexec())
    await puppet.event('prepare')
    expect(await failure(machine.kexec())).toBe('LUO_UPDATING')
    expect(() => machine.daemon.mustBeReplaceable()).toThrow(/a kexec is under way/)
    puppet.kill()
    expect(await first).toBe('LUO_GONE')
  })
})
