import { readdirSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { readImage } from '../abi/kho.js'
import { decodeLuo } from '../abi/luo.js'
import type { Flb } from '../core/flb.js'
import type { FileHandler } from '../core/handler.js'
import { isLuoError, LuoError } from '../errors.js'
import type { HandlerContext } from '../handlers/context.js'
import type { HeldFile } from '../handlers/held-file.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { fileInfo, sameOpenFile } from '../sys/file-info.js'
import { nofileLimit, raiseNofile } from '../sys/limits.js'
import { createMemfd, fileSize, getSeals, readAt, truncate, writeAt } from '../sys/memfd.js'
import { socketPair } from '../sys/unix.js'
import { closeHandover, Generation, type GenerationOptions, type Handover } from './generation.js'

let openBefore: number
let owned: { close(): void }[]
let defects: string[]
beforeEach(() => {
  openBefore = countOpenFds()
  owned = []
  defects = []
})
afterEach(() => {
  for (const thing of owned.reverse()) thing.close()
  expect(defects).toEqual([])
  expect(countOpenFds()).toBe(openBefore)
})

function own<T extends { close(): void }>(thing: T): T {
  owned.push(thing)
  return thing
}

const byReference = (context: HandlerContext) => registerReferenceHandlers(context)

function begin(options: Partial<GenerationOptions> = {}): Generation {
  return own(
    Generation.begin({
      register: byReference,
      onDefect: (error, action) => defects.push(`${action}: ${String(error)}`),
      ...options,
    }),
  )
}

function memory(text: string): Fd {
  const fd = own(createMemfd('store', { size: 4096 }))
  writeAt(fd, Buffer.from(text), 0)
  return fd
}

function textOf(fd: Fd): string {
  const bytes = new Uint8Array(64)
  readAt(fd, bytes, 0)
  return Buffer.from(bytes).toString().replace(/\0.*$/s, '')
}

function reader(image: Fd) {
  return {
    size: fileSize(image),
    read: (offset: number, length: number) => {
      const bytes = new Uint8Array(length)
      return bytes.subarray(0, readAt(image, bytes, offset))
    },
  }
}

/** Keeps a memory file by value, and what it did; fails where it is told to. */
class ByValue implements FileHandler<HeldFile> {
  readonly compatible: string
  readonly log: string[] = []
  readonly #context: HandlerContext
  failOn: string | undefined
  constructor(context: HandlerContext, compatible = 'text-v1') {
    this.#context = context
    this.compatible = compatible
    context.registry.register(this)
  }
  #did(operation: string): void {
    if (this.failOn === operation) throw new LuoError('ENOMEM', `${operation} failed`)
    this.log.push(operation)
  }
  canPreserve({ info }: HeldFile): boolean {
    return info.kind === 'memfd'
  }
  preserve(_file: HeldFile) {
    this.#did('preserve')
    return { data: this.#context.memory.allocate(new Uint8Array(64)) }
  }
  unpreserve({ data }: { data: bigint }): void {
    this.#did('unpreserve')
    this.#context.memory.free(data)
  }
  freeze({ data }: { data: bigint }, { fd }: HeldFile): undefined {
    this.#did('freeze')
    this.#context.memory.write(data, Buffer.from(textOf(fd)))
  }
  unfreeze(): void {
    this.#did('unfreeze')
  }
  retrieve(data: bigint): HeldFile {
    this.#did('retrieve')
    const fd = createMemfd('text', { size: 64 })
    writeAt(fd, this.#context.received().read(data, 64), 0)
    return { fd, info: fileInfo(fd) }
  }
  finish({ data }: { data: bigint }): void {
    this.#did('finish')
    this.#context.received().free(data)
  }
}

describe('a device', () => {
  test('has one opener at a time: EBUSY; after a close, the next', () => {
    const generation = begin()
    const device = generation.open()
    expect(codeOf(() => generation.open())).toBe('EBUSY')
    device.close()
    device.close()
    generation.open().close()
    expect(codeOf(() => device.createSession('a'))).toBe('EBADF')
  })

  test('is not there when live update is switched off, and nothing can be registered or handed over', () => {
    const generation = begin({ enabled: false })
    expect(codeOf(() => generation.open())).toBe('ENOENT')
    expect(codeOf(() => generation.kexec())).toBe('EOPNOTSUPP')
  })

  test('leaves its sessions as they are when it is closed', () => {
    const generation = begin()
    const device = generation.open()
    const session = device.createSession('a')
    session.preserve('1', memory('kept'))
    device.close()
    expect(codeOf(() => generation.open().createSession('a'))).toBe('EEXIST')
    session.close()
  })

  test('of a generation that has ended is of no use', () => {
    const generation = begin()
    const device = generation.open()
    const session = device.createSession('a')
    generation.close()
    expect(codeOf(() => generation.open())).toBe('LUO_WRONG_STATE')
    expect(codeOf(() => device.createSession('b'))).toBe('LUO_WRONG_STATE')
    expect(codeOf(() => session.preserve('1', memory('x')))).toBe('LUO_WRONG_STATE')
    session.close()
    expect(codeOf(() => session.retrieve('1'))).toBe('EBADF')
  })
})

describe('an emulated kexec', () => {
  test('hands sessions and files over: the same open files, by name and token, after everybody has closed theirs', () => {
    const first = begin()
    const device = first.open()
    const [here, there] = socketPair()
    own(here)
    const store = memory('state')
    const witness = own(store.dup())
    const a = device.createSession('a')
    a.preserve('7', store)
    a.preserve('18446744073709551615', there)
    device.createSession('empty')
    closeAll([store, there])
    const handover = first.kexec()
    const second = begin({ handover })
    const next = second.open()
    expect(second.liveupdateNumber).toBe(1n)
    const session = next.retrieveSession('a')
    expect(session.direction).toBe('incoming')
    const got = own(session.retrieve('7'))
    expect(sameOpenFile(got, witness)).toBe(true)
    expect(textOf(got)).toBe('state')
    expect(sameOpenFile(own(session.retrieve('7')), witness)).toBe(true)
    expect(fileInfo(own(session.retrieve('18446744073709551615'))).kind).toBe('unix')
    expect(codeOf(() => session.retrieve('8'))).toBe('ENOENT')
    expect(codeOf(() => next.retrieveSession('a'))).toBe('EINVAL')
    expect(codeOf(() => next.retrieveSession('b'))).toBe('ENOENT')
    session.finish()
    session.close()
    expect(codeOf(() => next.retrieveSession('a'))).toBe('ENOENT')
    next.retrieveSession('empty').close()
  })

  test('counts, generation after generation, and what was handed over can be preserved again', () => {
    let generation = begin()
    generation.open().createSession('a').preserve('1', memory('travels'))
    for (let count = 1n; count <= 5n; count++) {
      generation = begin({ handover: generation.kexec() })
      const device = generation.open()
      expect(generation.liveupdateNumber).toBe(count)
      const incoming = device.retrieveSession('a')
      const file = incoming.retrieve('1')
      expect(textOf(file)).toBe('travels')
      const outgoing = device.createSession('a')
      // Until the one that came in is finished it is preserved there.
      expect(codeOf(() => outgoing.preserve('1', file))).toBe('EBUSY')
      incoming.close()
      outgoing.preserve('1', file)
      file.close()
    }
  })

  test('drops what nobody retrieved at the next one', () => {
    const first = begin()
    first.open().createSession('a').preserve('1', memory('lost'))
    const second = begin({ handover: first.kexec() })
    second.open()
    const third = begin({ handover: second.kexec() })
    expect(codeOf(() => third.open().retrieveSession('a'))).toBe('ENOENT')
  })

  test('hands over an image that nobody can change, in the layout of the kernel', () => {
    const first = begin()
    first.open().createSession('a').preserve('258', memory('x'))
    const handover = first.kexec()
    own({ close: () => closeHandover(handover) })
    const seals = getSeals(handover.image)
    for (const seal of ['seal', 'shrink', 'grow', 'write'] as const) expect(seals).toContain(seal)
    expect(codeOf(() => truncate(handover.image, 0))).toBe('EPERM')
    const { memory: crossed, luo } = readImage(reader(handover.image))
    expect(decodeLuo(crossed, luo)).toEqual({
      liveupdateNumber: 1n,
      sessions: [{ name: 'a', files: [{ compatible: 'memfd-ref-v1', data: 1n, token: '258' }] }],
      flbs: [],
    })
  })

  test('by value: what a handler writes at freeze is what the next generation builds the file from', () => {
    let handler: ByValue | undefined
    const register = (context: HandlerContext) => {
      handler = new ByValue(context)
    }
    const first = begin({ register })
    const file = memory('before')
    first.open().createSession('a').preserve('1', file)
    writeAt(file, Buffer.from('frozen'), 0)
    const handover = first.kexec()
    expect(handler?.log).toEqual(['preserve', 'freeze'])
    expect(handover.files).toEqual([])
    const second = begin({ register, handover })
    const session = second.open().retrieveSession('a')
    expect(textOf(own(session.retrieve('1')))).toBe('frozen')
    session.close()
    expect(handler?.log).toEqual(['retrieve', 'finish'])
  })

  test('aborts when a handler fails to freeze, and everything is as it was', () => {
    let handler: ByValue | undefined
    const first = begin({
      register: (context) => {
        handler = new ByValue(context)
      },
    })
    const session = first.open().createSession('a')
    session.preserve('1', memory('one'))
    session.preserve('2', memory('two'))
    const open = countOpenFds()
    ;(handler as ByValue).failOn = 'freeze'
    expect(codeOf(() => first.kexec())).toBe('ENOMEM')
    expect(countOpenFds()).toBe(open)
    ;(handler as ByValue).failOn = undefined
    session.preserve('3', memory('three'))
    closeHandover(first.kexec())
  })

  test('aborts when there is no descriptor left for the image, and everything is as it was', () => {
    let log: string[] = []
    const first = begin({
      register: (context) => {
        log = new ByValue(context).log
      },
    })
    const session = first.open().createSession('a')
    session.preserve('1', memory('one'))
    const highest = Math.max(...readdirSync('/proc/self/fd').map(Number))
    const fillers: Fd[] = []
    const { soft } = nofileLimit()
    raiseNofile(highest + 8)
    try {
      for (;;) fillers.push(memory('filler').dup())
    } catch (error) {
      expect(isLuoError(error, 'EMFILE')).toBe(true)
      expect(codeOf(() => first.kexec())).toBe('EMFILE')
    } finally {
      raiseNofile(soft)
      closeAll(fillers)
    }
    expect(log).toEqual(['preserve', 'freeze', 'unfreeze'])
    const second = begin({ register: (context) => void new ByValue(context), handover: first.kexec() })
    expect(textOf(own(second.open().retrieveSession('a').retrieve('1')))).toBe('one')
  })

  test('gives shared state over once, and its last user gives it back', () => {
    const log: string[] = []
    const flb: Flb<string> = {
      compatible: 'pool-v1',
      preserve: () => {
        log.push('preserve')
        return { data: 42n, object: 'pool' }
      },
      unpreserve: () => log.push('unpreserve'),
      retrieve: (data) => {
        log.push(`retrieve ${data}`)
        return 'pool again'
      },
      finish: ({ object }) => log.push(`finish ${object}`),
    }
    const register = (context: HandlerContext) => context.registry.registerFlb(new ByValue(context), flb)
    const first = begin({ register })
    const session = first.open().createSession('a')
    for (const token of ['1', '2', '3']) session.preserve(token, memory(token))
    const second = begin({ register, handover: first.kexec() })
    const incoming = second.open().retrieveSession('a')
    expect(log).toEqual(['preserve'])
    incoming.finish()
    expect(log).toEqual(['preserve', 'retrieve 42', 'finish pool again'])
  })
})

describe('what came in and cannot be used', () => {
  const handedOver = (): Handover => {
    const first = begin({ register: (context) => void new ByValue(context) })
    first.open().createSession('a').preserve('1', memory('text'))
    return first.kexec()
  }

  test('for want of a handler makes every open EIO, and stays to be looked at', () => {
    const second = begin({ handover: handedOver() })
    for (let count = 0; count < 3; count++) expect(codeOf(() => second.open())).toBe('EIO')
    expect(second.failure?.code).toBe('ENOENT')
    const image = own(second.image() as Fd)
    const { memory: crossed, luo } = readImage(reader(image))
    expect(decodeLuo(crossed, luo).sessions).toHaveLength(1)
  })

  test.each([
    ['an unknown version', 8, 'LUO_RECORDS_VERSION'],
    ['damage', 4096, 'LUO_RECORDS'],
  ] as const)('because of %s makes every open EIO, and nothing of it is changed', (_, at, code) => {
    const { image, files } = handedOver()
    const size = fileSize(image)
    const bytes = new Uint8Array(size)
    readAt(image, bytes, 0)
    image.close()
    bytes[at] = (bytes[at] ?? 0) ^ 0x40
    const broken = createMemfd('broken', { size })
    writeAt(broken, bytes, 0)
    const second = begin({ handover: { image: broken, files } })
    expect(codeOf(() => second.open())).toBe('EIO')
    expect(codeOf(() => second.open())).toBe('EIO')
    expect(second.failure?.code).toBe(code)
    const after = new Uint8Array(size)
    readAt(own(second.image() as Fd), after, 0)
    expect(after).toEqual(bytes)
  })

  test('without its descriptor fails that file alone, once and for all', () => {
    const first = begin()
    const session = first.open().createSession('a')
    session.preserve('1', memory('one'))
    session.preserve('2', memory('two'))
    const { image, files } = first.kexec()
    files[0]?.fd.close()
    const second = begin({ handover: { image, files: files.slice(1) } })
    const incoming = second.open().retrieveSession('a')
    expect(codeOf(() => incoming.retrieve('1'))).toBe('ENOENT')
    expect(codeOf(() => incoming.retrieve('1'))).toBe('ENOENT')
    expect(textOf(own(incoming.retrieve('2')))).toBe('two')
    incoming.finish()
  })

  test('as a file of another kind is EBADF', () => {
    const first = begin()
    first.open().createSession('a').preserve('1', memory('one'))
    const { image, files } = first.kexec()
    closeAll(files.map(({ fd }) => fd))
    const [other, unused] = socketPair()
    unused.close()
    const second = begin({ handover: { image, files: [{ slot: 1n, fd: other }] } })
    expect(codeOf(() => second.open().retrieveSession('a').retrieve('1'))).toBe('EBADF')
  })
})

test('a handler that cannot be registered leaves what came in to its owner', () => {
  const first = begin()
  first.open().createSession('a').preserve('1', memory('one'))
  const handover = first.kexec()
  const twice = (context: HandlerContext) => {
    byReference(context)
    byReference(context)
  }
  expect(codeOf(() => Generation.begin({ register: twice, handover }))).toBe('EEXIST')
  const second = begin({ handover })
  expect(textOf(own(second.open().retrieveSession('a').retrieve('1')))).toBe('one')
})

test('a session that its holder never got is retrieved again, once it was given back unused', () => {
  const before = begin()
  const device = before.open()
  const session = device.createSession('s')
  session.preserve('1', memory('kept'))
  const after = begin({ handover: before.kexec() })
  expect(after.holdsState).toBe(true)
  const next = after.open()
  next.retrieveSession('s').giveBack()
  const again = next.retrieveSession('s')
  again.retrieve('1').close()
  expect(codeOf(() => again.giveBack())).toBe('LUO_WRONG_STATE')
  again.close()
  expect(after.holdsState).toBe(false)
})

test('the live update number goes on where nobody has opened the device', () => {
  const first = begin()
  const second = begin({ handover: first.kexec() })
  const third = begin({ handover: second.kexec() })
  third.open()
  expect(third.liveupdateNumber).toBe(2n)
})
