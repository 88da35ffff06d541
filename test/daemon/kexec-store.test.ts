/**
 * A kexec that the service manager does: it has luod's sessions in its store when luod ends, or luod does not end; and
 * a luod in the next kernel that cannot go on with them loses none.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { FdStore } from '../../src/daemon/fd-store.js'
import { keeperOf, unitOf } from '../../src/daemon/kexec-keeper.js'
import { LuoError } from '../../src/errors.js'
import { FakeManager } from './fake-manager.js'
import { letsGo, Machine, type Running, steps } from './kexec-machine.js'
import { eventually, failure } from './stage.js'

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'uncaughtException', 'unhandledRejection'] as const
const STORE_SIZE = 64

let directory: string
let manager: FakeManager
const before = new Map<string, NodeJS.SignalsListener[]>()

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'luo-kexec-store-'))
  manager = new FakeManager(join(directory, 'notify.sock'), STORE_SIZE)
  vi.stubEnv('NOTIFY_SOCKET', manager.path)
  vi.stubEnv('FDSTORE', String(STORE_SIZE))
  for (const signal of SIGNALS) before.set(signal, process.listeners(signal as NodeJS.Signals))
})

afterEach(() => {
  vi.unstubAllEnvs()
  vi.restoreAllMocks()
  // luod was this process, for a while.
  for (const signal of SIGNALS) {
    process.removeAllListeners(signal)
    for (const listener of before.get(signal) ?? []) process.on(signal, listener as () => void)
  }
  manager[Symbol.dispose]()
  rmSync(directory, { recursive: true, force: true })
})

const sessionsIn = () => manager.names.filter((name) => name.startsWith('luo/kexec/')).sort()

async function kexec(machine: Machine, web: Running) {
  const asked = machine.kexec({ how: 'systemd' })
  await letsGo(web)
  return asked
}

/** What is left of this process when it is told to end. */
function exit() {
  return vi.spyOn(process, 'exit').mockImplementation((() => {}) as unknown as typeof process.exit)
}

describe('systemd 261 and newer', () => {
  test('the store has the sessions before systemd is asked, luod ends, and the next one has everything', async () => {
    await using machine = await Machine.boot(manager)
    machine.keeper = () => Promise.resolve('manager')
    let there: string[] = []
    machine.askManager = async () => {
      there = sessionsIn()
    }
    const web = await machine.workload('web')
    const said = await kexec(machine, web)
    expect(steps(said)).toEqual(['asking', 'preserving', 'preserved', 'stopping', 'stopping'])
    expect(there).toHaveLength(3)
    expect(there.join()).toMatch(/luod-internal,.*luod-internal-[\d.]+,.*luod-session-/)
    // As long as the manager has a copy of the device, it cannot open it.
    expect(manager.names).not.toContain('luo/device')
    const ended = exit()
    process.emit('SIGTERM', 'SIGTERM')
    expect(ended).toHaveBeenCalledWith(0)
    expect(machine.log.join()).toContain('the service manager has what was preserved')
    ended.mockRestore()
    // Nothing of it was taken out again.
    expect(sessionsIn()).toEqual(there)
    web.puppet.kill()
    await machine.next()
    const { sessions } = await machine.stage.call('Sessions', {})
    expect(sessions).toMatchObject([{ name: 'web', custody: 'orphaned', files: 1 }])
    expect(await machine.stage.call('Status', {})).toMatchObject({
      backend: 'kernel',
      takeover: { how: 'kexec', findings: 0 },
      protection: { kind: 'store', ready: true },
    })
    expect(sessionsIn()).toEqual([])
    expect(machine.finished).toBe(true)
    // Killed in the middle of that, the next one would see by the first whether the records are the later ones.
    const removed = manager.messages.filter((message) => message.includes('luo/kexec/'))
    expect(removed).toHaveLength(3)
    expect(removed[0]).toMatch(/FDNAME=luo\/kexec\/luod-internal$/m)
  })

  test('a manager that does not say that it has what crossed: the sessions stay, and luod serves', async () => {
    await using machine = await Machine.boot(manager)
    machine.keeper = () => Promise.resolve('manager')
    const web = await machine.workload('web')
    await kexec(machine, web)
    web.puppet.kill()
    const late = new LuoError('LUO_DEADLINE', 'the service manager did not answer within 5000 ms')
    vi.spyOn(FdStore.prototype, 'flush').mockRejectedValueOnce(late)
    await machine.next()
    expect(machine.finished).toBe(false)
    expect(machine.log.join()).toContain("keep the kernel's sessions of the last kexec")
    expect((await machine.stage.call('Sessions', {})).sessions).toMatchObject([{ name: 'web', files: 1 }])
  })

  test('an abort takes them out again before anybody goes on', async () => {
    await using machine = await Machine.boot(manager)
    machine.keeper = () => Promise.resolve('manager')
    const web = await machine.workload('web')
    await kexec(machine, web)
    expect(sessionsIn()).toHaveLength(3)
    await machine.stage.call('AbortKexec', { id: 'a' })
    expect(sessionsIn()).toEqual([])
    await web.puppet.event('resume')
    const ended = exit()
    process.emit('SIGTERM', 'SIGTERM')
    expect(ended).toHaveBeenCalledWith(0)
  })

  test('a store that is full, or gone, refuses the kexec, and everybody goes on', async () => {
    await using machine = await Machine.boot(manager)
    machine.keeper = () => Promise.resolve('manager')
    const web = await machine.workload('web')
    const { store } = machine.serving ?? {}
    if (!store) throw new Error('there is no store')
    const full = vi.spyOn(store, 'put').mockImplementationOnce(() => {
      throw new LuoError('ENOSPC', 'keep 3 more descriptors')
    })
    expect(await failure(kexec(machine, web))).toBe('ENOSPC')
    await web.puppet.event('resume')
    full.mockRestore()
    web.puppet.events.splice(0)
    store.close()
    expect(await failure(kexec(machine, web))).toBe('LUO_UNSUPPORTED')
    await web.puppet.event('resume')
    expect(sessionsIn()).toEqual([])
  })
})

test('where luod has to be there at the reboot call, SIGTERM does not end it until the kexec is undone', async () => {
  await using machine = await Machine.boot(manager)
  const web = await machine.workload('web')
  await kexec(machine, web)
  expect(sessionsIn()).toEqual([])
  const ended = exit()
  process.emit('SIGTERM', 'SIGTERM')
  process.emit('SIGINT', 'SIGINT')
  expect(ended).not.toHaveBeenCalled()
  expect(machine.log.join()).toContain('SIGTERM: luod stays until the kexec')
  await machine.stage.call('AbortKexec', { id: 'a' })
  process.emit('SIGTERM', 'SIGTERM')
  expect(ended).toHaveBeenCalledWith(0)
})

test('where nobody would have the sessions, the kexec is refused', async () => {
  await using machine = await Machine.boot(manager)
  machine.keeper = () => Promise.reject(new LuoError('LUO_UNSUPPORTED', 'kexec: nobody'))
  let asked = false
  machine.askManager = async () => {
    asked = true
  }
  const web = await machine.workload('web')
  expect(await failure(kexec(machine, web))).toBe('LUO_UNSUPPORTED')
  await web.puppet.event('resume')
  expect(asked).toBe(false)
})

describe.each(['with a store', 'without one'])('a luod that cannot go on with what came over, %s', (how) => {
  test('keeps it, says why, does not lose it to SIGTERM, and has it all when it can', async () => {
    const withStore = how === 'with a store'
    await using machine = await Machine.boot(withStore ? manager : undefined)
    const web = await machine.workload('web')
    const asked = machine.kexec()
    await letsGo(web)
    await asked
    machine.retrieveFails.push(new LuoError('EMFILE', 'retrieve session: too many open files'))
    const heard = SIGNALS.map((signal) => process.listenerCount(signal))
    await machine.next()
    const why = await eventually(
      () => machine.stage.call('Status', {}).then(undefined, (error: LuoError) => error.message),
      (message) => typeof message === 'string' && message.includes('cannot go on'),
      'it does not say why',
    )
    expect(why).toMatch(/what came over the kexec.*too many open files \(EMFILE\).*tries again/)
    // Neither a defect nor a terminal that goes away ends it either.
    expect(SIGNALS.map((signal) => process.listenerCount(signal))).toEqual(heard.map((count) => count + 1))
    // What was taken out of the kernel before that.
    expect(sessionsIn()).toHaveLength(withStore ? 2 : 0)
    const ended = exit()
    process.emit('SIGTERM', 'SIGTERM')
    // Each luod that this process was hears of it.
    expect(ended.mock.calls.length > 0).toBe(withStore)
    ended.mockRestore()
    await machine.begun
    // With a manager it serves as in its own process, and hears of them anew.
    expect(SIGNALS.map((signal) => process.listenerCount(signal) - (withStore ? 1 : 0))).toEqual(heard)
    const { sessions } = await machine.stage.call('Sessions', {})
    expect(sessions).toMatchObject([{ name: 'web', custody: 'orphaned', files: 1 }])
    expect(sessionsIn()).toEqual([])
  })
})

describe('who has the sessions at the reboot call', () => {
  const SURVIVES = { FileDescriptorStorePreserve: 'yes', SurviveFinalKillSignal: 'yes' }
  test.each([
    ['261 with its store', { version: '261.1-2', says: { FileDescriptorStorePreserve: 'yes' } }, 'manager'],
    [
      '262 with its store, if luod ends well',
      { version: '262~rc1', says: { FileDescriptorStorePreserve: 'on-success' } },
      'manager',
    ],
    ['261 without what luod holds', { version: '261', storeWorks: false }, 'LUO_UNSUPPORTED'],
    [
      '261, whose store ends with luod',
      { version: '261', says: { FileDescriptorStorePreserve: 'restart' } },
      'LUO_UNSUPPORTED',
    ],
    ['261, of a luod that survives without a store', { version: '261', storeWorks: false, says: SURVIVES }, 'luod'],
    ['257 with a store', { version: '257.9', says: { FileDescriptorStorePreserve: 'yes' } }, 'LUO_UNSUPPORTED'],
    ['257 of a luod that survives', { version: '257.9', says: SURVIVES }, 'luod'],
    ['252 of a luod whose name begins so', { version: '252', argv0: '@luod' }, 'luod'],
    ['an unknown one', { version: '' }, 'LUO_UNSUPPORTED'],
  ] as const)('systemd %s', async (_, facts, expected) => {
    const all = { unit: 'luod.service', says: {}, storeWorks: true, argv0: 'node', ...facts }
    const keeper = Promise.resolve().then(() => keeperOf(all))
    if (expected === 'LUO_UNSUPPORTED') expect(await failure(keeper)).toBe(expected)
    else expect(await keeper).toBe(expected)
  })

  test.each([
    ['0::/system.slice/luod.service\n', 'luod.service'],
    ['0::/system.slice/system-luod.slice/luod@1.service/inner\n', 'luod@1.service'],
    ['4:memory:/x.service\n1:name=systemd:/system.slice/luod.service\n', 'luod.service'],
    ['0::/user.slice/user-0.slice/session-3.scope\n', undefined],
    ['', undefined],
  ])('the unit in %j is %s', (text, unit) => {
    expect(unitOf(text)).toBe(unit)
  })
})
