/**
 * A program under `luoctl emulate` that makes hostile calls, as an input says, in several processes (`ioctls.c` has the
 * language). It gets an answer to each, and one that a kernel could give; its notifier and luod live on, with as many
 * descriptors as before, and a program that means well is answered well. What it preserved itself is there after a kexec.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import fc from 'fast-check'
import { IOCTLS } from '../../src/abi/uapi.js'
import { eventually } from '../daemon/stage.js'
import { EmulationStage, LUOCTL, openFiles } from '../emulate/stage.js'
import { PROJECT } from '../project.js'
import type { LiveTarget } from './target.js'

const MACHINE = 'fuzz'
const DEVICE = '/dev/liveupdate'
/** Of the kernel. */
const HAS_DEVICE = existsSync(DEVICE)
/** Whoever has not answered so long hangs. */
const ANSWER_MS = 20_000
const END_MS = 5_000
const MAX_LINES = 24
/** Then a kexec brings what the inputs have used up. */
const INPUTS_OF_A_GENERATION = 20

// --- inputs ---------------------------------------------------------------------------------------------------------

const slot = fc.oneof({ weight: 2, arbitrary: fc.nat(7) }, { weight: 1, arbitrary: fc.nat(3) })
const place = fc.constantFrom(
  ...['good', 'good', 'good', 'good', 'good', 'edge', 'edge', 'null', 'hole', 'readonly', 'half-readonly', 'none'],
  ...['kernel', 'top', 'high', 'end', 'big'],
)
const offset = fc.oneof(fc.constantFrom(0, 1, 4, 8, 15, 16, 64, 71, 72, 73, 200), fc.nat(200))
const command = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(...Object.values(IOCTLS).map((call) => call.command)) },
  { weight: 1, arbitrary: fc.nat(0xff).map((number) => 0xba00 | number) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.constantFrom(...Object.values(IOCTLS).map((call) => call.command)), fc.nat(0xffff))
      .map(([known, bits]) => ((bits << 16) | known) >>> 0),
  },
)
const size = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(8, 16, 72, 72) },
  { weight: 1, arbitrary: fc.constantFrom(0, 1, 7, 9, 15, 17, 71, 73, 80, 120, 4_096, 5_000, 2 ** 23, 2 ** 32 - 1) },
)
const descriptor = fc.oneof(
  { weight: 4, arbitrary: slot.map((number) => `s${number}`) },
  { weight: 1, arbitrary: fc.constantFrom('0', '-1', '255', '256', '2147483647', '-2147483648') },
)
const hexOf = (bytes: Uint8Array) => (bytes.length === 0 ? '-' : Buffer.from(bytes).toString('hex'))
const nameBytes = (text: string) => Buffer.concat([Buffer.from(text), Buffer.alloc(64)]).subarray(0, 64)
const name = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('a', 'b', 'handed-0', 'handed-1', 'handed-2').map(nameBytes) },
  { weight: 1, arbitrary: fc.constantFrom('', 'x'.repeat(63), 'x'.repeat(64), '\u{e9}', '/', '\xff').map(nameBytes) },
)
const token = fc.constantFrom(0n, 1n, 2n, 2n ** 64n - 1n).map((value) => {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(value)
  return bytes
})
const bytes = fc
  .oneof(
    { weight: 3, arbitrary: name },
    { weight: 3, arbitrary: token },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 80 }) },
  )
  .map(hexOf)
const call = fc
  .tuple(slot, command, place, offset, size, descriptor, bytes)
  .map(
    ([on, number, where, at, length, fd, rest]) =>
      `${on} ${number.toString(16)} ${where} ${at} ${length} ${fd} ${rest}`,
  )
const kind = fc.constantFrom('memory', 'memory', 'sealed', 'pipe', 'socket', 'null', 'path')
const path = fc.constantFrom(
  '/dev/liveupdate',
  '/dev/liveupdate/x',
  '/dev/../dev/liveupdate',
  '',
  '/',
  `/${'d/'.repeat(60)}`,
)
const flags = fc.oneof(fc.constantFrom(0, 1, 2, 3), fc.nat(0o17777777))

/** What a program does that means well, so that there is something to be hostile about. */
const well = fc.oneof(
  slot.map((to) => `open ${to}`),
  fc.tuple(slot, slot).map(([from, to]) => `dup ${from} ${to}`),
  fc.tuple(slot, kind).map(([to, what]) => `file ${to} ${what}`),
  fc.tuple(slot, slot, name).map(([to, on, text]) => `call ${to} ${on} ba00 good 0 72 0 ${hexOf(text)}`),
  fc.tuple(slot, slot, name).map(([to, on, text]) => `call ${to} ${on} ba01 good 0 72 0 ${hexOf(text)}`),
  fc.tuple(slot, slot, token).map(([on, fd, value]) => `call 7 ${on} ba40 good 0 16 s${fd} ${hexOf(value)}`),
  fc.tuple(slot, slot, token).map(([to, on, value]) => `call ${to} ${on} ba41 good 0 16 0 ${hexOf(value)}`),
  slot.map((on) => `call 7 ${on} ba42 good 0 8 0 -`),
)
const hostile = fc.oneof(
  { weight: 8, arbitrary: fc.tuple(slot, call).map(([to, text]) => `call ${to} ${text}`) },
  { weight: 2, arbitrary: fc.tuple(slot, call).map(([to, text]) => `tight ${to} ${text}`) },
  { weight: 1, arbitrary: call.map((text) => `race ${text}`) },
  {
    weight: 2,
    arbitrary: fc
      .tuple(place, offset, flags, path)
      .map(([where, at, bits, text]) => `path ${where} ${at} ${bits.toString(16)} ${hexOf(Buffer.from(text))}`),
  },
  { weight: 1, arbitrary: slot.map((which) => `close ${which}`) },
  {
    weight: 1,
    arbitrary: fc.tuple(slot, place, offset, fc.nat(100)).map(([on, ...rest]) => `write ${on} ${rest.join(' ')}`),
  },
)
const BEGINNING = [
  'open 0',
  'call 1 0 ba00 good 0 72 0 61',
  'file 2 memory',
  'call 3 0 ba01 good 0 72 0 68616e6465642d30',
  'fork 0',
  'fork 1',
]
/** Other processes, which go on at the same time. */
const other = fc.nat(2)
const single = fc.oneof(well, hostile)
const several = fc.oneof(
  { weight: 4, arbitrary: other.map((which) => `fork ${which}`) },
  { weight: 6, arbitrary: fc.tuple(other, single).map(([which, line]) => `on ${which} ${line}`) },
  {
    weight: 4,
    arbitrary: fc
      .tuple(other, fc.integer({ min: 2, max: 20 }), well)
      .map(([which, ...rest]) => `on ${which} repeat ${rest.join(' ')}`),
  },
  { weight: 3, arbitrary: fc.tuple(other, slot, slot).map((all) => `give ${all.join(' ')}`) },
  { weight: 2, arbitrary: other.map((which) => `kill ${which}`) },
)
const lines = fc
  .tuple(
    fc.nat(BEGINNING.length),
    fc.array(fc.oneof({ weight: 2, arbitrary: single }, { weight: 1, arbitrary: several }), {
      minLength: 1,
      maxLength: MAX_LINES,
      size: 'max',
    }),
  )
  .map(([beginning, rest]) => new Uint8Array(Buffer.from([...BEGINNING.slice(0, beginning), ...rest, ''].join('\n'))))

// --- the program ----------------------------------------------------------------------------------------------------

function compile(to: string): string {
  const source = join(PROJECT, 'test/fuzz/ioctls.c')
  const options = ['-Wall', '-Wextra', '-Werror', '-O1', '-static', '-pthread']
  execFileSync('cc', [...options, '-o', to, source], { stdio: ['ignore', 'inherit', 'inherit'] })
  return to
}

/** The program, from one kexec of its machine to the next. */
class Generation {
  readonly #stage: EmulationStage
  readonly #program: ChildProcess
  readonly #answers: AsyncIterator<string>
  #complaints = ''
  /** Of luod and the notifier, and how many files they have open at most when the program has none. */
  #pids: number[] = []
  #files: number[] = []

  private constructor(stage: EmulationStage, program: string, which: 'first' | 'later') {
    this.#stage = stage
    const args = [LUOCTL, 'emulate', '--machine', MACHINE, '--', program, which]
    const env = { ...process.env, LUO_SOCKET: stage.socket }
    this.#program = spawn(process.execPath, args, { env, stdio: ['pipe', 'pipe', 'pipe'] })
    this.#program.stderr?.on('data', (data) => {
      this.#complaints += data
    })
    this.#program.stdin?.on('error', () => {})
    this.#answers = createInterface({ input: this.#program.stdout ?? process.stdin })[Symbol.asyncIterator]()
  }

  static async begin(stage: EmulationStage, program: string, which: 'first' | 'later'): Promise<Generation> {
    const generation = new Generation(stage, program, which)
    await generation.play('')
    generation.#pids = [await stage.luodPid(), stage.notifierOf(MACHINE)]
    generation.#files = generation.#pids.map(openFiles)
    return generation
  }

  async play(text: string): Promise<void> {
    this.#program.stdin?.write(`${text}${text === '' || text.endsWith('\n') ? '' : '\n'}end\n`)
    const answer = await this.#answer()
    if (!answer.startsWith('fine')) throw new Error(answer)
    if (!HAS_DEVICE && existsSync(DEVICE)) {
      rmSync(DEVICE)
      throw new Error(`the program has made ${DEVICE}`)
    }
    // What was handed over is finished in time, and then gone: less is what there may be from then on.
    this.#files = await eventually(
      () => this.#pids.map(openFiles),
      (files) => files.every((count, index) => count <= (this.#files[index] ?? 0)),
      `luod and the notifier had ${this.#files} open files, and have`,
    )
  }

  async #answer(): Promise<string> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<string>((resolve) => {
      timer = setTimeout(() => resolve('the program hangs'), ANSWER_MS)
    })
    const next = this.#answers.next().then(({ value }) => String(value ?? `the program has ended: ${this.#complaints}`))
    const answer = await Promise.race([next, late])
    clearTimeout(timer)
    return answer
  }

  /** By a kexec: what it holds is what the next one finds. */
  async handOver(): Promise<void> {
    await this.play('inventory')
    const { code, errors } = await this.#stage.run('kexec', '--emulated', '--machine', MACHINE)
    if (code !== 0) throw new Error(`the kexec ended with ${code}: ${errors}`)
    await this.end()
  }

  async end(): Promise<void> {
    this.#program.stdin?.end()
    if (this.#program.exitCode !== null || this.#program.signalCode !== null) return
    const ended = once(this.#program, 'exit')
    // One that hangs ends with its notifier.
    const timer = setTimeout(() => {
      for (const pid of this.#pids.slice(1)) process.kill(pid, 'SIGKILL')
      this.#program.kill('SIGKILL')
    }, END_MS)
    await ended
    clearTimeout(timer)
  }
}

class Ioctls implements LiveTarget {
  readonly inputs = lines
  readonly #stage: EmulationStage
  readonly #program: string
  #generation: Generation
  #inputs = 0

  constructor(stage: EmulationStage, program: string, generation: Generation) {
    this.#stage = stage
    this.#program = program
    this.#generation = generation
  }

  async check(input: Uint8Array): Promise<void> {
    if (this.#inputs++ % INPUTS_OF_A_GENERATION === 0) await this.#renew()
    await this.#generation.play(Buffer.from(input).toString('latin1'))
  }

  async #renew(): Promise<void> {
    await this.#generation.handOver()
    this.#generation = await Generation.begin(this.#stage, this.#program, 'later')
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#generation.end()
    await this.#stage.run('machines', '--end', MACHINE)
  }
}

export async function ioctlsOn(stage: EmulationStage): Promise<LiveTarget> {
  const program = compile(join(stage.folder, 'ioctls'))
  return new Ioctls(stage, program, await Generation.begin(stage, program, 'first'))
}

/** With a luod of its own. */
export async function ioctls(): Promise<LiveTarget> {
  const stage = new EmulationStage()
  const target = await ioctlsOn(stage)
  return {
    inputs: target.inputs,
    check: (input) => target.check(input),
    [Symbol.asyncDispose]: async () => {
      await target[Symbol.asyncDispose]()
      await stage.dispose()
    },
  }
}
