/**
 * Scripts made at random, from a seed: calls in orders that nobody thought of. They stay away from what an emulated
 * device does otherwise on purpose (docs/deviations.md).
 */
import type { Script, Step } from './script.js'

export const RANDOM_SCRIPTS = 60
const MAX_STEPS = 30
const NAMES = ['a', 'b', 'c', '\\xff', 'n'.repeat(50)]
const TOKENS = ['0', '1', '2', '0xffffffffffffffff']
const SEALS = ['', ' seals=1', ' seals=2', ' seals=6', ' seals=15', ' seals=16', ' flags=sealing,noexec']
const SIZE = 100

export function seedOf(text: string | undefined): number {
  return text === undefined ? Date.now() % 2 ** 31 : Number(text)
}

export function randomScripts(seed: number, count: number): Script[] {
  const random = randomOf(seed)
  return Array.from({ length: count }, (_, index) => new Writer(`random ${index}`, index, random).script())
}

type Random = (below: number) => number

/** mulberry32. */
function randomOf(seed: number): Random {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below
  }
}

type Kind = 'session' | 'file' | 'flight'

interface Process {
  /** As a line begins. */
  readonly prefix: string
  /** Variables that may be bound: a call that made one may have failed. */
  readonly names: Map<string, Kind>
  hasDevice: boolean
}

class Writer {
  readonly #name: string
  readonly #index: number
  readonly #random: Random
  readonly #parts: Step[][] = []
  #processes: Process[] = []
  #next = 0

  constructor(name: string, index: number, random: Random) {
    this.#name = name
    this.#index = index
    this.#random = random
  }

  script(): Script {
    const parts = 1 + this.#random(3)
    for (let part = 0; part < parts; part++) {
      this.#parts.push([])
      this.#processes = [{ prefix: '', names: new Map(), hasDevice: true }]
      this.#say('open d')
      for (let left = 5 + this.#random(MAX_STEPS); left > 0; left--) this.#step(part)
      this.#say('close d')
    }
    return { name: this.#name, parts: this.#parts }
  }

  #say(text: string): void {
    this.#parts.at(-1)?.push({ text })
  }

  #one<T>(of: readonly T[]): T {
    return of[this.#random(of.length)] as T
  }

  #new(process: Process, kind: Kind): string {
    const name = `v${this.#next++}`
    process.names.set(name, kind)
    return name
  }

  /** Now and then one that is none. */
  #known(process: Process, kind: Kind): string {
    const names = [...process.names].filter(([, each]) => each === kind).map(([name]) => name)
    return names.length === 0 || this.#random(20) === 0 ? 'none' : this.#one(names)
  }

  /** Scripts share a machine: each has names of its own. */
  #sessionName(): string {
    return `"r${this.#index}-${this.#one(NAMES)}"`
  }

  #step(part: number): void {
    const process = this.#one(this.#processes)
    const { prefix, names } = process
    const say = (text: string) => this.#say(`${prefix}${text}`)
    const session = () => this.#known(process, 'session')
    const file = () => this.#known(process, 'file')
    const device = process.hasDevice ? 'd' : 'none'
    const choices: [weight: number, write: () => void][] = [
      [4, () => say(`create ${this.#new(process, 'session')} ${device} ${this.#sessionName()}`)],
      [
        part === 0 ? 1 : 8,
        () => say(`retrieve-session ${this.#new(process, 'session')} ${device} ${this.#sessionName()}`),
      ],
      [8, () => say(`preserve ${session()} ${file()} ${this.#one(TOKENS)}`)],
      [part === 0 ? 1 : 8, () => say(`retrieve ${this.#new(process, 'file')} ${session()} ${this.#one(TOKENS)}`)],
      [part === 0 ? 1 : 3, () => say(`finish ${session()}`)],
      [1, () => say(`name ${session()}`)],
      [4, () => say(`memfd ${this.#new(process, 'file')} size=${SIZE}${this.#one(SEALS)}`)],
      [1, () => say(`pwrite ${file()} ${this.#random(SIZE - 2)} "${this.#one(['x', 'y', 'zz'])}"`)],
      [1, () => say(`pread ${file()} ${this.#random(SIZE)} 5`)],
      [1, () => say(`seek ${file()} ${this.#random(SIZE)}`)],
      [1, () => say(`read ${file()} 3`)],
      [1, () => say(`position ${file()}`)],
      [1, () => say(`seals ${file()}`)],
      [1, () => say(`size ${file()}`)],
      [1, () => say(`same-file ${file()} ${file()}`)],
      [3, () => this.#close(process)],
      [2, () => this.#copy(process, 'dup')],
      [1, () => say(`reopen ${this.#new(process, 'file')} ${file()}${this.#one(['', ' readonly'])}`)],
      [1, () => this.#copy(process, 'flight')],
      [names.size > 0 ? 1 : 0, () => this.#land(process)],
      [prefix === '' && this.#processes.length < 3 ? 1 : 0, () => this.#spawn(process)],
      [prefix === '' && this.#processes.length > 1 ? 2 : 0, () => this.#end(process)],
    ]
    let at = this.#random(choices.reduce((sum, [weight]) => sum + weight, 0))
    const chosen = choices.find(([weight]) => {
      at -= weight
      return at < 0
    })
    chosen?.[1]()
  }

  #close({ prefix, names }: Process): void {
    if (names.size === 0) return
    const name = this.#one([...names.keys()])
    names.delete(name)
    this.#say(`${prefix}close ${name}`)
  }

  #copy(process: Process, how: 'dup' | 'flight'): void {
    const kind = this.#one<Kind>(['session', 'session', 'file'])
    const from = this.#known(process, kind)
    this.#say(`${process.prefix}${how} ${this.#new(process, how === 'dup' ? kind : 'flight')} ${from}`)
  }

  #land(process: Process): void {
    const from = this.#known(process, 'flight')
    this.#say(`${process.prefix}land ${this.#new(process, 'session')} ${from}`)
  }

  #spawn({ names }: Process): void {
    const name = `p${this.#next++}`
    const child = { prefix: `${name}: `, names: new Map(names), hasDevice: true }
    this.#processes.push(child)
    this.#say(`spawn ${name}`)
    // Only one keeps the device: with its last close it must be free for the next script.
    this.#say(`${child.prefix}close d`)
    child.hasDevice = false
  }

  #end(first: Process): void {
    const [, ...others] = this.#processes
    const process = this.#one(others)
    const name = process.prefix.slice(0, -2)
    const fresh = [...first.names.keys()].filter((each) => !process.names.has(each))
    const action = this.#random(3)
    if (action === 0 && fresh.length > 0) {
      const passed = this.#one(fresh)
      process.names.set(passed, first.names.get(passed) as Kind)
      this.#say(`pass ${name} ${passed}`)
      return
    }
    this.#processes = [first, ...others.filter((each) => each !== process)]
    this.#say(`${action === 1 ? 'leave' : 'kill'} ${name}`)
  }
}
