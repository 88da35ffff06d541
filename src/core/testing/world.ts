/**
 * One generation on fakes, and the way to the next: handler `a` has every optional operation, the inode as identity,
 * and the FLBs x and y; handler `b` has none, and the FLB y. What is handed over besides the records is in `memory`.
 */
import type { LuoState } from '../../abi/luo.js'
import { HandlerRegistry } from '../handler.js'
import { Orchestrator } from '../orchestrator.js'
import { type FakeFile, FakeFiles, FakeFlb, FakeHandler, Journal, Memory } from './fakes.js'

/** Survives a change of generation. */
export class Machine {
  readonly journal = new Journal()
  readonly files: FakeFiles
  readonly memory = new Memory()
  /** What was reported as a defect: the action, and the message. */
  readonly defects: string[] = []

  constructor(options: { ordered?: boolean } = {}) {
    this.files = new FakeFiles(this.journal, options)
  }

  /** `a`: the name that handler `a` has in this generation; undefined: there is none. */
  boot(options: { a?: string | undefined } = { a: 'a-v1' }): Generation {
    return new Generation(this, options.a)
  }
}

export class Generation {
  readonly registry = new HandlerRegistry<FakeFile>()
  readonly orchestrator: Orchestrator<FakeFile, string>
  readonly a: FakeHandler
  readonly b: FakeHandler
  readonly x: FakeFlb
  readonly y: FakeFlb

  constructor({ journal, files, memory, defects }: Machine, nameOfA: string | undefined) {
    const parts = { journal, files, memory }
    this.a = new FakeHandler({ ...parts, letter: 'a', optional: 'all', compatible: nameOfA })
    this.b = new FakeHandler({ ...parts, letter: 'b', optional: 'none' })
    this.x = new FakeFlb('x', journal, memory)
    this.y = new FakeFlb('y', journal, memory)
    if (nameOfA !== undefined) {
      this.registry.register(this.a)
      this.registry.registerFlb(this.a, this.x)
      this.registry.registerFlb(this.a, this.y)
    }
    this.registry.register(this.b)
    this.registry.registerFlb(this.b, this.y)
    this.orchestrator = new Orchestrator({
      registry: this.registry,
      files,
      onDefect: (error, action) => defects.push(`${action}: ${error instanceof Error ? error.message : String(error)}`),
    })
  }

  /** FLB counts: outgoing and incoming. */
  counts(): Record<string, readonly [bigint, bigint]> {
    return Object.fromEntries(
      this.registry.flbs.counts().map(({ compatible, outgoing, incoming }) => [compatible, [outgoing, incoming]]),
    )
  }
}

/** All the way to the next generation. */
export function handOver(machine: Machine, from: Generation, to: Generation): LuoState {
  from.orchestrator.freezeAll()
  const state = from.orchestrator.serialize()
  to.orchestrator.receive(state)
  from.orchestrator.end({ handedOver: true })
  machine.journal.take()
  return state
}
