/**
 * A plug-in of luod: eventfds by value. Where luod's own handler hands the descriptor on, this one hands over what is in
 * it, the counter and its flags, and the next generation makes a new eventfd of that.
 *
 *     luod --plugin /opt/luod/eventfd-by-value.js
 *
 * All counters are in one page of the memory that is handed over. The page is an FLB: it is allocated for the first
 * eventfd, and freed after the last. `data` of an eventfd is the number of its entry in the page, from 1 on.
 *
 * What is added to a counter after the freeze is lost: whoever has it must hold still by then, as with all that crosses
 * by value.
 */
import { readFileSync } from 'node:fs'
import koffi from 'koffi'

const PAGE_BYTES = 4096
/** u64 counter, u32 flags of eventfd(2), u32 what the entry holds. */
const ENTRY_BYTES = 16
const MAX_ENTRIES = PAGE_BYTES / ENTRY_BYTES
const EMPTY = 0
const TAKEN = 1
const FROZEN = 2

const EFD_SEMAPHORE = 1
const EFD_NONBLOCK = 0o4000
const EFD_CLOEXEC = 0o2000000
/** The constructor of an eventfd takes 32 bits; the rest is written to it. */
const MAX_INITIAL = 2n ** 32n - 1n

const libc = koffi.load(null)
const eventfd = libc.func('int eventfd(unsigned int initial, int flags)')
const write = libc.func('int64_t write(int fd, const uint64_t *value, size_t bytes)')

/** @param {import('liveupdate/plugin').HeldFile} file what the kernel says of an eventfd */
function look({ fd }) {
  const text = readFileSync(`/proc/self/fdinfo/${fd.number}`, 'latin1')
  const field = (name, pattern) => new RegExp(`^${name}:\\s*(${pattern})$`, 'm').exec(text)?.[1] ?? ''
  const nonblock = Number.parseInt(field('flags', '\\d+'), 8) & EFD_NONBLOCK
  const semaphore = field('eventfd-semaphore', '\\d')
  return {
    counter: BigInt(`0x${field('eventfd-count', '[0-9a-f]+')}`),
    flags: nonblock | (semaphore === '1' ? EFD_SEMAPHORE : 0),
    id: field('eventfd-id', '\\d+'),
    // Before Linux 6.7 nothing says so; then the file is left to luod's own handler.
    known: semaphore !== '',
  }
}

/** @returns {number} a descriptor */
function make(counter, flags) {
  const initial = counter > MAX_INITIAL ? MAX_INITIAL : counter
  const fd = eventfd(Number(initial), flags | EFD_CLOEXEC)
  if (fd < 0) throw Object.assign(new Error('no more files may be opened'), { code: 'EMFILE' })
  if (counter > initial) write(fd, [counter - initial], 8)
  return fd
}

const error = (code, message) => Object.assign(new Error(message), { code })

/** @type {import('liveupdate/plugin').Register} */
export function register(registry, context) {
  /** The page of this generation, or of the one before. */
  const entries = (memory, address) => ({
    read(data) {
      const bytes = memory.read(address + (data - 1n) * BigInt(ENTRY_BYTES), ENTRY_BYTES)
      const view = new DataView(bytes.buffer, bytes.byteOffset)
      return { counter: view.getBigUint64(0, true), flags: view.getUint32(8, true), state: view.getUint32(12, true) }
    },
    write(data, { counter, flags, state }) {
      const view = new DataView(new ArrayBuffer(ENTRY_BYTES))
      view.setBigUint64(0, counter, true)
      view.setUint32(8, flags, true)
      view.setUint32(12, state, true)
      memory.write(address + (data - 1n) * BigInt(ENTRY_BYTES), new Uint8Array(view.buffer))
    },
    free: () => memory.free(address),
  })

  /** @type {import('liveupdate/plugin').Flb} */
  const page = {
    compatible: 'eventfd-page-v1',
    preserve() {
      const address = context.memory.allocate(new Uint8Array(PAGE_BYTES))
      return { data: address, object: entries(context.memory, address) }
    },
    unpreserve: ({ object }) => object.free(),
    retrieve: (address) => entries(context.received(), address),
    finish: ({ object }) => object.free(),
  }

  /** Holds the page while `use` runs: it cannot be given back meanwhile. */
  const withOutgoing = (use) => {
    const object = context.flbs.getOutgoing(page)
    try {
      return use(object)
    } finally {
      context.flbs.putOutgoing(page)
    }
  }
  const withIncoming = (use) => {
    const object = context.flbs.getIncoming(page)
    try {
      return use(object)
    } finally {
      context.flbs.putIncoming(page)
    }
  }

  /** @type {import('liveupdate/plugin').FileHandler} */
  const handler = {
    compatible: 'eventfd-value-v1',

    // Cheap, and without effect: what is not an eventfd is not even looked at.
    canPreserve: (file) => file.info.kind === 'eventfd' && look(file).known,

    // Two entries for one counter would be two counters on the other side.
    getId: (file) => look(file).id,

    // Takes an entry now, while there is time for a refusal to be dealt with.
    preserve: (file) =>
      withOutgoing((object) => {
        for (let data = 1n; data <= MAX_ENTRIES; data++) {
          if (object.read(data).state !== EMPTY) continue
          object.write(data, { ...look(file), state: TAKEN })
          return { data }
        }
        throw error('ENOSPC', `${MAX_ENTRIES} eventfds are preserved, and the page has no room for more`)
      }),

    unpreserve: ({ data }) => withOutgoing((object) => object.write(data, { counter: 0n, flags: 0, state: EMPTY })),

    // Only now the counter is final.
    freeze: ({ data }, file) => {
      withOutgoing((object) => object.write(data, { ...look(file), state: FROZEN }))
      // The number of its entry is what it was.
      return undefined
    },

    // It goes on: what was written down is out of date.
    unfreeze: ({ data }, file) => withOutgoing((object) => object.write(data, { ...look(file), state: TAKEN })),

    retrieve: (data) =>
      withIncoming((object) => {
        const { counter, flags, state } = object.read(data)
        if (state !== FROZEN) throw error('EIO', `entry ${data} was not frozen`)
        return context.adopt(make(counter, flags))
      }),

    // Events that were signalled and that nobody has come for: the session cannot be finished as if there were none.
    canFinish: ({ data, retrieved }) =>
      retrieved !== 'no' || withIncoming((object) => object.read(data).counter === 0n),

    finish: ({ data }) => withIncoming((object) => object.write(data, { counter: 0n, flags: 0, state: EMPTY })),
  }

  registry.register(handler)
  registry.registerFlb(handler, page)
}
