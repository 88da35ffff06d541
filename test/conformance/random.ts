/**
 * Scripts made at random, from a seed: calls in orders that nobody thought of. The engine is asked on the way, so that
 * most calls are of what is there: others fail for the dullest reasons. Scripts stay away from what an emulated device
 * does otherwise on purpose (docs/deviations.md).
 */
import { Engine } from './engine.js'
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
  return Array.from({ length: count }, (_, index) => {
    using engine = new Engine(() => {})
    return new Writer(index, random, engine).script()
  })
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

/** What is in a session, over kexecs too. */
interface Contents {
  readonly name: string
  readonly tokens: Set<string>
}

type Kind = 'session' | 'file' | 'flight'

interface Variable {
  readonly kind: Kind
  readonly contents?: Contents
}

interface Process {
  /** As a line begins. */
  readonly prefix: string
  readonly variables: Map<string, Variable>
  readonly device: 'd' | 'none'
}

/** In percent: a call of something that is not there, or not so. */
const ODD = 6

class Writer {
  readonly #index: number
  readonly #random: Random
  readonly #engine: Engine
  readonly #parts: Step[][] = []
  #processes: Process[] = []
  /** In sessions that came in. */
  #handedOver: Contents[] = []
  #next = 0

  constructor(index: number, random: Random, engine: Engine) {
    this.#index = index
    this.#random = random
    this.#engine = engine
  }

  script(): Script {
    const parts = 1 + this.#random(3)
    for (let part = 0; part < parts; part++) {
      if (part > 0) this.#kexec()
      this.#parts.push([])
      this.#processes = [{ prefix: '', variables: new Map(), device: 'd' }]
      this.#say('open d')
      for (let left = 5 + this.#random(MAX_STEPS); left > 0; left--) this.#step()
      this.#say('close d')
    }
    return { name: `random ${this.#index}`, parts: this.#parts }
  }

  #kexec(): void {
    this.#engine.kexec()
    const held = this.#processes.flatMap(({ variables }) => [...variables.values()])
    this.#handedOver = held.flatMap(({ contents }) => (contents ? [contents] : []))
  }

  /** Whether it was well. */
  #say(text: string): boolean {
    this.#parts.at(-1)?.push({ text })
    const answer = this.#engine.answer(text)
    return 'answer' in answer && answer.answer.startsWith('ok')
  }

  #one<T>(of: readonly T[]): T {
    return of[this.#random(of.length)] as T
  }

  #oddly(): boolean {
    return this.#random(100) < ODD
  }

  /** A line that binds a new variable, where it is well. */
  #make({ prefix, variables }: Process, verb: string, rest: string, variable: Variable): void {
    const name = `v${this.#next++}`
    if (this.#say(`${prefix}${verb} ${name} ${rest}`)) variables.set(name, variable)
  }

  #pick({ variables }: Process, kind: Kind): { name: string; contents: Contents } {
    const known = [...variables].filter(([, variable]) => variable.kind === kind)
    const [name, variable] = known.length === 0 || this.#oddly() ? ['none', undefined] : this.#one(known)
    return { name, contents: variable?.contents ?? { name: '', tokens: new Set() } }
  }

  #step(): void {
    const process = this.#one(this.#processes)
    const { prefix, variables } = process
    const has = (kind: Kind) => [...variables.values()].some((variable) => variable.kind === kind)
    const session = has('session') ? 1 : 0
    const file = has('file') ? 1 : 0
    const isFirst = prefix === ''
    const choices: [weight: number, write: () => void][] = [
      [4, () => this.#create(process)],
      [this.#handedOver.length > 0 ? 6 : 1, () => this.#retrieveSession(process)],
      [8 * session * file, () => this.#preserve(process)],
      [(this.#handedOver.length > 0 ? 6 : 1) * session, () => this.#retrieve(process)],
      [session, () => this.#say(`${prefix}finish ${this.#pick(process, 'session').name}`)],
      [session, () => this.#say(`${prefix}name ${this.#pick(process, 'session').name}`)],
      [4, () => this.#make(process, 'memfd', `size=${SIZE}${this.#one(SEALS)}`, { kind: 'file' })],
      [4 * file, () => this.#useFile(process)],
      [2, () => this.#close(process)],
      [2 * session, () => this.#copy(process, 'dup')],
      [file, () => this.#reopen(process)],
      [session, () => this.#copy(process, 'flight')],
      [has('flight') ? 2 : 0, () => this.#land(process)],
      [isFirst && this.#processes.length < 3 ? 2 : 0, () => this.#spawn(process)],
      [isFirst && this.#processes.length > 1 ? 5 : 0, () => this.#end(process)],
    ]
    let at = this.#random(choices.reduce((sum, [weight]) => sum + weight, 0))
    const chosen = choices.find(([weight]) => {
      at -= weight
      return at < 0
    })
    chosen?.[1]()
  }

  /** Scripts share a machine: each has names of its own. */
  #newName(): string {
    return `r${this.#index}-${this.#one(NAMES)}`
  }

  #create(process: Process): void {
    const contents = { name: this.#newName(), tokens: new Set<string>() }
    this.#make(process, 'create', `${process.device} "${contents.name}"`, { kind: 'session', contents })
  }

  #retrieveSession(process: Process): void {
    const known = this.#handedOver.length === 0 || this.#oddly() ? undefined : this.#one(this.#handedOver)
    const contents = known ?? { name: this.#newName(), tokens: new Set<string>() }
    this.#make(process, 'retrieve-session', `${process.device} "${contents.name}"`, { kind: 'session', contents })
  }

  #preserve(process: Process): void {
    const session = this.#pick(process, 'session')
    const token = this.#one(TOKENS)
    const { name } = this.#pick(process, this.#oddly() ? 'flight' : 'file')
    if (this.#say(`${process.prefix}preserve ${session.name} ${name} ${token}`)) session.contents.tokens.add(token)
  }

  #retrieve(process: Process): void {
    const session = this.#pick(process, 'session')
    const { tokens } = session.contents
    const token = this.#one(tokens.size === 0 || this.#oddly() ? TOKENS : [...tokens])
    this.#make(process, 'retrieve', `${session.name} ${token}`, { kind: 'file' })
  }

  #useFile(process: Process): void {
    const { name } = this.#pick(process, 'file')
    const line = this.#one([
      `pwrite ${name} ${this.#random(SIZE - 2)} "${this.#one(['x', 'y', 'zz'])}"`,
      `pread ${name} ${this.#random(SIZE)} 5`,
      `seek ${name} ${this.#random(SIZE)}`,
      `read ${name} 3`,
      `position ${name}`,
      `seals ${name}`,
      `size ${name}`,
      `same-file ${name} ${this.#pick(process, 'file').name}`,
    ])
    this.#say(`${process.prefix}${line}`)
  }

  #close({ prefix, variables }: Process): void {
    if (variables.size === 0) return
    const name = this.#one([...variables.keys()])
    variables.delete(name)
    this.#say(`${prefix}close ${name}`)
  }

  #copy(process: Process, how: 'dup' | 'flight'): void {
    const kind = this.#one<Kind>(['session', 'session', 'file'])
    const { name, contents } = this.#pick(process, kind)
    const held = kind === 'session' ? { contents } : {}
    this.#make(process, how, name, { kind: how === 'dup' ? kind : 'flight', ...held })
  }

  #reopen(process: Process): void {
    const how = this.#one(['', ' readonly'])
    this.#make(process, 'reopen', `${this.#pick(process, 'file').name}${how}`, { kind: 'file' })
  }

  #land(process: Process): void {
    const { name, contents } = this.#pick(process, 'flight')
    const landed: Variable = contents.name === '' ? { kind: 'file' } : { kind: 'session', contents }
    this.#make(process, 'land', name, landed)
  }

  #spawn({ variables }: Process): void {
    const name = `p${this.#next++}`
    const child: Process = { prefix: `${name}: `, variables: new Map(variables), device: 'none' }
    this.#processes.push(child)
    this.#say(`spawn ${name}`)
    // With its last close, the first process's, the device must be free for the next script.
    this.#say(`${child.prefix}close d`)
  }

  #end(first: Process): void {
    const [, ...others] = this.#processes
    const process = this.#one(others)
    const name = process.prefix.slice(0, -2)
    const fresh = [...first.variables.keys()].filter((each) => !process.variables.has(each))
    const action = this.#random(5)
    if (action < 2 && fresh.length > 0) {
      const passed = this.#one(fresh)
      process.variables.set(passed, first.variables.get(passed) as Variable)
      this.#say(`pass ${name} ${passed}`)
      return
    }
    if (action === 2) {
      // What is close-on-exec goes; what is left, nobody uses.
      this.#say(`exec ${name}`)
      this.#processes = [first, ...others.filter((each) => each !== process)]
      return
    }
    this.#processes = [first, ...others.filter((each) => each !== process)]
    this.#say(`${action === 3 ? 'leave' : 'kill'} ${name}`)
  }
}
