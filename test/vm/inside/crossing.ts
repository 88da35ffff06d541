/**
 * What luod takes over one kexec, and what does not come to one. In the first boot a luod with a standby is killed, and
 * the standby does everything else: a kexec that is aborted, one that is refused, one that is aborted when all is
 * preserved, and one that is done. In the second boot a luod of another version comes first.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { foreignSessions, KernelDevice, KernelSession } from '../../../src/backends/kernel.js'
import { adoptSession, isLuoError, type LiveSession, openSession } from '../../../src/client/index.js'
import type { Fd } from '../../../src/sys/fd.js'
import { createMemfd, position, setPosition, writeAt } from '../../../src/sys/memfd.js'
import type { VarlinkClient } from '../../../src/wire/client.js'
import { lookAtKinds, preserveKinds, spoil, textOf } from './kinds.js'
import { codeOf, connect, connectAs, JOURNAL, KEXEC_ASKED, load, MACHINE_FOLDER, said, say } from './kit.js'

const NOBODY = 65_534
const STRANGER = 65_533
const KEEP_MS = 600_000
const SESSIONS = 200
const FILES = 500
const FILLED_MIB = 16
const WRITES = 1_000_000
const SERVICE = 'http://127.0.0.1:8080'
const RETRY_MS = 100
/** Longer than any machine takes to abort it: the workload is still being asked then. */
const LATE_MS = 600_000
const PROGRAMS = '/run/programs'
const OTHER = '/run/other'
const [, , project = '', server = '', stage = ''] = process.argv
const luod = `${project}/dist/daemon/main.js`
const luoctl = `${project}/dist/cli/main.js`

let asked = 0
const id = () => `${stage} ${asked++}`

interface Start {
  stderr?: 'pipe'
  stdout?: 'pipe'
  argv0?: string
}

function start(args: readonly string[], { stdout, stderr, argv0 = process.execPath }: Start = {}): ChildProcess {
  const env = { ...process.env, PATH: `${PROGRAMS}:${process.env.PATH}` }
  const stdio = ['ignore', stdout ?? 'inherit', stderr ?? 'inherit'] as const
  return spawn(process.execPath, args, { stdio: [...stdio], detached: true, env, argv0 })
}

/** Named so that a service manager leaves it alone at the end of a shutdown. */
const startLuod = (...args: string[]) => start([luod, '--backend', 'kernel', ...args], { argv0: '@luod' })
const startService = () => start([luoctl, 'run', 'kv', '--keep', '600s', '--', process.execPath, server])
const startClient = (writes: number) => start([`${MACHINE_FOLDER}/kv-client.js`, SERVICE, String(writes)])
const startClaimant = (...args: string[]) => start([`${MACHINE_FOLDER}/claimant.js`, ...args])

/** `luoctl kexec …`, to its end; `onStep` hears of its steps meanwhile. */
async function kexec(args: readonly string[], onStep = (_: string) => {}): Promise<object> {
  const child = start([luoctl, 'kexec', ...args, '--json'], { stdout: 'pipe', stderr: 'pipe' })
  const steps: string[] = []
  let err = ''
  child.stdout?.on('data', (text) => {
    for (const [, step = ''] of String(text).matchAll(/"step":"(\w+)"/g)) {
      steps.push(step)
      onStep(step)
    }
  })
  child.stderr?.on('data', (text) => {
    err += text
  })
  const [status] = await once(child, 'close')
  const [, code] = /"code":"(\w+)"/.exec(err) ?? []
  return { status, steps, code, err: code ? err.trim() : undefined }
}

/** What the service answers, once it does. */
async function service(path: string, init?: RequestInit): Promise<Response> {
  for (;;) {
    const answer = await fetch(`${SERVICE}${path}`, init).catch(() => undefined)
    if (answer?.ok) return answer
    await setTimeout(RETRY_MS)
  }
}

/** Everybody goes on: the service takes a write. */
async function goesOn(after: string, result: object): Promise<void> {
  const { status } = await service('/kv/goes-on', { method: 'PUT', body: after })
  say({
    after,
    ...result,
    written: status,
    kernel: foreignSessions()
      .sessions.map(({ name }) => name)
      .sort(),
  })
}

function memory(contents: string): Fd {
  const fd = createMemfd('crossing', { size: 4096, overKexec: true })
  writeAt(fd, Buffer.from(contents), 0)
  return fd
}

async function preserveMany(client: VarlinkClient): Promise<void> {
  for (let at = 0, made = 0; at < SESSIONS; at++) {
    const { parameters } = await client.call('CreateSession', { id: id(), name: `many ${at}`, keep_ms: KEEP_MS })
    const fds: Fd[] = []
    for (const end = Math.round(((at + 1) * FILES) / SESSIONS); made < end; made++) {
      const fd = memory(`file ${made}`)
      setPosition(fd, made)
      fds.push(fd)
    }
    const files = fds.map((_, fd) => ({ token: String(fd), fd }))
    await client.call('Preserve', { id: id(), session: parameters.session.session, files, fds: fds.length }, fds)
    for (const fd of fds) fd.close()
  }
  await client.call('CreateSession', { id: id(), name: 'empty', keep_ms: KEEP_MS })
}

async function lookAtMany(client: VarlinkClient): Promise<void> {
  let right = 0
  for (let at = 0, seen = 0; at < SESSIONS; at++) {
    const { parameters } = await client.call('AdoptSession', { id: id(), name: `many ${at}` })
    const { fds } = await client.call('Retrieve', { session: parameters.session.session, offset: 0 })
    for (const fd of fds) {
      if (textOf(fd) === `file ${seen}` && position(fd) === seen) right++
      seen++
      fd.close()
    }
  }
  say({ many: right, empty: await codeOf(() => client.call('AdoptSession', { id: id(), name: 'empty' })) })
}

async function killPrimary(client: VarlinkClient, primary: number): Promise<VarlinkClient> {
  while (!(await client.call('Status', {})).parameters.protection.ready) await setTimeout(RETRY_MS)
  process.kill(primary, 'SIGKILL')
  for (;;) {
    const next = await connect()
    const status = await next.call('Status', {}).catch(() => undefined)
    if (status && status.parameters.pid !== primary) {
      const { backend, takeover } = status.parameters
      say({ standby: takeover?.how, backend })
      return next
    }
    await setTimeout(RETRY_MS)
  }
}

async function first(): Promise<void> {
  const device = KernelDevice.open()
  const foreign = device.createSession('foreign')
  foreign.preserve('1', memory('not of luod'))
  device.close()
  const primary = startLuod('--standby')
  let client = await connect()
  await preserveKinds(await openSession('kinds', { keepMs: KEEP_MS }))
  await preserveMany(client)
  const nobody = await connectAs(NOBODY)
  const { parameters } = await nobody.call('CreateSession', { id: id(), name: 'of nobody', keep_ms: KEEP_MS })
  using theirs = memory('of nobody')
  await nobody.call(
    'Preserve',
    { id: id(), session: parameters.session.session, files: [{ token: '1', fd: 0 }], fds: 1 },
    [theirs],
  )
  writeFileSync('/run/disk/claimant', 'a file')
  startService()
  startClaimant()
  await service(`/admin/fill?mb=${FILLED_MIB}`, { method: 'PUT' })
  startClient(WRITES)
  client = await killPrimary(client, primary.pid ?? 0)
  await refuseKexecs()
  said()
  appendFileSync(JOURNAL, `${KEXEC_ASKED}\n`)
  say({ kexec: await kexec([]) })
}

async function refuseKexecs(): Promise<void> {
  // A manager that is asked, and does not come to it.
  mkdirSync(PROGRAMS)
  writeFileSync(`${PROGRAMS}/systemctl`, '#!/bin/sh\n[ "$1" = kexec ] || echo Version=257\n', { mode: 0o755 })
  load()
  const abort = () => kexec(['abort'])
  await service(`/admin/late?ms=${LATE_MS}`, { method: 'PUT' })
  let aborted: Promise<object> | undefined
  const asking = await kexec(['--deadline', '600s'], (step) => {
    if (step === 'asking') aborted = abort()
  })
  await goesOn('abort while asking', { ...asking, abort: await aborted })
  await service('/admin/refuse?reason=not%20now', { method: 'PUT' })
  await goesOn('refusal', await kexec([]))
  const preserved = await kexec(['--method', 'systemd'])
  const held = foreignSessions().sessions.filter(({ name }) => name.startsWith('luod-')).length
  await goesOn('abort when preserved', { ...preserved, held, abort: await abort() })
}

/** A luod that is the same, but for the version of what it hands over. */
async function otherVersion(): Promise<void> {
  const daemon = `${OTHER}/dist/daemon`
  mkdirSync(daemon, { recursive: true })
  for (const name of ['package.json', 'dist/daemon/main.js']) copyFileSync(`${project}/${name}`, `${OTHER}/${name}`)
  symlinkSync(`${project}/node_modules`, `${OTHER}/node_modules`)
  const bundle = readFileSync(`${project}/dist/daemon/luod.cjs`, 'latin1')
  // Were there nothing to replace, it would take everything, and the test would fail.
  writeFileSync(
    `${daemon}/luod.cjs`,
    bundle.replace(/\bMANIFEST_VERSION = [^;]+/, "MANIFEST_VERSION = '1.99'"),
    'latin1',
  )
  // The first one takes the session out of the kernel that says so, and it ends there with it.
  for (const time of ['first', 'second']) {
    const child = start([`${OTHER}/dist/daemon/main.js`, '--backend', 'kernel'], { stderr: 'pipe' })
    let err = ''
    child.stderr?.on('data', (text) => {
      err += text
    })
    const [status] = await once(child, 'close')
    say({ otherVersion: status, time, err })
  }
}

/** Adopts the session, and is killed before it does anything with it. */
async function killAdopter(): Promise<void> {
  const adopter = start([process.argv[1] ?? '', project, server, 'adopter'])
  await once(adopter, 'close')
}

async function second(): Promise<void> {
  spoil()
  await otherVersion()
  startLuod()
  const client = await connect()
  const { takeover, backend } = (await client.call('Status', {})).parameters
  say({ took: takeover?.how, backend })
  const { events } = (await client.call('History', {})).parameters
  say({ lost: events.filter(({ event }) => event === 'fileLost').map(({ code, detail }) => ({ code, detail })) })
  await killAdopter()
  const kinds = await adopt('kinds')
  say({ kinds: await lookAtKinds(kinds) })
  await lookAtMany(client)
  const stranger = await connectAs(STRANGER)
  const nobody = await connectAs(NOBODY)
  const adoptAs = (peer: VarlinkClient) => codeOf(() => peer.call('AdoptSession', { id: id(), name: 'of nobody' }))
  say({ stranger: await adoptAs(stranger), nobody: await adoptAs(nobody) })
  for (const args of [['dies'], []]) {
    const claimant = startClaimant(...args)
    if (args.length > 0) await once(claimant, 'close')
  }
  startService()
  await once(startClient(3), 'close')
  await foreign(client)
}

async function foreign(client: VarlinkClient): Promise<void> {
  const { fds } = await client.call('OpenKernelSession', { id: id(), name: 'foreign', direction: 'incoming' })
  const session = KernelSession.adopt(fds[0] as Fd)
  say({ foreign: textOf(session.retrieve('1')) })
  say({ unfinished: await kexec(['--dry-run']), dropped: await kexec(['--dry-run', '--drop', 'foreign']) })
  session.finish()
  session.close()
  say({ finished: await kexec(['--dry-run']) })
}

/** luod learns a moment later that the last one who had the session is dead. */
async function adopt(name: string): Promise<LiveSession> {
  for (;;) {
    try {
      return await adoptSession({ name })
    } catch (error) {
      if (!isLuoError(error, 'EBUSY')) throw error
      await setTimeout(RETRY_MS)
    }
  }
}

if (stage === 'first') await first()
else if (stage === 'second') {
  await second()
  process.exit(0)
} else {
  say({ adopter: (await (await adoptSession({ name: 'kinds' })).tokens()).length })
  process.kill(process.pid, 'SIGKILL')
}
