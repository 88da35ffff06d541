import { beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { LuoError } from '../errors.js'
import { Flbs } from './flb.js'
import { FakeFlb, Journal, Memory } from './testing/fakes.js'

let journal: Journal
let flbs: Flbs
let x: FakeFlb
let y: FakeFlb
beforeEach(() => {
  journal = new Journal()
  const memory = new Memory()
  x = new FakeFlb('x', journal, memory)
  y = new FakeFlb('y', journal, memory)
  flbs = new Flbs()
  flbs.register(x)
  flbs.register(y)
})

const counts = () => Object.fromEntries(flbs.counts().map((one) => [one.compatible, [one.outgoing, one.incoming]]))

describe('an outgoing FLB', () => {
  test('is preserved for the first that takes it, and given back by the last that lets go', () => {
    flbs.take(x)
    flbs.take(x)
    expect(journal.take()).toEqual(['x.preserve'])
    expect(counts()).toEqual({ x: [2n, 0n], y: [0n, 0n] })
    flbs.putOutgoing(x)
    expect(journal.take()).toEqual([])
    flbs.putOutgoing(x)
    expect(journal.take()).toEqual(['x.unpreserve 1 object 1'])
    expect(counts()).toEqual({ x: [0n, 0n], y: [0n, 0n] })
  })

  test('is preserved anew after that', () => {
    flbs.take(x)
    flbs.putOutgoing(x)
    flbs.take(x)
    expect(flbs.getOutgoing(x)).toBe('object 2')
    expect(journal.take()).toEqual(['x.preserve', 'x.unpreserve 1 object 1', 'x.preserve'])
  })

  test('is ENOENT for a user when no file holds it, and held by users as by files', () => {
    expect(codeOf(() => flbs.getOutgoing(x))).toBe('ENOENT')
    flbs.take(x)
    expect(flbs.getOutgoing(x)).toBe('object 1')
    flbs.putOutgoing(x)
    expect(journal.take()).toEqual(['x.preserve'])
    expect(flbs.records()).toEqual([{ compatible: 'x', data: 1n, count: 1n }])
    flbs.putOutgoing(x)
    expect(journal.take()).toEqual(['x.unpreserve 1 object 1'])
    expect(codeOf(() => flbs.getOutgoing(x))).toBe('ENOENT')
  })

  test('cannot be put when nobody holds it', () => {
    expect(codeOf(() => flbs.putOutgoing(x))).toBe('LUO_WRONG_STATE')
    expect(journal.take()).toEqual([])
  })

  test('is not held when its preserve fails, and can be taken later', () => {
    journal.failAt('x.preserve', 1, new LuoError('ENOMEM', 'no memory'))
    expect(codeOf(() => flbs.take(x))).toBe('ENOMEM')
    expect(counts()).toEqual({ x: [0n, 0n], y: [0n, 0n] })
    flbs.take(x)
    expect(counts()).toEqual({ x: [1n, 0n], y: [0n, 0n] })
  })

  test('is let go of also when its unpreserve fails; whoever let go is told', () => {
    flbs.take(x)
    journal.failAt('x.unpreserve')
    expect(codeOf(() => flbs.putOutgoing(x))).toBe('EIO')
    expect(counts()).toEqual({ x: [0n, 0n], y: [0n, 0n] })
    expect(flbs.records()).toEqual([])
  })

  test('is recorded while it is held, in order of registration', () => {
    flbs.take(y)
    flbs.take(y)
    flbs.take(x)
    expect(flbs.records()).toEqual([
      { compatible: 'x', data: 2n, count: 1n },
      { compatible: 'y', data: 1n, count: 2n },
    ])
    flbs.putOutgoing(x)
    expect(flbs.records()).toEqual([{ compatible: 'y', data: 1n, count: 2n }])
  })
})

describe('an incoming FLB', () => {
  const receive = (count = 2n) => flbs.receive([{ compatible: 'x', data: 7n, count }])

  test('is ENODATA when nothing came in, ENOENT when this one did not', () => {
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENODATA')
    receive()
    expect(codeOf(() => flbs.getIncoming(y))).toBe('ENOENT')
  })

  test('is ENOENT also when none came in with the rest', () => {
    flbs.receive([])
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENOENT')
  })

  test('is retrieved on demand, once, and finished at the last put, which counts files and users', () => {
    receive()
    expect(journal.take()).toEqual([])
    expect(flbs.getIncoming(x)).toBe('object 7')
    expect(flbs.getIncoming(x)).toBe('object 7')
    expect(journal.take()).toEqual(['x.retrieve 7'])
    expect(counts().x).toEqual([0n, 4n])
    for (let left = 3n; left > 0n; left--) {
      flbs.putIncoming(x)
      expect(counts().x).toEqual([0n, left])
    }
    expect(journal.take()).toEqual([])
    flbs.putIncoming(x)
    expect(journal.take()).toEqual(['x.finish 7 object 7'])
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENODATA')
  })

  test('is retrieved before it is finished when nobody had, and the count that came in holds', () => {
    receive(3n)
    flbs.putIncoming(x)
    flbs.putIncoming(x)
    expect(journal.take()).toEqual([])
    flbs.putIncoming(x)
    expect(journal.take()).toEqual(['x.retrieve 7', 'x.finish 7 object 7'])
  })

  test('fails to be retrieved once and for all, is not held by whoever asked, and is not finished then', () => {
    receive(1n)
    journal.failAt('x.retrieve', 1, new LuoError('ENOMEM', 'no memory'))
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENOMEM')
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENOMEM')
    expect(counts().x).toEqual([0n, 1n])
    flbs.putIncoming(x)
    expect(journal.take()).toEqual(['x.retrieve 7'])
    expect(counts().x).toEqual([0n, 0n])
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENODATA')
  })

  test('is EIO when its retrieve throws what is no LuoError, with the cause', () => {
    receive()
    const cause = new TypeError('oops')
    journal.failAt('x.retrieve', 1, cause)
    expect(() => flbs.getIncoming(x)).toThrow(expect.objectContaining({ code: 'EIO', cause }))
  })

  test('that nobody could retrieve is let go of at the last put', () => {
    receive(1n)
    journal.failAt('x.retrieve')
    flbs.putIncoming(x)
    expect(journal.take()).toEqual(['x.retrieve 7'])
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENODATA')
  })

  test('is let go of also when its finish fails; whoever let go is told', () => {
    receive(1n)
    journal.failAt('x.finish')
    expect(codeOf(() => flbs.putIncoming(x))).toBe('EIO')
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENODATA')
    flbs.putIncoming(x)
    expect(journal.take()).toEqual(['x.retrieve 7', 'x.finish 7 object 7'])
  })

  test('is given back by nobody when it did not come in', () => {
    receive()
    flbs.putIncoming(y)
    expect(journal.take()).toEqual([])
    expect(counts()).toEqual({ x: [0n, 2n], y: [0n, 0n] })
  })

  test('has nothing to do with the outgoing one of its name', () => {
    receive(1n)
    flbs.take(x)
    flbs.putIncoming(x)
    expect(flbs.records()).toEqual([{ compatible: 'x', data: 1n, count: 1n }])
    expect(flbs.getOutgoing(x)).toBe('object 1')
  })

  test('is EEXIST when it is handed over twice, and then nothing has come in', () => {
    const record = { compatible: 'x', data: 7n, count: 1n }
    expect(codeOf(() => flbs.receive([record, { ...record, data: 8n }]))).toBe('EEXIST')
    expect(codeOf(() => flbs.getIncoming(x))).toBe('ENODATA')
  })

  test('that nobody knows here is counted all the same', () => {
    flbs.receive([{ compatible: 'z', data: 1n, count: 2n }])
    expect(counts().z).toEqual([0n, 2n])
  })
})
