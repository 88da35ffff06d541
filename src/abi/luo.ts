/**
 * What the kernel's Live Update Orchestrator hands to the next kernel, `luo-v5`: the sessions, their files and the
 * FLBs. Everything is little-endian and packed, and addresses are those of the handover memory; 0 means none.
 *
 *     luo_ser            compatible[8] · u64 live update number · u64 first session block · u64 FLB header
 *     block, one page    u64 next block · u64 count · entries
 *     luo_session_ser    name[64] · u64 first file block · u64 files
 *     luo_file_ser       compatible[48] · u64 data · u64 token
 *     FLB header, pages  u64 pages · u64 count · entries
 *     luo_flb_ser        name[48] · u64 data · u64 count
 *
 * Damage is LUO_RECORDS, another version LUO_RECORDS_VERSION; reading changes nothing. No page is read for two
 * purposes, so reading takes no longer than the memory is large. More than the kernel can record is ENOSPC.
 */
import { LuoError } from '../errors.js'
import { ByteReader, checkU64, damaged, hex, PAGE_BYTES, parseU64, putName, unknownVersion, viewOf } from './bytes.js'
import type { HandoverMemory } from './handover-memory.js'

export const LUO_COMPATIBLE = 'luo-v5'
export const LUO_SER_BYTES = 32
/** With the NUL that ends it. */
export const SESSION_NAME_BYTES = 64
/** Of a file handler's or an FLB's name, with the NUL. */
export const COMPATIBLE_BYTES = 48
/** As in the kernel. */
export const MAX_BLOCKS = 10_000
const BLOCK_HEADER_BYTES = 16
const SESSION_BYTES = SESSION_NAME_BYTES + 16
const FILE_BYTES = COMPATIBLE_BYTES + 16
const FLB_BYTES = COMPATIBLE_BYTES + 16
export const MAX_SESSIONS = MAX_BLOCKS * perBlock(SESSION_BYTES)
export const MAX_FILES_PER_SESSION = MAX_BLOCKS * perBlock(FILE_BYTES)
/** As many as its one page has room for. */
export const MAX_FLBS = perBlock(FLB_BYTES)

export interface LuoFile {
  compatible: string
  /** What the file handler gave: a u64, often an address. */
  data: bigint
  /** A u64 in decimal. */
  token: string
}

export interface LuoSession {
  name: string
  files: LuoFile[]
}

export interface LuoFlb {
  compatible: string
  data: bigint
  count: bigint
}

export interface LuoState {
  liveupdateNumber: bigint
  sessions: LuoSession[]
  flbs: LuoFlb[]
}

/** The root alone, as a running kernel shows it in debugfs. */
export interface LuoSer {
  liveupdateNumber: bigint
  /** Addresses; 0 means none. */
  sessions: bigint
  flbs: bigint
}

type Allocate = (bytes: Uint8Array) => bigint
export type ReadableMemory = Pick<HandoverMemory, 'read'>

/**
 * Writes the state down, and answers the address of its luo_ser; on an error nothing is left behind. EINVAL for what
 * has no place in the layout, EEXIST for a name or token that is there twice, ENOSPC for more than the kernel records.
 */
export function encodeLuo(memory: HandoverMemory, state: LuoState): bigint {
  checkCount('sessions', state.sessions.length, MAX_SESSIONS)
  checkCount('FLBs', state.flbs.length, MAX_FLBS)
  for (const { name, files } of state.sessions) {
    checkCount(`files in session ${JSON.stringify(name)}`, files.length, MAX_FILES_PER_SESSION)
  }
  return memory.transaction((allocate) => {
    const names = new Distinct('EEXIST', 'write the sessions')
    const sessions = encodeBlocks(allocate, SESSION_BYTES, state.sessions, (session, bytes, at) => {
      names.add('session', session.name)
      encodeSession(allocate, session, bytes, at)
    })
    const root = new Uint8Array(LUO_SER_BYTES)
    putName(root, 0, 8, LUO_COMPATIBLE)
    const view = viewOf(root)
    view.setBigUint64(8, checkU64(state.liveupdateNumber, 'the live update number'), true)
    view.setBigUint64(16, sessions, true)
    view.setBigUint64(24, encodeFlbs(allocate, state.flbs), true)
    return allocate(root)
  })
}

/** Everything that `encodeLuo` wrote; LUO_RECORDS or LUO_RECORDS_VERSION when it is not all there and right. */
export function decodeLuo(memory: ReadableMemory, address: bigint): LuoState {
  return walk(memory, address).state
}

/** Frees exactly what `encodeLuo` allocated; what the files' `data` points to is their handlers'. */
export function freeLuo(memory: HandoverMemory, address: bigint): void {
  memory.freeAll(walk(memory, address).addresses)
}

/** The root alone. */
export function decodeLuoSer(bytes: Uint8Array): LuoSer {
  const reader = new ByteReader(bytes, 'luo_ser')
  if (bytes.length !== LUO_SER_BYTES) throw reader.damaged(`it has ${bytes.length} bytes, and not ${LUO_SER_BYTES}`)
  const compatible = reader.name(0, 8)
  if (compatible === '') throw reader.damaged('it names no version')
  if (compatible !== LUO_COMPATIBLE) throw unknownVersion('luo_ser', compatible, LUO_COMPATIBLE)
  return { liveupdateNumber: reader.u64(8), sessions: reader.u64(16), flbs: reader.u64(24) }
}

function walk(memory: ReadableMemory, address: bigint): { state: LuoState; addresses: Set<bigint> } {
  const { liveupdateNumber, sessions: first, flbs } = decodeLuoSer(memory.read(address, LUO_SER_BYTES))
  const addresses = new Set([address])
  const names = new Distinct('LUO_RECORDS', 'read the sessions')
  const sessions: LuoSession[] = []
  for (const { reader, at } of blocks(memory, first, SESSION_BYTES, 'sessions', addresses)) {
    const name = reader.name(at, SESSION_NAME_BYTES)
    names.add('session', checkNotEmpty(name, reader))
    const files = decodeFiles(memory, reader.u64(at + SESSION_NAME_BYTES), name, addresses)
    const count = reader.u64(at + SESSION_NAME_BYTES + 8)
    if (count !== BigInt(files.length)) {
      throw reader.damaged(`session ${JSON.stringify(name)} counts ${count} files, and has ${files.length}`)
    }
    sessions.push({ name, files })
  }
  return { state: { liveupdateNumber, sessions, flbs: decodeFlbs(memory, flbs, addresses) }, addresses }
}

function encodeSession(allocate: Allocate, { name, files }: LuoSession, bytes: Uint8Array, at: number): void {
  putName(bytes, at, SESSION_NAME_BYTES, mustHaveName(name))
  const tokens = new Distinct('EEXIST', `write the files of session ${JSON.stringify(name)}`)
  const first = encodeBlocks(allocate, FILE_BYTES, files, ({ compatible, data, token }, block, position) => {
    tokens.add('token', token)
    putName(block, position, COMPATIBLE_BYTES, mustHaveName(compatible))
    const view = viewOf(block)
    view.setBigUint64(position + COMPATIBLE_BYTES, checkU64(data, `the data at token ${token}`), true)
    view.setBigUint64(position + COMPATIBLE_BYTES + 8, parseU64(token, 'the token'), true)
  })
  const view = viewOf(bytes)
  view.setBigUint64(at + SESSION_NAME_BYTES, first, true)
  view.setBigUint64(at + SESSION_NAME_BYTES + 8, BigInt(files.length), true)
}

function decodeFiles(memory: ReadableMemory, first: bigint, session: string, addresses: Set<bigint>): LuoFile[] {
  const what = `the files of session ${JSON.stringify(session)}`
  const tokens = new Distinct('LUO_RECORDS', `read ${what}`)
  const files: LuoFile[] = []
  for (const { reader, at } of blocks(memory, first, FILE_BYTES, what, addresses)) {
    const compatible = checkNotEmpty(reader.name(at, COMPATIBLE_BYTES), reader)
    const token = String(reader.u64(at + COMPATIBLE_BYTES + 8))
    tokens.add('token', token)
    files.push({ compatible, data: reader.u64(at + COMPATIBLE_BYTES), token })
  }
  return files
}

function encodeFlbs(allocate: Allocate, flbs: readonly LuoFlb[]): bigint {
  if (flbs.length === 0) return 0n
  const names = new Distinct('EEXIST', 'write the FLBs')
  const bytes = new Uint8Array(PAGE_BYTES)
  const view = viewOf(bytes)
  view.setBigUint64(0, 1n, true)
  view.setBigUint64(8, BigInt(flbs.length), true)
  flbs.forEach(({ compatible, data, count }, index) => {
    names.add('FLB', compatible)
    const at = BLOCK_HEADER_BYTES + index * FLB_BYTES
    putName(bytes, at, COMPATIBLE_BYTES, mustHaveName(compatible))
    view.setBigUint64(at + COMPATIBLE_BYTES, checkU64(data, `the data of FLB ${compatible}`), true)
    view.setBigUint64(at + COMPATIBLE_BYTES + 8, checkU64(count, `the count of FLB ${compatible}`), true)
  })
  return allocate(bytes)
}

function decodeFlbs(memory: ReadableMemory, address: bigint, addresses: Set<bigint>): LuoFlb[] {
  if (address === 0n) return []
  visit(address, addresses, 'the FLBs')
  const header = new ByteReader(memory.read(address, BLOCK_HEADER_BYTES), `the FLBs at ${hex(address)}`)
  const pages = header.u64(0)
  const count = header.u64(8)
  if (BigInt(BLOCK_HEADER_BYTES) + count * BigInt(FLB_BYTES) > pages * BigInt(PAGE_BYTES)) {
    throw header.damaged(`${count} do not fit into ${pages} pages`)
  }
  if (count > BigInt(MAX_FLBS)) throw header.damaged(`there are ${count}, and ${MAX_FLBS} is the most`)
  const reader = new ByteReader(memory.read(address, BLOCK_HEADER_BYTES + Number(count) * FLB_BYTES), header.what)
  const names = new Distinct('LUO_RECORDS', 'read the FLBs')
  return Array.from({ length: Number(count) }, (_, index) => {
    const at = BLOCK_HEADER_BYTES + index * FLB_BYTES
    const compatible = checkNotEmpty(reader.name(at, COMPATIBLE_BYTES), reader)
    names.add('FLB', compatible)
    return { compatible, data: reader.u64(at + COMPATIBLE_BYTES), count: reader.u64(at + COMPATIBLE_BYTES + 8) }
  })
}

/** The chain of blocks that these entries need, and the address of its first; 0 for no entries. */
function encodeBlocks<T>(
  allocate: Allocate,
  entryBytes: number,
  entries: readonly T[],
  encode: (entry: T, block: Uint8Array, at: number) => void,
): bigint {
  let next = 0n
  const capacity = perBlock(entryBytes)
  // From the last to the first, so that each knows the address of the one behind it.
  for (let from = Math.floor((entries.length - 1) / capacity) * capacity; from >= 0; from -= capacity) {
    const part = entries.slice(from, from + capacity)
    const block = new Uint8Array(PAGE_BYTES)
    const view = viewOf(block)
    view.setBigUint64(0, next, true)
    view.setBigUint64(8, BigInt(part.length), true)
    part.forEach((entry, index) => {
      encode(entry, block, BLOCK_HEADER_BYTES + index * entryBytes)
    })
    next = allocate(block)
  }
  return next
}

/** Every entry of a chain of blocks, in order. */
function* blocks(
  memory: ReadableMemory,
  first: bigint,
  entryBytes: number,
  what: string,
  addresses: Set<bigint>,
): Generator<{ reader: ByteReader; at: number }> {
  let length = 0
  for (let address = first; address !== 0n; ) {
    visit(address, addresses, what)
    length += 1
    if (length > MAX_BLOCKS) throw damaged(what, `there are more than ${MAX_BLOCKS} blocks`)
    const reader = new ByteReader(memory.read(address, PAGE_BYTES), `${what}, block at ${hex(address)}`)
    const count = reader.u64(8)
    if (count > BigInt(perBlock(entryBytes))) {
      throw reader.damaged(`it counts ${count} entries, and ${perBlock(entryBytes)} fit`)
    }
    for (let index = 0; index < Number(count); index++) yield { reader, at: BLOCK_HEADER_BYTES + index * entryBytes }
    address = reader.u64(0)
  }
}

/** A page is there for one purpose: loops and shared parts would make reading endless. */
export function visit(address: bigint, addresses: Set<bigint>, what: string): void {
  if (address % BigInt(PAGE_BYTES) !== 0n) throw damaged(what, `${hex(address)} is not the address of a page`)
  if (addresses.has(address)) throw damaged(what, `the page at ${hex(address)} is in use already`)
  addresses.add(address)
}

/** Says when something is there twice. */
class Distinct {
  readonly #code: 'EEXIST' | 'LUO_RECORDS'
  readonly #action: string
  readonly #seen = new Set<string>()

  constructor(code: 'EEXIST' | 'LUO_RECORDS', action: string) {
    this.#code = code
    this.#action = action
  }

  add(what: string, value: string): void {
    if (this.#seen.has(value)) {
      throw new LuoError(this.#code, `${this.#action}: ${what} ${JSON.stringify(value)} is there twice`)
    }
    this.#seen.add(value)
  }
}

function checkNotEmpty(name: string, reader: ByteReader): string {
  if (name === '') throw reader.damaged('a name is empty')
  return name
}

function mustHaveName(name: string): string {
  if (name === '') throw new LuoError('EINVAL', 'write a name: it is empty')
  return name
}

function checkCount(what: string, count: number, most: number): void {
  if (count > most) throw new LuoError('ENOSPC', `write ${count} ${what}: ${most} can be recorded`)
}

/** How many entries of this size fit into a block. */
function perBlock(entryBytes: number): number {
  return Math.floor((PAGE_BYTES - BLOCK_HEADER_BYTES) / entryBytes)
}
