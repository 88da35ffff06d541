/**
 * The pool of huge pages, for files that have holes. A successor maps such a file and touches a hole: without a page
 * for it, that is SIGBUS. So when a file of huge pages is preserved, pages are reserved for all of its holes. Where the
 * kernel's pool has too few, luod adds what is missing, if it may; else preserving fails with ENOMEM.
 *
 * What was added is one piece of state that all of these files share, an FLB: it is preserved with the first of them,
 * crosses in the memory that is handed over, and is given back when the last of them is let go of. The reserved pages
 * themselves are the files': they leave the pool when their file ends, even if that is after the last was let go of.
 *
 * A luod that is killed gives nothing back. `nr_hugepages` is one number for the whole machine: whoever sets it
 * meanwhile has the last word.
 */
import { totalmem } from 'node:os'
import type { Flb } from '../core/flb.js'
import { LuoError } from '../errors.js'
import { availableHugePages, changeHugePool, hugeHoles, reserveHoles } from '../sys/hugepages.js'
import type { HandlerContext } from './context.js'
import type { HeldFile } from './held-file.js'

export const HUGETLB_POOL = 'hugetlb-pool-v1'
/** Sizes of huge pages that one machine has: 2 on x86-64, 4 on arm64. */
const MAX_SIZES = 8
/** For each size: u64 bytes of a page, u64 pages that were added; 0 bytes ends it. */
const ENTRY_BYTES = 16
const RECORD_BYTES = MAX_SIZES * ENTRY_BYTES
/** luod takes at most this part of the machine's memory for holes: what any user asks for is set aside for it. */
const DEFAULT_SHARE = 1 / 4

export interface HugetlbPoolOptions {
  /** How much memory may be added to the pool. Default: a quarter of the machine's. 0: never touch it. */
  maxBytes?: number
}

/** Pages that were added, by the size of a page. */
type Added = Map<number, number>

interface Reserve {
  /** Of the record that is handed over. */
  readonly address: bigint
  readonly added: Added
}

export interface HugetlbPool {
  flb: Flb<Reserve>
  /** Reserves pages for the holes of a preserved file. ENOMEM when they cannot be had. */
  back(file: HeldFile): void
}

export function hugetlbPool(
  { registry, memory, received }: Pick<HandlerContext, 'registry' | 'memory' | 'received'>,
  { maxBytes = Math.floor(totalmem() * DEFAULT_SHARE) }: HugetlbPoolOptions = {},
): HugetlbPool {
  const flb: Flb<Reserve> = {
    compatible: HUGETLB_POOL,
    preserve: () => {
      const address = memory.allocate(new Uint8Array(RECORD_BYTES))
      return { data: address, object: { address, added: new Map() } }
    },
    unpreserve: ({ object: { address, added } }) => {
      memory.free(address)
      giveBack(added)
    },
    retrieve: (address) => ({ address, added: decode(received().read(address, RECORD_BYTES)) }),
    finish: ({ object: { address, added } }) => {
      received().free(address)
      giveBack(added)
    },
    save: ({ added }) => Object.fromEntries(added),
    load: (saved) => {
      const added: Added = new Map(
        Object.entries(saved).map(([pageBytes, pages]) => [Number(pageBytes), Number(pages)]),
      )
      const address = memory.allocate(encode(added))
      return { data: address, object: { address, added } }
    },
  }

  /** Answers whether the pool has all of them now. */
  const change = ({ address, added }: Reserve, pageBytes: number, pages: number): boolean => {
    const changed = changeHugePool(pageBytes, pages)
    added.set(pageBytes, (added.get(pageBytes) ?? 0) + changed)
    memory.write(address, encode(added))
    return changed === pages
  }

  const grow = ({ fd }: HeldFile, reserve: Reserve): void => {
    const { pageBytes, pages } = hugeHoles(fd)
    const missing = Math.max(1, pages - availableHugePages(pageBytes))
    const refuse = (why: string, cause?: unknown) => {
      const pool = `/sys/kernel/mm/hugepages/hugepages-${pageBytes / 1024}kB/nr_hugepages`
      const what = `reserve up to ${missing} more huge pages of ${pageBytes / 1024} kB for the holes of a file`
      const advice = `add them to ${pool}, or write to the holes first, or make the file shorter`
      return new LuoError('ENOMEM', `${what}: ${why}; ${advice}`, { cause })
    }
    if (bytesOf(reserve.added) + missing * pageBytes > maxBytes) {
      throw refuse(`luod adds ${maxBytes} bytes to the pool at most`)
    }
    const before = reserve.added.get(pageBytes) ?? 0
    try {
      if (change(reserve, pageBytes, missing) && reserveHoles(fd)) {
        // Pages may have been reserved for some of the holes before.
        const unneeded = Math.min(missing, availableHugePages(pageBytes))
        if (unneeded > 0) change(reserve, pageBytes, -unneeded)
        return
      }
      change(reserve, pageBytes, before - (reserve.added.get(pageBytes) ?? 0))
    } catch (error) {
      // Not root, or /sys cannot be written to.
      throw refuse('luod may not change the pool', error)
    }
    throw refuse("the kernel has no memory for them, or a cgroup's limit is reached")
  }

  const back = (file: HeldFile): void => {
    if (reserveHoles(file.fd)) return
    const reserve = registry.flbs.getOutgoing(flb)
    try {
      grow(file, reserve)
    } finally {
      registry.flbs.putOutgoing(flb)
    }
  }
  return { flb, back }
}

function bytesOf(added: Added): number {
  return [...added].reduce((sum, [pageBytes, pages]) => sum + pageBytes * pages, 0)
}

/** All sizes, also when one cannot be; then the first failure is thrown. */
function giveBack(added: Added): void {
  const failures: unknown[] = []
  for (const [pageBytes, pages] of added) {
    if (pages <= 0) continue
    try {
      changeHugePool(pageBytes, -pages)
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
}

function encode(added: Added): Uint8Array {
  if (added.size > MAX_SIZES) throw new LuoError('EOVERFLOW', `huge pages of ${added.size} sizes: ${MAX_SIZES} at most`)
  const view = new DataView(new ArrayBuffer(RECORD_BYTES))
  let at = 0
  for (const [pageBytes, pages] of added) {
    view.setBigUint64(at, BigInt(pageBytes), true)
    view.setBigUint64(at + 8, BigInt(pages), true)
    at += ENTRY_BYTES
  }
  return new Uint8Array(view.buffer)
}

function decode(bytes: Uint8Array): Added {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const added: Added = new Map()
  for (let at = 0; at < RECORD_BYTES; at += ENTRY_BYTES) {
    const pageBytes = Number(view.getBigUint64(at, true))
    if (pageBytes > 0) added.set(pageBytes, Number(view.getBigUint64(at + 8, true)))
  }
  return added
}
