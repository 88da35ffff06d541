import { beforeEach, describe, expect, it } from 'vitest'

interface Store {
  get(key: string): Buffer | undefined
  put(key: string, value: Buffer): void
  stats(): { count: number; checksum: string; bytes: number; used: number }
  check(): { intact: boolean; damaged: number; count: number; checksum: string; bytes: number }
}

/** The example is plain JavaScript and has no types of its own. */
const { Store } = (await import(new URL('../../examples/kv/store.js', import.meta.url).href)) as {
  Store: { open(buffer: ArrayBuffer): Store }
}

const SIZE = 2 ** 20
/** Words of the header, as in examples/kv/store.js. */
const H = { magic: 0, slots: 1, tail: 3, count: 4, busy: 6 }

let buffer: ArrayBuffer
let store: Store
beforeEach(() => {
  buffer = new ArrayBuffer(SIZE)
  store = Store.open(buffer)
})

describe('the store of the example', () => {
  it('has the same values and totals when its memory is opened again', () => {
    const expected = new Map<string, string>()
    for (let i = 0; i < 3_000; i++) {
      const key = `key-${i % 1_000}`
      const value = 'v'.repeat(i % 40) + i
      store.put(key, Buffer.from(value))
      expected.set(key, value)
    }
    const again = Store.open(buffer)
    for (const [key, value] of expected) expect(again.get(key)?.toString()).toBe(value)
    expect(again.stats()).toEqual(store.stats())
    expect(again.check()).toMatchObject({ intact: true, count: 1_000, damaged: 0 })
  })

  it('keeps an empty value, and knows it from a missing one', () => {
    store.put('empty', Buffer.alloc(0))
    expect(store.get('empty')).toHaveLength(0)
    expect(store.get('missing')).toBeUndefined()
  })

  it('shows nothing of an entry that was written and not published', () => {
    store.put('a', Buffer.from('1'))
    const before = Buffer.from(buffer.slice(0))
    store.put('a', Buffer.from('22'))
    // What a kill leaves just before the last store: the log moved on, the index did not.
    const header = 64 + 4 * (new Uint32Array(buffer)[H.slots] ?? 0)
    Buffer.from(buffer).set(before.subarray(64, header), 64)
    new Uint32Array(buffer)[H.count] = 99
    new Uint32Array(buffer)[H.busy] = 1
    const again = Store.open(buffer)
    expect(again.get('a')?.toString()).toBe('1')
    expect(again.check()).toMatchObject({ intact: true, count: 1 })
    again.put('b', Buffer.from('3'))
    expect(again.check()).toMatchObject({ intact: true, count: 2 })
  })

  it('sees a single flipped bit in a value', () => {
    store.put('a', Buffer.from('precious'))
    const at = Buffer.from(buffer).lastIndexOf('precious')
    Buffer.from(buffer)[at] = 'P'.charCodeAt(0)
    expect(store.check()).toMatchObject({ intact: false, damaged: 1 })
  })

  it('sees an entry that points outside the log', () => {
    store.put('a', Buffer.from('1'))
    const slots = new Uint32Array(buffer)[H.slots] ?? 0
    const index = new Uint32Array(buffer, 64, slots)
    index[index.findIndex((at) => at !== 0)] = 0xffff_ffff
    expect(store.check()).toMatchObject({ intact: false, damaged: 1 })
  })

  it('refuses memory that is something else, and a full log, without harm', () => {
    store.put('a', Buffer.from('1'))
    expect(() => store.put('b', Buffer.alloc(SIZE))).toThrow(/full/)
    expect(store.check()).toMatchObject({ intact: true, count: 1 })
    new Uint32Array(buffer)[H.magic] = 42
    expect(() => Store.open(buffer)).toThrow(/magic/)
  })
})
