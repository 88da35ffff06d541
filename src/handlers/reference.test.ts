import { openSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { HandoverMemory } from '../abi/handover-memory.js'
import { HandlerRegistry } from '../core/handler.js'
import { Orchestrator } from '../core/orchestrator.js'
import type { OutgoingSession } from '../core/session.js'
import { closeAll, countOpenFds, Fd } from '../sys/fd.js'
import { type FileInfo, type FileKind, fileInfo, sameOpenFile } from '../sys/file-info.js'
import { nofileLimit, raiseNofile } from '../sys/limits.js'
import { createMemfd, fileSize, readAt, writeAt } from '../sys/memfd.js'
import { socketPair } from '../sys/unix.js'
import { type FileAbout, type HeldFile, heldFiles } from './held-file.js'
import { KEPT_KINDS, type KeptFileKind, REFUSED_KINDS } from './kinds.js'
import { referenceHandlers, registerReferenceHandlers } from './reference.js'
import { FileSlots, type SlottedFile } from './slots.js'

let openBefore: number
let owned: Fd[]
let defects: unknown[]
let orchestrator: Orchestrator<HeldFile, FileAbout>
let session: OutgoingSession<HeldFile, FileAbout>

function orchestratorOf(registry: HandlerRegistry<HeldFile>): Orchestrator<HeldFile, FileAbout> {
  return new Orchestrator({ registry, files: heldFiles, onDefect: (error) => defects.push(error) })
}

beforeEach(() => {
  openBefore = countOpenFds()
  owned = []
  defects = []
  orchestrator = orchestratorOf(referenceHandlers())
  session = orchestrator.createSession('0', 'web')
})
afterEach(() => {
  orchestrator.end({ handedOver: false })
  closeAll(owned)
  expect(defects).toEqual([])
  expect(countOpenFds()).toBe(openBefore)
})

/** Closed at the end of the test, if not before. */
function own(fd: Fd): Fd {
  owned.push(fd)
  return fd
}

/** What is preserved is a copy, as the one that luod gets with a message. */
function toPreserve(token: string, fd: Fd, info: FileInfo = fileInfo(fd)) {
  return { token, file: { fd: own(fd.dup()), info }, about: { kind: info.kind, format: undefined, bytes: info.size } }
}

const memory = (name = 'store') => own(createMemfd(name, { size: 8 }))
const get = (...tokens: string[]) => orchestrator.reference(session, tokens).map(({ file }) => own(file.fd))

const KEPT = Object.keys(KEPT_KINDS) as KeptFileKind[]
const REFUSED = Object.keys(REFUSED_KINDS).filter((kind) => kind !== 'luod') as (keyof typeof REFUSED_KINDS &
  FileKind)[]

describe('the kinds', () => {
  test('that are kept have a name of their own each', () => {
    for (const kind of KEPT) expect(KEPT_KINDS[kind].compatible).toBe(`${kind}-ref-v1`)
  })

  test.each(KEPT)('%s: is judged by what the kernel says of it, and kept', (kind) => {
    const fd = memory()
    const [preserved] = orchestrator.preserve(session, [toPreserve('0', fd, { ...fileInfo(fd), kind })])
    expect(preserved?.handler.compatible).toBe(KEPT_KINDS[kind].compatible)
  })

  test.each(REFUSED)('%s: is judged by what the kernel says of it, and refused with its reason', (kind) => {
    const fd = memory()
    const preserve = () => orchestrator.preserve(session, [toPreserve('0', fd, { ...fileInfo(fd), kind })])
    expect(codeOf(preserve)).toBe('ENOENT')
    expect(preserve).toThrow(REFUSED_KINDS[kind].reason)
    expect(session.files.size).toBe(0)
  })

  test("one of luod's own sockets is refused, and others are not", () => {
    const [ours, theirs] = socketPair()
    for (const fd of [ours, theirs]) own(fd)
    const { ino } = fileInfo(ours)
    const daemons = orchestratorOf(referenceHandlers({ isOwn: ({ info }) => info.ino === ino }))
    const other = daemons.createSession('0', 'web')
    const preserve = () => daemons.preserve(other, [toPreserve('0', ours)])
    expect(codeOf(preserve)).toBe('ENOENT')
    expect(preserve).toThrow(REFUSED_KINDS.luod.reason)
    daemons.preserve(other, [toPreserve('0', theirs)])
    daemons.end({ handedOver: false })
  })
})

describe('a file that is preserved', () => {
  test('has what was written to it before, and what is written to it afterwards', () => {
    const fd = memory()
    writeAt(fd, Buffer.from('before'), 0)
    orchestrator.preserve(session, [toPreserve('0', fd)])
    writeAt(fd, Buffer.from('after.'), 0)
    fd.close()
    const [again] = get('0')
    const bytes = new Uint8Array(6)
    readAt(again as Fd, bytes, 0)
    expect(Buffer.from(bytes).toString()).toBe('after.')
    expect(fileSize(again as Fd)).toBe(8)
  })

  test('costs one descriptor, and each reference another one, until it is let go of', () => {
    const fd = memory()
    const open = countOpenFds()
    orchestrator.preserve(session, [toPreserve('0', fd)])
    expect(countOpenFds()).toBe(open + 1)
    const found = get('0', '0')
    expect(countOpenFds()).toBe(open + 3)
    closeAll(found)
    orchestrator.unpreserve(session, ['0'])
    expect(countOpenFds()).toBe(open)
    expect(fd.closed).toBe(false)
  })

  test('is let go of with its session, frozen or not', () => {
    const fds = [0, 1, 2].map(() => memory())
    const open = countOpenFds()
    for (const freeze of [false, true]) {
      const other = orchestrator.createSession('0', 'other')
      const files = fds.map((fd, index) => toPreserve(String(index), fd))
      orchestrator.preserve(other, files)
      expect(countOpenFds()).toBe(open + 3)
      if (freeze) orchestrator.freeze([other])
      orchestrator.release(other)
      expect(countOpenFds()).toBe(open)
    }
  })
})

describe('already preserved', () => {
  test.each(KEPT)('%s: the same open file is EBUSY, and can be preserved again after it was let go of', (kind) => {
    const fd = memory()
    const info = { ...fileInfo(fd), kind }
    orchestrator.preserve(session, [toPreserve('0', fd, info)])
    const other = orchestrator.createSession('1', 'other')
    for (const where of [session, other]) {
      expect(codeOf(() => orchestrator.preserve(where, [toPreserve('1', fd, info)]))).toBe('EBUSY')
    }
    orchestrator.unpreserve(session, ['0'])
    orchestrator.preserve(other, [toPreserve('1', fd, info)])
  })

  test.each(KEPT)('%s: the same inode, opened once more, is EBUSY where an inode is one object', (kind) => {
    const fd = memory()
    const again = own(Fd.adopt(openSync(`/proc/self/fd/${fd.number}`, 'r+')))
    const info = { ...fileInfo(fd), kind }
    orchestrator.preserve(session, [toPreserve('0', fd, info)])
    const code = codeOf(() => orchestrator.preserve(session, [toPreserve('1', again, info)]))
    expect(code).toBe(KEPT_KINDS[kind].identity === 'inode' ? 'EBUSY' : undefined)
  })

  test('files of one request are compared with each other too, and none of them is kept', () => {
    const fd = memory()
    const files = [toPreserve('0', memory('other')), toPreserve('1', fd), toPreserve('2', fd)]
    expect(codeOf(() => orchestrator.preserve(session, files))).toBe('EBUSY')
    expect(session.files.size).toBe(0)
    expect(files.map(({ file }) => file.fd.closed)).toEqual([false, false, false])
  })
})

describe('when no more files may be opened', () => {
  /** Nothing that is open now is hurt; the first of what is to come finds `room` more numbers. */
  function withRoomFor(room: number, run: () => void): void {
    const { soft } = nofileLimit()
    const highest = Math.max(...owned.filter((fd) => !fd.closed).map((fd) => fd.number), 64)
    const fillers: Fd[] = []
    try {
      const filler = createMemfd('filler')
      fillers.push(filler)
      while ((fillers.at(-1)?.number ?? 0) <= highest + room) fillers.push(filler.dup())
      raiseNofile((fillers.at(-1)?.number ?? 0) + 1)
      closeAll(fillers.slice(fillers.length - room))
      run()
    } finally {
      raiseNofile(soft)
      closeAll(fillers)
    }
  }

  test('a reference is EMFILE, all or nothing, and leaks nothing', () => {
    const files = [0, 1, 2].map((index) => toPreserve(String(index), memory()))
    orchestrator.preserve(session, files)
    const open = countOpenFds()
    withRoomFor(2, () => expect(codeOf(() => get('0', '1', '2'))).toBe('EMFILE'))
    expect(countOpenFds()).toBe(open)
    expect(session.files.size).toBe(3)
  })
})

describe('the next generation', () => {
  const ended: (() => void)[] = []
  afterEach(() => {
    for (const end of ended.splice(0)) end()
  })

  /** Preserves memory, hands over, and answers what came, with `change` made to it. */
  function handOver(change: (received: SlottedFile[]) => SlottedFile[] = (received) => received) {
    const context = (slots: FileSlots) => {
      const memory = new HandoverMemory()
      return { registry: new HandlerRegistry<HeldFile>(), slots, memory, received: () => memory }
    }
    const slots = new FileSlots()
    const first = context(slots)
    registerReferenceHandlers(first)
    const before = orchestratorOf(first.registry)
    const original = memory()
    before.preserve(before.createSession('0', 'web'), [toPreserve('7', original)])
    before.freezeAll()
    const state = before.serialize()
    const received = slots.take()
    before.end({ handedOver: true })
    const after = new FileSlots(change(received))
    const next = context(after)
    registerReferenceHandlers(next)
    const orchestrator = orchestratorOf(next.registry)
    orchestrator.receive(state)
    ended.push(() => {
      orchestrator.end({ handedOver: false })
      after.close()
    })
    return { original, orchestrator, session: orchestrator.retrieveSession('', 'web') }
  }

  test('has the file, again and again the same, until it is finished', () => {
    const { original, orchestrator, session } = handOver()
    const open = countOpenFds()
    const found = [0, 1].map(() => own(orchestrator.retrieve(session, '7').fd))
    expect(found.map((fd) => sameOpenFile(fd, original))).toEqual([true, true])
    closeAll(found)
    orchestrator.finish(session)
    expect(countOpenFds()).toBe(open - 1)
    expect(codeOf(() => orchestrator.retrieve(session, '7'))).toBe('ENOENT')
  })

  test('lets go of a file that nobody retrieved', () => {
    const { orchestrator, session } = handOver()
    const open = countOpenFds()
    orchestrator.finish(session)
    expect(countOpenFds()).toBe(open - 1)
  })

  test('without the descriptor the file is ENOENT, each time', () => {
    const { orchestrator, session } = handOver((received) => {
      closeAll(received.map(({ fd }) => fd))
      return []
    })
    for (const _ of [0, 1]) expect(codeOf(() => orchestrator.retrieve(session, '7'))).toBe('ENOENT')
  })

  test('a descriptor of another kind is EBADF, and leaks nothing', () => {
    const { orchestrator, session } = handOver((received) => {
      closeAll(received.map(({ fd }) => fd))
      const [mine, peer] = socketPair()
      own(peer)
      return received.map(({ slot }) => ({ slot, fd: mine }))
    })
    const open = countOpenFds()
    for (const _ of [0, 1]) expect(codeOf(() => orchestrator.retrieve(session, '7'))).toBe('EBADF')
    expect(countOpenFds()).toBe(open)
  })
})

test('a closed file is EBADF, and nothing of the request is kept', () => {
  const closed = toPreserve('1', memory(), { ...fileInfo(memory()), kind: 'eventfd' })
  orchestrator.preserve(session, [toPreserve('2', memory(), closed.file.info)])
  closed.file.fd.close()
  expect(codeOf(() => orchestrator.preserve(session, [toPreserve('0', memory()), closed]))).toBe('EBADF')
  expect([...session.files.keys()]).toEqual(['2'])
})
