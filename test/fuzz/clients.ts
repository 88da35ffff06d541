/**
 * The clients in TypeScript, C and Python against a luod that says what a script has, and then is gone: each ends with a
 * typed error or well, in time, without a descriptor left. The program in C is built with the sanitizers, which end it
 * with an error.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import type fc from 'fast-check'
import { adoptSession, join, openSession } from '../../src/client/index.js'
import type { Live, LiveSession } from '../../src/client/types.js'
import { isLuoError } from '../../src/errors.js'
import { closeAll, countOpenFds, Fd } from '../../src/sys/fd.js'
import { VarlinkClient } from '../../src/wire/client.js'
import { ReconnectingClient } from '../../src/wire/reconnecting.js'
import { compile, HERE } from '../clients/build.js'
import { HostileLuod } from '../hostile-luod.js'
import { decodeScript, type Script, scripts, type What, wellMeant } from './scripts.js'
import type { LiveTarget } from './target.js'

/** A luod that is not asked for so long, and has not more to say, is gone. */
const PATIENCE_MS = 20
const RECONNECT_MS = 20
/** Whoever has not ended so long after luod hangs. */
const HANG_MS = 10_000
/** Of replies without end. */
const MAX_TAKEN = 1_000

class Sockets implements Disposable {
  readonly #folder = mkdtempSync(joinPath(tmpdir(), 'luo-fuzz-'))
  #count = 0

  /** At a path of its own. */
  luod(answers: ConstructorParameters<typeof HostileLuod>[1]): HostileLuod {
    return new HostileLuod(joinPath(this.#folder, `${this.#count++}`), answers, PATIENCE_MS)
  }

  get folder(): string {
    return this.#folder
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

async function within<T>(work: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} hangs`)), HANG_MS)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}

// --- TypeScript -----------------------------------------------------------------------------------------------------

type Deed = (luod: HostileLuod) => Promise<void>

/** What the program has in the end, it closes. */
async function withClient<C extends { close(): void }>(client: C, run: (client: C) => Promise<unknown>): Promise<void> {
  try {
    await run(client)
  } finally {
    client.close()
  }
}

async function takeAll(replies: AsyncIterable<{ fds: Fd[] }>): Promise<void> {
  let taken = 0
  for await (const { fds } of replies) {
    closeAll(fds)
    if (++taken === MAX_TAKEN) return
  }
}

/** All are asked at once, and each is told what became of it. */
async function askAll(...answers: Promise<{ fds: Fd[] }>[]): Promise<void> {
  for (const settled of await Promise.allSettled(answers)) {
    if (settled.status === 'rejected') onlyLuoError(settled.reason)
    else closeAll(settled.value.fds)
  }
}

async function useSession(session: LiveSession): Promise<void> {
  await withClient(session, async () => {
    await session.preserve(1, 0)
    for (const token of await session.tokens()) Fd.adopt(await session.retrieve(token)).close()
    await session.unpreserve(1)
  })
}

async function beWorkload({ path, gone }: HostileLuod, use: (live: Live) => Promise<unknown>): Promise<void> {
  const waits = { reconnectMs: RECONNECT_MS, drainMs: 1, kexecWaitMs: RECONNECT_MS }
  const live = await join({ workload: 'w', socket: path, exitWhenReleased: false, ...waits })
  try {
    await use(live)
    await gone
  } finally {
    await live.leave().catch(onlyLuoError)
    await live.close()
  }
}

async function useResources(live: Live): Promise<void> {
  const server = createServer()
  try {
    const memory = await live.memory('m', { size: 4_096 })
    // The program's for as long as it lives, and this one goes on.
    if ('close' in memory) stray.push(memory as unknown as { close(): void })
    new Uint8Array(memory.buffer)[0] = 1
    const number = await live.file('f')
    if (number !== undefined) Fd.adopt(number).close()
    await live.serve(server, { port: 0, host: '127.0.0.1' })
    await live.ready()
    const session = await live.session('s')
    session.close()
  } finally {
    server.close()
  }
}

const stray: { close(): void }[] = []

const DEEDS: Record<What, Deed> = {
  call: async ({ path }) =>
    withClient(await VarlinkClient.connect(path), (client) =>
      askAll(client.call('List', {}), client.call('Status', {}), client.call('Retrieve', { session: '2' })),
    ),
  stream: async ({ path }) =>
    withClient(await VarlinkClient.connect(path), (client) => takeAll(client.stream('Watch', {}))),
  reconnecting: async ({ path }) =>
    withClient(await ReconnectingClient.connect(path, { reconnectMs: RECONNECT_MS }), (client) =>
      askAll(client.call('List', {}), client.call('Retrieve', { session: '2' }), client.call('Sessions', {})),
    ),
  session: async ({ path }) =>
    useSession(await openSession('s', { socket: path, reconnectMs: RECONNECT_MS, keepMs: 1 })),
  adopt: async ({ path }) => useSession(await adoptSession({ name: 's' }, { socket: path, reconnectMs: RECONNECT_MS })),
  join: (luod) => beWorkload(luod, async () => {}),
  claim: (luod) => beWorkload(luod, (live) => live.file('f')),
  events: (luod) => beWorkload(luod, (live) => live.ready()),
  first: (luod) => beWorkload(luod, useResources),
  kexec: (luod) => beWorkload(luod, useResources),
  successor: (luod) => beWorkload(luod, useResources),
}

function onlyLuoError(error: unknown): void {
  if (!isLuoError(error)) throw error
}

class TypeScriptClient implements LiveTarget {
  readonly inputs = scripts(...(Object.keys(DEEDS) as What[]))
  readonly #sockets = new Sockets()
  #unseen: unknown
  readonly #onUnseen = (error: unknown) => {
    this.#unseen ??= error
  }

  constructor() {
    process.on('unhandledRejection', this.#onUnseen)
  }

  async check(input: Uint8Array): Promise<void> {
    const script = decodeScript(input)
    const before = openNow()
    await this.play(script)
    await this.#nothingIsLeft(before)
    const unseen = this.#unseen
    this.#unseen = undefined
    if (unseen !== undefined) throw unseen
  }

  async play({ what, answers }: Script): Promise<void> {
    const luod = this.#sockets.luod(answers)
    try {
      await within(DEEDS[what as What](luod), what).catch(onlyLuoError)
    } finally {
      luod.close()
      for (const one of stray.splice(0)) one.close()
    }
  }

  async #nothingIsLeft(before: readonly string[]): Promise<void> {
    const end = performance.now() + HANG_MS
    while (countOpenFds() > before.length) {
      if (performance.now() > end) throw new Error(`left are ${openNow().filter((open) => !before.includes(open))}`)
      await sleep(1)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    process.off('unhandledRejection', this.#onUnseen)
    this.#sockets[Symbol.dispose]()
  }
}

/** Each with what it leads to. */
function openNow(): string[] {
  return readdirSync('/proc/self/fd').flatMap((number) => {
    try {
      return [`${number}: ${readlinkSync(`/proc/self/fd/${number}`)}`]
    } catch {
      // That of the folder itself.
      return []
    }
  })
}

export async function typeScriptClient(): Promise<LiveTarget> {
  const target = new TypeScriptClient()
  // What stays for the life of the process is there from here on: of the poller, and of libuv once it listens.
  await target.play(wellMeant('first'))
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  server.close()
  return target
}

// --- C and Python ---------------------------------------------------------------------------------------------------

const PROBES = ['call', 'join', 'claim', 'events'] as const
const FINE = /^(fine|event \d|(LUO_|E)[A-Z0-9_]+), 0 left$/

/** A program that does what it is told, and says in a line how that ended. */
export class Probe implements LiveTarget {
  readonly inputs: fc.Arbitrary<Uint8Array> = scripts(...PROBES)
  readonly #sockets = new Sockets()
  readonly #process: ChildProcess
  readonly #lines: AsyncIterator<string>
  #complaints = ''

  constructor(command: readonly string[]) {
    const [program = '', ...args] = command
    this.#process = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#process.stderr?.on('data', (data) => {
      this.#complaints += data
    })
    this.#process.stdin?.on('error', () => {})
    this.#lines = createInterface({ input: this.#process.stdout ?? process.stdin })[Symbol.asyncIterator]()
  }

  async check(input: Uint8Array): Promise<void> {
    const { what, answers } = decodeScript(input)
    const luod = this.#sockets.luod(answers)
    try {
      this.#process.stdin?.write(`${luod.path} ${what}\n`)
      const { value } = await within(this.#lines.next(), what)
      if (!FINE.test(String(value)) || this.#complaints !== '')
        throw new Error(`${what}: ${value}\n${this.#complaints}`)
    } finally {
      luod.close()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = this.#process.exitCode === null && this.#process.signalCode === null && once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await ended
    this.#sockets[Symbol.dispose]()
  }
}

export async function cClient(): Promise<LiveTarget> {
  const folder = mkdtempSync(joinPath(tmpdir(), 'luo-fuzz-c-'))
  try {
    return new Probe([compile(joinPath(HERE, 'probe.c'), folder, 'probe')])
  } finally {
    // It runs, or it never will.
    process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  }
}

export async function pythonClient(): Promise<LiveTarget> {
  return new Probe(['python3', joinPath(HERE, 'probe.py')])
}
