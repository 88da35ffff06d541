/**
 * A preserved memfd as the kernel records it, `memfd-v2`. All little-endian and packed.
 *
 *     memfd_luo_ser          u64 position · u64 size · u32 seals · u32 flags · u64 folios · list of folio records:
 *                            u64 first chunk · u32 pages · u16 flags · u16 order
 *     chunk, one page        u64 next chunk · u64 addresses of the list's pages, ended by 0 or the end of the chunk
 *     list, in these pages   folio records, each u64 page number (52 bits) and flags above · u64 index in pages
 *
 * Damage is LUO_RECORDS and changes nothing. Reading takes no longer than the memory is large.
 */
import { LuoError } from '../errors.js'
import { ByteReader, checkU32, checkU64, damaged, hex, PAGE_BYTES, viewOf } from './bytes.js'
import type { HandoverMemory } from './handover-memory.js'
import { type ReadableMemory, visit } from './luo.js'

export const MEMFD_COMPATIBLE = 'memfd-v2'
const MEMFD_SER_BYTES = 48
const FOLIO_BYTES = 16
const PAGES_PER_CHUNK = PAGE_BYTES / 8 - 1
const PAGE_NUMBER_BITS = 52n
const DIRTY = 1n << PAGE_NUMBER_BITS
const UP_TO_DATE = 2n << PAGE_NUMBER_BITS
/** The memory of the list came from the kernel's vmalloc. */
const VMALLOC_FLAGS = 1

/** A piece of the contents. */
export interface MemfdFolio {
  /** Where it is in the handover memory: the start of a page. */
  address: bigint
  /** Where it is in the file, in pages. */
  index: bigint
  dirty: boolean
  upToDate: boolean
}

export interface MemfdState {
  position: bigint
  size: bigint
  /** F_SEAL_ bits. */
  seals: number
  flags: number
  folios: MemfdFolio[]
}

/** Writes the record of a memfd and answers its address; nothing is left behind on an error. The folios are there. */
export function encodeMemfd(memory: HandoverMemory, state: MemfdState): bigint {
  return memory.transaction((allocate) => {
    const pages = encodeFolios(state.folios).map(allocate)
    let chunk = 0n
    const last = Math.floor((pages.length - 1) / PAGES_PER_CHUNK) * PAGES_PER_CHUNK
    for (let from = last; from >= 0; from -= PAGES_PER_CHUNK) {
      const bytes = new Uint8Array(PAGE_BYTES)
      const view = viewOf(bytes)
      view.setBigUint64(0, chunk, true)
      pages.slice(from, from + PAGES_PER_CHUNK).forEach((page, index) => {
        view.setBigUint64(8 + index * 8, page, true)
      })
      chunk = allocate(bytes)
    }
    const bytes = new Uint8Array(MEMFD_SER_BYTES)
    const view = viewOf(bytes)
    view.setBigUint64(0, checkU64(state.position, 'the position of a memfd'), true)
    view.setBigUint64(8, checkU64(state.size, 'the size of a memfd'), true)
    view.setUint32(16, checkU32(state.seals, 'the seals of a memfd'), true)
    view.setUint32(20, checkU32(state.flags, 'the flags of a memfd'), true)
    view.setBigUint64(24, BigInt(state.folios.length), true)
    view.setBigUint64(32, chunk, true)
    view.setUint32(40, pages.length, true)
    view.setUint16(44, pages.length > 0 ? VMALLOC_FLAGS : 0, true)
    return allocate(bytes)
  })
}

export function decodeMemfd(memory: ReadableMemory, address: bigint): MemfdState {
  return walk(memory, address).state
}

/** Frees what `encodeMemfd` allocated; the folios are the caller's. */
export function freeMemfd(memory: HandoverMemory, address: bigint): void {
  memory.freeAll(walk(memory, address).addresses)
}

function walk(memory: ReadableMemory, address: bigint): { state: MemfdState; addresses: Set<bigint> } {
  const what = `the memfd at ${hex(address)}`
  const reader = new ByteReader(memory.read(address, MEMFD_SER_BYTES), what)
  const addresses = new Set([address])
  const count = reader.u64(24)
  const pages = listPages(memory, reader.u64(32), reader.u32(40), what, addresses)
  if (count * BigInt(FOLIO_BYTES) > BigInt(pages.length) * BigInt(PAGE_BYTES)) {
    throw reader.damaged(`${count} folios do not fit into ${pages.length} pages`)
  }
  const folios: MemfdFolio[] = []
  for (const page of pages) {
    const list = new ByteReader(memory.read(page, PAGE_BYTES), `${what}, folios at ${hex(page)}`)
    for (let at = 0; at < PAGE_BYTES && BigInt(folios.length) < count; at += FOLIO_BYTES) {
      folios.push(decodeFolio(list.u64(at), list.u64(at + 8)))
    }
  }
  const state = { position: reader.u64(0), size: reader.u64(8), seals: reader.u32(16), flags: reader.u32(20), folios }
  return { state, addresses }
}

function encodeFolios(folios: readonly MemfdFolio[]): Uint8Array[] {
  const perPage = PAGE_BYTES / FOLIO_BYTES
  const pages = Array.from({ length: Math.ceil(folios.length / perPage) }, () => new Uint8Array(PAGE_BYTES))
  folios.forEach(({ address, index, dirty, upToDate }, number) => {
    const page = pages[Math.floor(number / perPage)]
    if (!page) return
    const pageNumber = checkU64(address, 'the address of a folio') / BigInt(PAGE_BYTES)
    if (pageNumber * BigInt(PAGE_BYTES) !== address) {
      throw new LuoError('EINVAL', `record a folio at ${hex(address)}: it does not start on a page`)
    }
    const at = (number % perPage) * FOLIO_BYTES
    viewOf(page).setBigUint64(at, pageNumber | (dirty ? DIRTY : 0n) | (upToDate ? UP_TO_DATE : 0n), true)
    viewOf(page).setBigUint64(at + 8, checkU64(index, 'the index of a folio'), true)
  })
  return pages
}

function decodeFolio(word: bigint, index: bigint): MemfdFolio {
  return {
    address: BigInt.asUintN(Number(PAGE_NUMBER_BITS), word) * BigInt(PAGE_BYTES),
    index,
    dirty: (word & DIRTY) !== 0n,
    upToDate: (word & UP_TO_DATE) !== 0n,
  }
}

/** The pages of a list, from its chain of chunks; `total` says how many there must be. */
function listPages(
  memory: ReadableMemory,
  first: bigint,
  total: number,
  what: string,
  addresses: Set<bigint>,
): bigint[] {
  const pages: bigint[] = []
  for (let chunk = first; chunk !== 0n; ) {
    visit(chunk, addresses, what)
    const reader = new ByteReader(memory.read(chunk, PAGE_BYTES), `${what}, chunk at ${hex(chunk)}`)
    for (let at = 8; at < PAGE_BYTES; at += 8) {
      const page = reader.u64(at)
      if (page === 0n) break
      visit(page, addresses, what)
      pages.push(page)
    }
    chunk = reader.u64(0)
  }
  if (pages.length !== total) throw damaged(what, `its list counts ${total} pages, and has ${pages.length}`)
  return pages
}
