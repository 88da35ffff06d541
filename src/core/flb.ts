/**
 * File-lifecycle-bound state (FLB): something that several files share, and that lives for as long as any of them is
 * preserved. It is preserved for the first file, and given back by whoever lets go last: `unpreserve` before the
 * transition, `finish` after it.
 *
 * Whoever uses the object outside of these operations holds it, with `get` and `put`; the counts include such users,
 * also the count that is handed over. A `retrieve` that fails has failed for good. `unpreserve` and `finish` must not
 * fail; what they throw goes to whoever let go, after the count is right.
 *
 * The kernel (as read from its source) counts wrong when nobody has retrieved an FLB before its last file is finished:
 * it reads the count that came in only with `retrieve`. Here it is known from the start.
 */
import { type LuoFlb, MAX_FLBS } from '../abi/luo.js'
import type { Json } from '../abi/records.js'
import { asLuoError, LuoError } from '../errors.js'
import { attempt } from './attempt.js'

export interface KeptFlb<O = unknown> {
  /** The one word that crosses the transition. */
  data: bigint
  object: O
}

export interface Flb<O = unknown> {
  /** Name and version: "hugetlb-pool-v1". 1 to 47 bytes. */
  readonly compatible: string
  /** For the first file that depends on it. */
  preserve(): KeptFlb<O>
  /** At the last put before the transition. */
  unpreserve(kept: KeptFlb<O>): void
  /** On demand, once, in the next generation. */
  retrieve(data: bigint): O
  /** At the last put in the next generation. */
  finish(kept: KeptFlb<O>): void
  /** What an orchestrator after this one, on the same kernel, has to know to go on with the object. */
  save?(object: O): Json
  /** The object as `save` had it, instead of `preserve`. Both or none: without them `preserve` is called again. */
  load?(saved: Json): KeptFlb<O>
}

interface Outgoing extends KeptFlb {
  count: bigint
}

interface Incoming {
  readonly data: bigint
  count: bigint
  /** What `retrieve` made of it, or why it cannot. */
  retrieved?: { object: unknown } | { error: LuoError }
}

const OPERATIONS = ['preserve', 'unpreserve', 'retrieve', 'finish'] as const

/** What is saved of one, for the orchestrator after this one. */
export interface SavedFlb {
  compatible: string
  saved: Json
}

export class Flbs {
  /** In order of registration. */
  readonly #known = new Map<string, Flb>()
  readonly #outgoing = new Map<Flb, Outgoing>()
  readonly #incoming = new Map<string, Incoming>()
  /** Whether the generation before handed over anything at all. */
  #received = false

  /** Again for the same object does nothing. EEXIST when another one has its name. */
  register(flb: Flb): void {
    const { compatible } = flb
    const missing = OPERATIONS.filter((operation) => typeof flb[operation] !== 'function')
    if (missing.length > 0) throw new LuoError('EINVAL', `register FLB ${compatible}: no ${missing.join(', ')}`)
    const known = this.#known.get(compatible)
    if (known === flb) return
    if (known) throw new LuoError('EEXIST', `register FLB ${compatible}: another one has this name`)
    if (this.#known.size >= MAX_FLBS) {
      throw new LuoError('ENOSPC', `register FLB ${compatible}: ${MAX_FLBS} are there, and no more can be`)
    }
    this.#known.set(compatible, flb)
  }

  // --- outgoing ------------------------------------------------------------------------------------------------------

  /** A file that depends on `flb` is being preserved. */
  take(flb: Flb): void {
    const known = this.#outgoing.get(flb)
    if (known) known.count += 1n
    else this.#outgoing.set(flb, { ...attempt(`preserve FLB ${flb.compatible}`, () => flb.preserve()), count: 1n })
  }

  /** The object that is to be handed over, held until `putOutgoing`. ENOENT when no file holds it. */
  getOutgoing<O>(flb: Flb<O>): O {
    const known = this.#outgoing.get(flb as Flb)
    if (!known) throw new LuoError('ENOENT', `get outgoing FLB ${flb.compatible}: no preserved file holds it`)
    known.count += 1n
    return known.object as O
  }

  /** Undo of `take` and of `getOutgoing`. */
  putOutgoing<O>(flb: Flb<O>): void {
    const known = this.#outgoing.get(flb as Flb)
    if (!known) throw new LuoError('LUO_WRONG_STATE', `put outgoing FLB ${flb.compatible}: nobody holds it`)
    known.count -= 1n
    if (known.count > 0n) return
    this.#outgoing.delete(flb as Flb)
    const { data, object } = known
    attempt(`unpreserve FLB ${flb.compatible}`, () => flb.unpreserve({ data, object: object as O }))
  }

  /** What is handed over, in order of registration. */
  records(): LuoFlb[] {
    const records: LuoFlb[] = []
    for (const [compatible, flb] of this.#known) {
      const known = this.#outgoing.get(flb)
      if (known) records.push({ compatible, data: known.data, count: known.count })
    }
    return records
  }

  /** What came in, with the counts as they are now. */
  incomingRecords(): LuoFlb[] {
    return [...this.#incoming].map(([compatible, { data, count }]) => ({ compatible, data, count }))
  }

  /** Of those that can be saved. */
  save(): SavedFlb[] {
    const all: SavedFlb[] = []
    for (const [flb, { object }] of this.#outgoing) {
      if (flb.save) all.push({ compatible: flb.compatible, saved: flb.save(object) })
    }
    return all
  }

  /** Goes on with what an orchestrator before this one had. ENOENT when it is not known, or cannot. */
  load({ compatible, saved }: SavedFlb): void {
    const flb = this.#known.get(compatible)
    if (!flb?.load) throw new LuoError('ENOENT', `load FLB ${compatible}: there is none that can be`)
    const { load } = flb
    this.#outgoing.set(flb, { ...attempt(`load FLB ${compatible}`, () => load.call(flb, saved)), count: 0n })
  }

  /** Gives back what was loaded and no file has taken. */
  settle(): void {
    for (const [flb, known] of [...this.#outgoing]) {
      if (known.count > 0n) continue
      known.count = 1n
      this.putOutgoing(flb)
    }
  }

  // --- incoming ------------------------------------------------------------------------------------------------------

  /** What the generation before handed over, once. EEXIST, and nothing has come in, when one is there twice. */
  receive(records: readonly LuoFlb[]): void {
    const names = new Set<string>()
    for (const { compatible } of records) {
      if (names.has(compatible)) throw new LuoError('EEXIST', `receive FLB ${compatible}: it was handed over twice`)
      names.add(compatible)
    }
    this.#received = true
    for (const { compatible, data, count } of records) this.#incoming.set(compatible, { data, count })
  }

  /**
   * The object that came in, held until `putIncoming`. ENODATA: nothing came in, or it is finished. ENOENT: not this.
   */
  getIncoming<O>(flb: Flb<O>): O {
    const known = this.#incoming.get(flb.compatible)
    if (known?.count === 0n || (!known && !this.#received)) {
      throw new LuoError(
        'ENODATA',
        `get incoming FLB ${flb.compatible}: ${known ? 'it is finished' : 'nothing came in'}`,
      )
    }
    if (!known) throw new LuoError('ENOENT', `get incoming FLB ${flb.compatible}: it did not come in`)
    const object = this.#retrieve(flb as Flb, known)
    known.count += 1n
    return object as O
  }

  /**
   * Undo of `getIncoming`, and a file that depends on it is finished. What did not come in is nobody's to give back.
   */
  putIncoming<O>(flb: Flb<O>): void {
    const known = this.#incoming.get(flb.compatible)
    if (!known || known.count === 0n) return
    if (known.count > 1n) {
      known.count -= 1n
      return
    }
    // Retrieved first, if nobody had: `finish` is for the object.
    let object: unknown
    try {
      object = this.#retrieve(flb as Flb, known)
    } catch {
      // It has failed for good; there is nothing to finish.
      known.count = 0n
      return
    }
    known.count = 0n
    attempt(`finish FLB ${flb.compatible}`, () => flb.finish({ data: known.data, object: object as O }))
  }

  #retrieve(flb: Flb, known: Incoming): unknown {
    if (!known.retrieved) {
      try {
        known.retrieved = { object: flb.retrieve(known.data) }
      } catch (error) {
        known.retrieved = { error: asLuoError(error, 'EIO', `retrieve FLB ${flb.compatible}`) }
      }
    }
    if ('error' in known.retrieved) throw known.retrieved.error
    return known.retrieved.object
  }

  /** The counts, for tests and for people. */
  counts(): { compatible: string; outgoing: bigint; incoming: bigint }[] {
    const names = new Set([...this.#known.keys(), ...this.#incoming.keys()])
    return [...names].map((compatible) => {
      const flb = this.#known.get(compatible)
      const outgoing = (flb && this.#outgoing.get(flb)?.count) ?? 0n
      return { compatible, outgoing, incoming: this.#incoming.get(compatible)?.count ?? 0n }
    })
  }
}
