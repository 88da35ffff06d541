/**
 * A key-value store inside one ArrayBuffer: an open-addressing hash table over an append-only log. Nothing of it lives
 * in JavaScript objects, so whoever gets the memory has the whole store, at once and without reading it.
 *
 *     | header, 64 bytes | index: one u32 a slot | log: entries, aligned to 8 bytes ... |
 *
 * An index slot is 0 or the place of its entry in units of 8 bytes. An entry is written where nobody looks yet, then
 * the tail of the log moves past it, and one last store into the index publishes it: a process killed at any
 * instruction leaves the old value or the new one, never half of one. The totals in the header are kept beside that
 * under a `busy` mark; when a process died while the mark was set they are counted anew.
 *
 * The log is never compacted: this is an example, and a full log is an error (`StoreFull`), not a surprise.
 */
export const FORMAT = 'store/1'

const MAGIC = 0x3153564b // "KVS1"
const UNIT = 8
const HEADER_BYTES = 64
const H = { magic: 0, slots: 1, units: 2, tail: 3, count: 4, checksum: 5, busy: 6 }
/** An entry: u32 key bytes, u32 value bytes, u32 hash of the key, u32 checksum; then the key and the value, padded. */
const ENTRY_HEADER_BYTES = 16
/** One slot for each 256 bytes of memory: 2^20 slots in 256 MiB. */
const BYTES_PER_SLOT = 256
const MAX_LOAD = 0.75
const MAX_KEY_BYTES = 1024

export class StoreFull extends Error {}

export class Store {
  #bytes
  #words
  #header
  #index
  #mask
  #units

  /** Opens what is in `buffer`, or makes it an empty store when it is all new. Throws when it is something else. */
  static open(buffer) {
    const header = new Uint32Array(buffer, 0, HEADER_BYTES / 4)
    if (header[H.magic] === 0) Store.#format(header, buffer.byteLength)
    const slots = header[H.slots]
    const units = buffer.byteLength / UNIT
    if (header[H.magic] !== MAGIC) throw new Error(`open the store: magic ${header[H.magic].toString(16)} is not ours`)
    if (slots !== slotsFor(buffer.byteLength) || header[H.units] > units || header[H.tail] > units) {
      throw new Error(`open the store: ${slots} slots and tail ${header[H.tail]} do not fit ${buffer.byteLength} bytes`)
    }
    return new Store(buffer, slots)
  }

  static #format(header, size) {
    const slots = slotsFor(size)
    header[H.slots] = slots
    header[H.units] = size / UNIT
    header[H.tail] = (HEADER_BYTES + slots * 4) / UNIT
    Atomics.store(header, H.magic, MAGIC)
  }

  constructor(buffer, slots) {
    this.#bytes = Buffer.from(buffer)
    this.#words = new Int32Array(buffer)
    this.#header = new Uint32Array(buffer, 0, HEADER_BYTES / 4)
    this.#index = new Uint32Array(buffer, HEADER_BYTES, slots)
    this.#mask = slots - 1
    this.#units = Math.floor(buffer.byteLength / UNIT)
  }

  /** A copy of the value, or undefined. */
  get(key) {
    const keyBytes = Buffer.from(key)
    const at = this.#index[this.#slotOf(keyBytes, hashOf(keyBytes))]
    if (at === 0) return undefined
    const start = valueStart(at * UNIT, keyBytes.length)
    return Buffer.from(this.#bytes.subarray(start, start + this.#words[at * 2 + 1]))
  }

  put(key, value) {
    const header = this.#header
    if (header[H.busy] !== 0) this.#recount()
    const keyBytes = Buffer.from(key)
    if (keyBytes.length === 0 || keyBytes.length > MAX_KEY_BYTES) {
      throw new RangeError(`put: the key has ${keyBytes.length} bytes, and 1 to ${MAX_KEY_BYTES} are allowed`)
    }
    const hash = hashOf(keyBytes)
    const slot = this.#slotOf(keyBytes, hash)
    const old = this.#index[slot]
    const at = header[H.tail]
    const end = at + unitsOf(keyBytes.length, value.length)
    if (end > this.#units) throw new StoreFull(`put ${key}: the log is full`)
    if (old === 0 && header[H.count] >= this.#index.length * MAX_LOAD) throw new StoreFull(`put ${key}: no free slot`)

    const checksum = this.#write(at, keyBytes, value, hash)
    const change = checksum - (old === 0 ? 0 : this.#words[old * 2 + 3])
    Atomics.store(header, H.tail, end)
    Atomics.store(header, H.busy, 1)
    Atomics.store(this.#index, slot, at) // from here on the new value is there
    if (old === 0) header[H.count] += 1
    header[H.checksum] += change
    Atomics.store(header, H.busy, 0)
  }

  /** The totals, as they are kept: constant time. */
  stats() {
    if (this.#header[H.busy] !== 0) this.#recount()
    return {
      count: this.#header[H.count],
      checksum: hex(this.#header[H.checksum]),
      bytes: this.#bytes.length,
      used: this.#header[H.tail] * UNIT,
    }
  }

  /** Reads every entry again and compares it with its checksum, and all of them with the totals. */
  check() {
    const kept = this.stats()
    const found = this.#scan()
    const checksum = hex(found.checksum)
    const intact = found.damaged === 0 && found.count === kept.count && checksum === kept.checksum
    return { intact, damaged: found.damaged, count: found.count, checksum, bytes: kept.bytes, used: kept.used }
  }

  #write(at, keyBytes, value, hash) {
    const words = this.#words
    const start = at * UNIT
    const from = valueStart(start, keyBytes.length)
    const end = at + unitsOf(keyBytes.length, value.length)
    // The padding counts in the checksum, and an entry that was never published may have left something here.
    words.fill(0, from / 4 - 2, from / 4)
    words.fill(0, end * 2 - 2, end * 2)
    words[at * 2] = keyBytes.length
    words[at * 2 + 1] = value.length
    words[at * 2 + 2] = hash
    this.#bytes.set(keyBytes, start + ENTRY_HEADER_BYTES)
    this.#bytes.set(value, from)
    const checksum = checksumOf(words, at * 2 + 4, end * 2, hash)
    words[at * 2 + 3] = checksum
    return checksum
  }

  /** The slot that has this key, or the free one where it belongs. */
  #slotOf(keyBytes, hash) {
    let slot = hash & this.#mask
    for (let probes = 0; probes <= this.#mask; probes++) {
      const at = this.#index[slot]
      if (at === 0) return slot
      const start = at * UNIT + ENTRY_HEADER_BYTES
      if (
        this.#words[at * 2 + 2] === hash &&
        this.#words[at * 2] === keyBytes.length &&
        keyBytes.equals(this.#bytes.subarray(start, start + keyBytes.length))
      ) {
        return slot
      }
      slot = (slot + 1) & this.#mask
    }
    throw new StoreFull('the index has no free slot')
  }

  #scan() {
    const words = this.#words
    const tail = this.#header[H.tail]
    const first = (HEADER_BYTES + this.#index.length * 4) / UNIT
    let count = 0
    let damaged = 0
    let checksum = 0
    for (const at of this.#index) {
      if (at === 0) continue
      count += 1
      const fits = at >= first && at + 2 <= tail
      const end = fits ? at + unitsOf(words[at * 2] >>> 0, words[at * 2 + 1] >>> 0) : 0
      if (!fits || end > tail || checksumOf(words, at * 2 + 4, end * 2, words[at * 2 + 2]) !== words[at * 2 + 3]) {
        damaged += 1
        continue
      }
      checksum = (checksum + words[at * 2 + 3]) >>> 0
    }
    return { count, damaged, checksum }
  }

  #recount() {
    const { count, checksum } = this.#scan()
    this.#header[H.count] = count
    this.#header[H.checksum] = checksum
    Atomics.store(this.#header, H.busy, 0)
  }
}

function slotsFor(size) {
  return 2 ** Math.floor(Math.log2(size / BYTES_PER_SLOT))
}

function padded(bytes) {
  return Math.ceil(bytes / UNIT) * UNIT
}

function valueStart(start, keyLength) {
  return start + ENTRY_HEADER_BYTES + padded(keyLength)
}

function unitsOf(keyLength, valueLength) {
  return (ENTRY_HEADER_BYTES + padded(keyLength) + padded(valueLength)) / UNIT
}

/** FNV-1a, 32 bits, as a signed int. */
function hashOf(bytes) {
  let hash = 0x811c9dc5 | 0
  for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193)
  return hash ^ (hash >>> 15)
}

/** FNV-1a by words. */
function checksumOf(words, from, to, seed) {
  let sum = seed
  for (let i = from; i < to; i++) sum = Math.imul(sum ^ words[i], 0x01000193)
  return sum ^ (sum >>> 13)
}

function hex(value) {
  return value.toString(16).padStart(8, '0')
}
