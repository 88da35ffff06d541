/**
 * A play: workloads that run, and updates of their group in which both sides of each do what they should, but for what
 * a script does at one point.
 */
import { expect } from 'vitest'
import type { Methods } from '../../src/protocol/types.js'
import { eventually, type Puppet, type Stage } from './stage.js'

const DEADLINE_MS = 60_000

/** Who needs whom. */
export type Needs = Record<string, string[]>

/** Where a side stops to do what the test says, in the order of an update. */
const POINTS = [
  'new before join',
  'new before claim',
  'new after claim',
  'old before ready',
  'old after ready',
  'new before commit',
  'new after commit',
  'old before released',
] as const
export type Point = (typeof POINTS)[number]

interface Member {
  name: string
  old: Puppet
  member: string
}

export interface Successor {
  puppet: Puppet
  member: string
}

export type Outcome = NonNullable<Methods['UpdateGroup']['output']['outcomes']>[number]

/** What happens at a point; `stop` and that side does nothing more. */
export type Script = (
  name: string,
  point: Point,
  side: Puppet,
  play: Play,
) => Promise<'stop' | undefined> | 'stop' | undefined

export const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Workloads that run, and how their group update goes. */
export class Play {
  readonly stage: Stage
  readonly members = new Map<string, Member>()
  /** What was seen, in its order. */
  log: string[] = []
  successors = new Map<string, Successor>()
  #updates = 0
  #failure: unknown

  static async start(stage: Stage, needs: Needs): Promise<Play> {
    const play = new Play(stage)
    const started = Object.entries(needs).map(([name, after]) =>
      stage.supervised(
        name,
        after.flatMap((other) => ['--after', other]),
      ),
    )
    for (const old of await Promise.all(started)) {
      const { workload: name = '' } = old
      const { member, session } = await old.join(name)
      await old.do('memfd', { name: 'store', size: 4096 })
      const file = { token: '1', fd: 0, format: 'store/1' }
      await old.call('Preserve', { id: `preserve-${old.pid}`, session, files: [file], fds: 1 }, { send: ['store'] })
      await old.call('Commit', { id: `first-${old.pid}`, member })
      play.members.set(name, { name, old, member })
    }
    return play
  }

  private constructor(stage: Stage) {
    this.stage = stage
  }

  of(name: string): Member {
    return this.members.get(name) as Member
  }

  openFds(): Promise<number> {
    return this.stage.call('Status', {}).then(({ open_fds }) => open_fds)
  }

  /** One update of all, in which both sides of each do what they should, but for what `script` does. */
  async update(
    script: Script = () => undefined,
    options: Partial<Methods['UpdateGroup']['input']> = {},
  ): Promise<Record<string, Outcome>> {
    this.log = []
    this.successors = new Map()
    this.#failure = undefined
    for (const { old } of this.members.values()) old.events.length = 0
    this.stage.newPuppets()
    const id = `group-${this.#updates++}`
    const result = this.stage.call('UpdateGroup', {
      id,
      workloads: [...this.members.keys()],
      deadline_ms: DEADLINE_MS,
      ...options,
    })
    let over = false
    const end = () => {
      over = true
    }
    result.then(end, end)
    for (const member of this.members.values()) this.#old(member, script).catch(() => {})
    while (!over) {
      // One that is killed early may never come.
      for (const puppet of this.stage.newPuppets()) if (puppet.alive) this.#new(puppet, script).catch(() => {})
      await wait(5)
    }
    if (this.#failure) throw this.#failure
    const { outcomes = [] } = await result
    for (const { workload, outcome } of outcomes) this.#ended(workload, outcome)
    return Object.fromEntries(outcomes.map((outcome) => [outcome.workload, outcome]))
  }

  /** Who is the old version of the next update. */
  #ended(name: string, outcome: Outcome['outcome']): void {
    const { puppet, member } = this.successors.get(name) ?? {}
    if (outcome === 'orphaned') this.members.delete(name)
    if (outcome === 'committed' && puppet && member) this.members.set(name, { name, old: puppet, member })
  }

  async #stops(script: Script, name: string, point: Point, side: Puppet): Promise<boolean> {
    try {
      return (await script(name, point, side, this)) === 'stop'
    } catch (error) {
      this.#failure ??= error
      throw error
    }
  }

  async #new(side: Puppet, script: Script): Promise<void> {
    const { workload: name = '' } = side
    const successor = { puppet: side, member: '' }
    this.successors.set(name, successor)
    const stops = (point: Point) => this.#stops(script, name, point, side)
    if (await stops('new before join')) return
    const { member } = await side.join(name)
    successor.member = member
    if (await stops('new before claim')) return
    this.log.push(`${name} claims`)
    const claim = side.call('Claim', { id: `claim-${side.pid}`, member })
    claim.catch(() => {})
    if (await stops('new after claim')) return
    await claim
    this.log.push(`${name} restores`)
    if (await stops('new before commit')) return
    this.log.push(`${name} is whole`)
    const commit = side.call('Commit', { id: `commit-${side.pid}`, member })
    commit.catch(() => {})
    if (await stops('new after commit')) return
    await commit
    this.log.push(`${name} commits`)
  }

  async #old({ name, old, member }: Member, script: Script): Promise<void> {
    const stops = (point: Point) => this.#stops(script, name, point, old)
    const turn = this.#updates
    // An update in which it is not asked leaves it waiting for the next one.
    const hears = async (event: string) => {
      const heard = await old.event(event)
      if (turn !== this.#updates) throw new Error('this update is over')
      return heard
    }
    const { update = '' } = await hears('prepare')
    this.log.push(`${name} prepares`)
    if (await stops('old before ready')) return
    this.log.push(`${name} is ready`)
    await old.call('Ready', { id: `ready-${old.pid}-${update}`, member, update })
    if (await stops('old after ready')) return
    await hears('release')
    this.log.push(`${name} is asked for its word`)
    if (await stops('old before released')) return
    this.log.push(`${name} gives its word`)
    await old.call('Released', { id: `released-${old.pid}`, member, update })
  }

  /** `first` was seen, and before `second`. */
  inOrder(first: string, second: string): void {
    expect(this.log).toContain(first)
    expect(this.log).toContain(second)
    expect(this.log.indexOf(first), `${first}, then ${second}: ${this.log}`).toBeLessThan(this.log.indexOf(second))
  }

  /** Its old version goes on, knows it if it was asked, and its successor is dead. */
  async goesOn(name: string): Promise<void> {
    const { old } = this.of(name)
    if (old.events.some(({ event }) => event === 'prepare')) await old.event('resume')
    const { workload } = await this.stage.call('Show', { workload: name })
    expect(workload).toMatchObject({ state: 'running', pid: old.pid })
    expect(workload.update).toBeUndefined()
    const { puppet } = this.successors.get(name) ?? {}
    if (puppet) await isDead(puppet)
  }

  async hasOpen(fds: number): Promise<void> {
    await eventually(
      () => this.openFds(),
      (now) => now === fds,
      `luod had ${fds} open files`,
    )
  }
}

export async function isDead(puppet: Puppet): Promise<void> {
  await eventually(
    () => puppet.alive,
    (alive) => !alive,
    `pid ${puppet.pid} lives`,
  )
}
