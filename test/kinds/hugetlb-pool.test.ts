/** The pool of huge pages, with real pages: reserved for all files that need some, and given back by the last. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { HandoverMemory } from '../../src/abi/handover-memory.js'
import { Generation, type Handover } from '../../src/backends/generation.js'
import { HandlerRegistry } from '../../src/core/handler.js'
import { Orchestrator } from '../../src/core/orchestrator.js'
import { LuoError } from '../../src/errors.js'
import type { FileAbout, HeldFile } from '../../src/handlers/held-file.js'
import { heldFiles } from '../../src/handlers/held-file.js'
import { HUGETLB_POOL, type HugetlbPoolOptions } from '../../src/handlers/hugetlb-pool.js'
import { registerReferenceHandlers } from '../../src/handlers/reference.js'
import { FileSlots } from '../../src/handlers/slots.js'
import { closeAll, countOpenFds, type Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { truncate } from '../../src/sys/memfd.js'
import { fileToPreserve } from './crossing.js'
import { HUGE_PAGE_BYTES, holdPool, poolCount, setPool, withPage } from './hugepages.js'
import { Kit } from './kit.js'

/** What the kernel says to the next changes of its pool: how many pages it has memory for, or an error. */
let kernel: (pages: number) => number = (pages) => pages

vi.mock('../../src/sys/hugepages.js', async (original) => {
  const real = await original<typeof import('../../src/sys/hugepages.js')>()
  return { ...real, changeHugePool: (bytes: number, pages: number) => real.changeHugePool(bytes, kernel(pages)) }
})

const MFD_FLAGS = 1 | 2 | 4
const PAGES = 4

let kit: Kit
let before: number
let openBefore: number
let defects: string[]
beforeEach(() => {
  kernel = (pages) => pages
  defects = []
  openBefore = countOpenFds()
  kit = new Kit()
  holdPool(kit)
  before = poolCount('nr')
  // Others may have pages; none is free here.
  setPool(before - poolCount('free') + poolCount('resv'))
  const pool = before
  before = poolCount('nr')
  kit.atEnd(() => setPool(pool))
})
afterEach(() => {
  const after = poolCount('nr')
  kit[Symbol.dispose]()
  expect(after).toBe(before)
  expect(countOpenFds()).toBe(openBefore)
})

function sparse(pages = PAGES): Fd {
  const fd = kit.adopt(checked('make huge memory', 'memfd_create', 'huge', MFD_FLAGS))
  truncate(fd, pages * HUGE_PAGE_BYTES)
  return fd
}

const touch = (fd: Fd, pages = PAGES) => {
  for (let page = 0; page < pages; page++) withPage(fd, page, (bytes) => bytes.fill(1))
}

const onDefect = (error: unknown, action: string) => defects.push(`${action}: ${String(error)}`)

function luod(hugetlb: HugetlbPoolOptions = {}) {
  const registry = new HandlerRegistry<HeldFile>()
  const memory = new HandoverMemory()
  registerReferenceHandlers({ registry, memory, slots: new FileSlots(), received: () => memory }, { hugetlb })
  const orchestrator = new Orchestrator<HeldFile, FileAbout>({ registry, files: heldFiles, onDefect })
  const session = orchestrator.createSession('0', 'web')
  const preserve = (token: string, fd: Fd) => {
    const file = fileToPreserve(token, fd)
    try {
      orchestrator.preserve(session, [file])
    } catch (error) {
      file.file.fd.close()
      throw error
    }
  }
  const count = () => registry.flbs.counts().find(({ compatible }) => compatible === HUGETLB_POOL)?.outgoing
  return { orchestrator, session, memory, preserve, count }
}

describe('preserving a file with holes', () => {
  test('adds the pages that are missing, and whoever gets the file can touch all of it', () => {
    const { orchestrator, session, preserve } = luod()
    const fd = sparse()
    preserve('0', fd)
    expect(poolCount('nr')).toBe(before + PAGES)
    fd.close()
    orchestrator.freeze([session])
    const [found] = orchestrator.reference(session, ['0'])
    orchestrator.commit([session])
    expect(poolCount('nr')).toBe(before + PAGES)
    touch(kit.own(found?.file.fd as Fd))
    found?.file.fd.close()
    orchestrator.release(session)
  })

  test('adds nothing when the pool has them, or when there are no holes', () => {
    setPool(before + PAGES)
    const { orchestrator, session, preserve } = luod({ maxBytes: 0 })
    const [full, empty] = [sparse(), sparse(0)]
    touch(full)
    for (const [index, fd] of [full, empty].entries()) preserve(String(index), fd)
    expect(poolCount('nr')).toBe(before + PAGES)
    full.close()
    const holes = sparse()
    orchestrator.unpreserve(session, ['0'])
    preserve('2', holes)
    expect(poolCount('nr')).toBe(before + PAGES)
    holes.close()
    orchestrator.end({ handedOver: false })
    setPool(before)
  })

  test('two files share what was added, and the last of them gives it back', () => {
    const { orchestrator, session, memory, preserve, count } = luod()
    const files = [sparse(1), sparse(2)]
    files.forEach((fd, index) => {
      preserve(String(index), fd)
    })
    expect(count()).toBe(2n)
    expect(memory.allocations).toBe(1)
    expect(poolCount('nr')).toBe(before + 3)
    closeAll(files)
    orchestrator.unpreserve(session, ['0'])
    expect(count()).toBe(1n)
    expect(poolCount('nr')).toBe(before + 3)
    orchestrator.unpreserve(session, ['1'])
    expect(count()).toBe(0n)
    expect(memory.allocations).toBe(0)
    expect(poolCount('nr')).toBe(before)
  })

  test('what the files use is theirs: it leaves the pool when they end', () => {
    const { orchestrator, session, preserve } = luod()
    const fd = sparse()
    preserve('0', fd)
    touch(fd, 1)
    orchestrator.release(session)
    expect(poolCount('nr')).toBe(before + PAGES)
    touch(fd)
    fd.close()
    expect(poolCount('nr')).toBe(before)
  })
})

describe('a file that grows after it was preserved', () => {
  test('has its pages by the freeze', () => {
    const { orchestrator, session, preserve } = luod()
    const fd = sparse(1)
    preserve('0', fd)
    truncate(fd, PAGES * HUGE_PAGE_BYTES)
    orchestrator.freeze([session])
    // And no page more than it needs.
    expect(poolCount('nr')).toBe(before + PAGES)
    touch(fd)
    fd.close()
    orchestrator.release(session)
  })

  test('that cannot have them refuses the freeze, and nothing has changed', () => {
    const { orchestrator, session, preserve } = luod({ maxBytes: HUGE_PAGE_BYTES })
    const fd = sparse(1)
    preserve('0', fd)
    truncate(fd, PAGES * HUGE_PAGE_BYTES)
    expect(() => orchestrator.freeze([session])).toThrow(/^reserve up to 4 more huge pages/)
    expect(session.custody).toBe('held')
    expect(poolCount('nr')).toBe(before + 1)
    fd.close()
    orchestrator.release(session)
  })
})

describe('pages that cannot be had', () => {
  const cases: [string, HugetlbPoolOptions, (pages: number) => number, RegExp][] = [
    ['over the limit', { maxBytes: (PAGES - 1) * HUGE_PAGE_BYTES }, (pages) => pages, /luod adds \d+ bytes .* at most/],
    ['without memory', {}, (pages) => Math.min(pages, 1), /the kernel has no memory for them/],
    [
      'without the right',
      {},
      () => {
        throw Object.assign(new Error('EACCES: permission denied'), { code: 'EACCES' })
      },
      /luod may not change the pool/,
    ],
  ]
  test.each(cases)('%s: preserving is ENOMEM, says what to do, and changes nothing', (_, options, says, why) => {
    const { orchestrator, session, memory, preserve, count } = luod(options)
    kernel = says
    const fd = sparse()
    let error: unknown
    try {
      preserve('0', fd)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toBeInstanceOf(LuoError)
    expect(error).toMatchObject({ code: 'ENOMEM', message: expect.stringMatching(why) })
    expect((error as LuoError).message).toContain('nr_hugepages')
    expect([session.files.size, memory.allocations, count(), poolCount('nr')]).toEqual([0, 0, 0n, before])
    expect(fd.closed).toBe(false)
    // Once the operator has done so, it works.
    setPool(before + PAGES)
    preserve('0', fd)
    fd.close()
    orchestrator.release(session)
    setPool(before)
  })
})

test('what cannot be given back is reported, and everything else is let go of', () => {
  const { orchestrator, session, memory, preserve } = luod()
  const fd = sparse()
  preserve('0', fd)
  fd.close()
  kernel = () => {
    throw new Error('the kernel refuses')
  }
  orchestrator.release(session)
  expect(defects).toEqual([expect.stringContaining('the kernel refuses')])
  expect(memory.allocations).toBe(0)
  kernel = (pages) => pages
  setPool(before)
})

describe('over an emulated kexec', () => {
  const begin = (handover?: Handover) =>
    Generation.begin({
      register: (context) => registerReferenceHandlers(context),
      onDefect,
      ...(handover ? { handover } : {}),
    })

  function handOver(): Generation {
    const generation = begin()
    const session = generation.open().createSession('web')
    const files = [sparse(1), sparse(2)]
    files.forEach((fd, index) => {
      session.preserve(String(index), fd)
    })
    closeAll(files)
    const next = begin(generation.kexec())
    expect(poolCount('nr')).toBe(before + 3)
    return next
  }

  test('it is kept, and given back by finish', () => {
    const generation = handOver()
    const session = generation.open().retrieveSession('web')
    const back = kit.own(session.retrieve('1'))
    touch(back, 2)
    expect(poolCount('nr')).toBe(before + 3)
    session.finish()
    // The page of the file that is gone is gone; those of the other one are its own.
    expect(poolCount('nr')).toBe(before + 2)
    back.close()
    session.close()
    generation.close()
    expect(defects).toEqual([])
  })

  test('it crosses again with files that are preserved again', () => {
    const generation = handOver()
    const device = generation.open()
    const incoming = device.retrieveSession('web')
    const back = kit.own(incoming.retrieve('1'))
    incoming.finish()
    const outgoing = device.createSession('web')
    outgoing.preserve('1', back)
    back.close()
    const next = begin(generation.kexec())
    const session = next.open().retrieveSession('web')
    const again = kit.own(session.retrieve('1'))
    touch(again, 2)
    again.close()
    session.finish()
    session.close()
    next.close()
    expect(defects).toEqual([])
  })

  test('it is given back when nobody comes for the files', () => {
    const generation = handOver()
    generation.open().close()
    generation.close()
    expect(poolCount('nr')).toBe(before)
    expect(defects).toEqual([])
  })
})
