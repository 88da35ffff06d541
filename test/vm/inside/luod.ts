/**
 * luod with the kernel's device, over two kexecs that it does itself: one session of its own, one that a program has of
 * the kernel's, and over the first of them, which luoctl asks for, the service of the main job. Prints what luod and
 * the service answered.
 */
import { spawn, spawnSync } from 'node:child_process'
import { setTimeout } from 'node:timers/promises'
import { KernelSession } from '../../../src/backends/kernel.js'
import type { Fd } from '../../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../../src/sys/memfd.js'
import type { VarlinkClient } from '../../../src/wire/client.js'
import { codeOf, connect, connectAs, load, said, say } from './kit.js'
import { checksum, largeMemory } from './large.js'

const NOBODY = 65_534
const KEEP_MS = 600_000
const KEYS = 20
const SERVICE = 'http://127.0.0.1:8080'
const RETRY_MS = 200
const [, , luod = '', luoctl = '', server = '', stage = ''] = process.argv

let asked = 0
const id = () => `${stage} ${asked++}`

const text = (fd: Fd | undefined) => {
  const bytes = new Uint8Array(16)
  return fd
    ? Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0)))
        .toString()
        .replace(/\0.*/s, '')
    : undefined
}

function memory(contents: string): Fd {
  const fd = createMemfd('luod', { size: 4096, overKexec: true })
  writeAt(fd, Buffer.from(contents), 0)
  return fd
}

async function openKernelSession(client: VarlinkClient, direction: 'outgoing' | 'incoming') {
  const { fds } = await client.call('OpenKernelSession', { id: id(), name: 'guest', direction })
  return KernelSession.adopt(fds[0] as Fd)
}

async function kexec(client: VarlinkClient, dryRun: boolean): Promise<void> {
  const steps: string[] = []
  const input = { id: id(), ...(dryRun && { dry_run: true }) }
  for await (const { parameters } of client.stream('Kexec', input)) {
    if (parameters.step === undefined || steps.at(-1) === parameters.step) continue
    steps.push(parameters.step)
    if (parameters.step === 'stopping') said()
  }
  say({ kexec: steps })
}

async function refusals(client: VarlinkClient): Promise<void> {
  const stranger = await connectAs(NOBODY)
  say({
    nothingLoaded: await codeOf(() => kexec(client, false)),
    stranger: await codeOf(() => kexec(stranger, false)),
    strangerLists: await codeOf(() => stranger.call('KernelSessions', {})),
    own: await codeOf(() => client.call('OpenKernelSession', { id: id(), name: 'luod-x', direction: 'outgoing' })),
  })
  stranger.close()
}

/** In the care of luod, and of the kernel. */
async function preserve(client: VarlinkClient, contents: string): Promise<void> {
  const guest = await openKernelSession(client, 'outgoing')
  guest.preserve('1', memory(`guest ${contents}`))
  const { sessions } = (await client.call('KernelSessions', {})).parameters
  say({ listed: sessions.map(({ pid, ...session }) => ({ ...session, mine: pid === process.pid })) })
}

async function claim(client: VarlinkClient): Promise<void> {
  const { session } = (await client.call('AdoptSession', { id: id(), name: 'kept' })).parameters
  const { fds } = await client.call('Retrieve', { session: session.session, tokens: ['1', '2'] })
  const guest = await openKernelSession(client, 'incoming')
  say({ claimed: text(fds[0]), guest: text(guest.retrieve('1')) })
  // After the second kexec: this one saw it cross both.
  if (stage === 'third') say({ checksum: fds[1] && checksum(fds[1]) })
  guest.finish()
  guest.close()
  for (const fd of fds) fd.close()
}

/** Runs until this kernel ends. */
async function startService(): Promise<void> {
  const command = [luoctl, 'run', 'kv', '--keep', '600s', '--', process.execPath, server]
  spawn(process.execPath, command, { stdio: ['ignore', 'inherit', 'inherit'], detached: true })
  for (;;) {
    const stats = await fetch(`${SERVICE}/stats`).catch(() => undefined)
    if (stats?.ok) return say({ service: stage, stats: await stats.json() })
    await setTimeout(RETRY_MS)
  }
}

/** What is acknowledged is to be there after the kexec. */
async function write(): Promise<void> {
  const answers = new Set<number>()
  for (let key = 0; key < KEYS; key++) {
    answers.add((await fetch(`${SERVICE}/kv/${key}`, { method: 'PUT', body: `value ${key}` })).status)
  }
  say({ written: [...answers], stats: await (await fetch(`${SERVICE}/check`)).json() })
}

async function readBack(client: VarlinkClient): Promise<void> {
  const values = await Promise.all(
    Array.from({ length: KEYS }, async (_, key) => (await fetch(`${SERVICE}/kv/${key}`)).text()),
  )
  say({ read: values.filter((value, key) => value === `value ${key}`).length })
  const { events } = (await client.call('History', {})).parameters
  for (const { event, spans } of events) if (spans) say({ event, spans })
}

spawn(process.execPath, [luod, '--backend', 'kernel'], { stdio: ['ignore', 'inherit', 'inherit'], detached: true })
const client = await connect()
const { backend, takeover } = (await client.call('Status', {})).parameters
say({ backend, how: takeover?.how ?? 'new' })
if (stage === 'first') {
  await refusals(client)
  const { session } = (await client.call('CreateSession', { id: id(), name: 'kept', keep_ms: KEEP_MS })).parameters
  using kept = memory('kept')
  using much = largeMemory('large')
  const files = ['1', '2'].map((token, fd) => ({ token, fd }))
  await client.call('Preserve', { id: id(), session: session.session, files, fds: files.length }, [kept, much])
} else {
  await claim(client)
}
if (stage === 'third') process.exit(0)
await startService()
if (stage === 'first') await write()
else await readBack(client)
load()
await kexec(client, true)
await preserve(client, stage)
if (stage === 'second') await kexec(client, false)
said()
spawnSync(process.execPath, [luoctl, 'kexec', '--json'], { stdio: 'inherit' })
