import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import ts from 'typescript'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { closeAll, countOpenFds, Fd } from './fd.js'
import { libc } from './ffi.js'
import { createMemfd } from './memfd.js'
import { type Interest, Poller, type Readiness, type Registration, waitReadable } from './poller.js'
import { acceptUnix, connectUnix, listenUnix, receive, send, socketPair } from './unix.js'

const NOTHING: Interest = { read: false, write: false }
const READ: Interest = { read: true, write: false }
const WRITE: Interest = { read: false, write: true }
const BYTE = Uint8Array.of(1)
/** More than what one wake takes. */
const MANY = 100
const SYS_SHUTDOWN = process.arch === 'x64' ? 48 : 210
const SHUT_WR = 1

const poller = Poller.shared()
const pairs: Fd[] = []
const registrations: Registration[] = []
let openAtStart: number

function pair(): [Fd, Fd] {
  const both = socketPair()
  pairs.push(...both)
  return both
}

/** A new pair whose first end has the number of a file that was closed just now: the lowest free ones are given out. */
function pairWithNumber(number: number): [Fd, Fd] {
  for (;;) {
    const [a, b] = pair()
    if (a.number === number) return [a, b]
    if (b.number === number) return [b, a]
  }
}

/** Watches `fd`, and notes down all that is said of it. */
function watch(fd: Fd, interest: Interest, heard?: (ready: Readiness) => void): Registration & { said: Readiness[] } {
  const said: Readiness[] = []
  const registration = poller.add(fd, interest, (ready) => {
    said.push(ready)
    heard?.(ready)
  })
  registrations.push(registration)
  return { ...registration, said }
}

beforeAll(() => {
  openAtStart = countOpenFds()
})

afterEach(() => {
  for (const registration of registrations.splice(0)) registration.close()
  closeAll(pairs.splice(0))
})

describe('readiness', () => {
  test('to read is told when something has come, and not before', async () => {
    const [a, b] = pair()
    const { said } = watch(b, READ)
    await sleep(20)
    expect(said).toEqual([])
    send(a, BYTE)
    await vi.waitFor(() => expect(said[0]).toEqual({ readable: true, writable: false, hangup: false }))
  })

  test('is told again as long as something is left, and no more when all is read', async () => {
    const [a, b] = pair()
    const { said } = watch(b, READ, () => {
      if (said.length === 3) receive(b)
    })
    send(a, BYTE)
    await vi.waitFor(() => expect(said).toHaveLength(3))
    await sleep(20)
    expect(said).toHaveLength(3)
  })

  test('to write is told when there is room', async () => {
    const [a, b] = pair()
    const chunk = new Uint8Array(60_000)
    while (send(a, chunk) > 0);
    const { said } = watch(a, WRITE)
    await sleep(20)
    expect(said).toEqual([])
    while (receive(b));
    await vi.waitFor(() => expect(said[0]).toEqual({ readable: false, writable: true, hangup: false }))
  })

  test('to accept is told by a listener', async () => {
    const name = `@luo-poller-${process.pid}`
    const listener = listenUnix(name)
    const accepted: Fd[] = []
    watch(listener, READ, () => {
      for (let fd = acceptUnix(listener); fd; fd = acceptUnix(listener)) accepted.push(fd)
    })
    const clients = [connectUnix(name), connectUnix(name)]
    await vi.waitFor(() => expect(accepted).toHaveLength(2))
    pairs.push(listener, ...clients, ...accepted)
  })

  test('of more files than one wake takes is told of every one', async () => {
    const watched = Array.from({ length: MANY }, () => {
      const [a, b] = pair()
      send(a, BYTE)
      return watch(b, READ)
    })
    await vi.waitFor(() => expect(watched.filter(({ said }) => said.length === 0)).toEqual([]))
  })

  test('is still told after the garbage collector', async () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const [a, b] = pair()
    const { said } = watch(b, READ, () => void receive(b))
    for (let round = 1; round <= 5; round++) {
      collect()
      await sleep(1)
      collect()
      send(a, BYTE)
      await vi.waitFor(() => expect(said).toHaveLength(round))
    }
  })
})

describe('the end of the other side', () => {
  test('is told to somebody who asked for nothing', async () => {
    const [a, b] = pair()
    const { said } = watch(b, NOTHING)
    send(a, BYTE)
    await sleep(20)
    expect(said).toEqual([])
    a.close()
    await vi.waitFor(() => expect(said[0]).toMatchObject({ hangup: true }))
  })

  test('is told together with what there still is to read', async () => {
    const [a, b] = pair()
    send(a, BYTE)
    a.close()
    const { said } = watch(b, READ)
    await vi.waitFor(() => expect(said[0]).toMatchObject({ readable: true, hangup: true }))
    expect(receive(b)?.bytes).toEqual(BYTE)
  })

  test('is told when only its sending has ended, to somebody who reads', async () => {
    const [a, b] = pair()
    const quiet = pair()
    const { said } = watch(b, READ)
    const { said: unasked } = watch(quiet[1], NOTHING)
    libc('syscall', SYS_SHUTDOWN, a.number, SHUT_WR, 0, 0, 0)
    libc('syscall', SYS_SHUTDOWN, quiet[0].number, SHUT_WR, 0, 0, 0)
    await vi.waitFor(() => expect(said[0]).toMatchObject({ readable: true, hangup: true }))
    expect(unasked).toEqual([])
  })
})

describe('a registration', () => {
  test('can be given another interest', async () => {
    const [a, b] = pair()
    const { said, update } = watch(b, NOTHING)
    send(a, BYTE)
    await sleep(20)
    expect(said).toEqual([])
    update(READ)
    await vi.waitFor(() => expect(said[0]).toMatchObject({ readable: true, writable: false }))
    update(WRITE)
    said.length = 0
    await vi.waitFor(() => expect(said.at(-1)).toMatchObject({ readable: false, writable: true }))
    update(NOTHING)
    await sleep(5)
    said.length = 0
    await sleep(20)
    expect(said).toEqual([])
  })

  test('that is closed hears nothing more, and can be closed and changed again', async () => {
    const [a, b] = pair()
    const { said, close, update } = watch(b, READ)
    close()
    close()
    update(READ)
    send(a, BYTE)
    await sleep(20)
    expect(said).toEqual([])
  })

  test('can be closed in its own callback, with its file', async () => {
    const [a, b] = pair()
    const { said, close } = watch(b, READ, () => {
      close()
      b.close()
    })
    send(a, BYTE)
    await vi.waitFor(() => expect(said).toHaveLength(1))
    await sleep(20)
    expect(said).toHaveLength(1)
  })

  test('that another callback of the same wake closes is not called', async () => {
    const [a, b] = pair()
    const [c, d] = pair()
    const heard: string[] = []
    const first = watch(b, READ, () => {
      heard.push('first')
      first.close()
      second.close()
    })
    const second = watch(d, READ, () => {
      heard.push('second')
      first.close()
      second.close()
    })
    send(a, BYTE)
    send(c, BYTE)
    await vi.waitFor(() => expect(heard).not.toEqual([]))
    await sleep(20)
    expect(heard).toHaveLength(1)
  })

  test('of a new file with the number of one just closed hears nothing that was meant for the old one', async () => {
    const [a, b] = pair()
    const [c, d] = pair()
    const heard: string[] = []
    let late: Registration | undefined
    const replace = (own: Registration, other: Registration, file: Fd) => {
      own.close()
      other.close()
      const { number } = file
      file.close()
      late = watch(pairWithNumber(number)[0], READ, () => heard.push('new'))
    }
    const first: Registration = watch(b, READ, () => {
      heard.push('old')
      replace(first, second, d)
    })
    const second: Registration = watch(d, READ, () => {
      heard.push('old')
      replace(second, first, b)
    })
    send(a, BYTE)
    send(c, BYTE)
    await vi.waitFor(() => expect(late).toBeDefined())
    await sleep(20)
    expect(heard).toEqual(['old'])
  })

  test('that is closed after its file does not take the next file of that number away', async () => {
    const [, b] = pair()
    const { number } = b
    const old = watch(b, READ)
    b.close()
    const [fresh, other] = pairWithNumber(number)
    const { said } = watch(fresh, READ)
    old.close()
    send(other, BYTE)
    await vi.waitFor(() => expect(said).not.toEqual([]))
  })

  test('can be added in a callback, and is heard', async () => {
    const [a, b] = pair()
    const [c, d] = pair()
    const said: string[] = []
    const first = watch(b, READ, () => {
      first.close()
      const inner = watch(d, READ, () => {
        said.push('inner')
        inner.close()
      })
    })
    send(a, BYTE)
    send(c, BYTE)
    await vi.waitFor(() => expect(said).toEqual(['inner']))
  })
})

describe('what cannot be watched', () => {
  test('is an error and not the end of the process', async () => {
    const [a, b] = pair()
    const { said } = watch(b, READ)
    expect(codeOf(() => watch(b, READ))).toBe('EEXIST')
    using file = createMemfd('never ready')
    expect(codeOf(() => watch(file, READ))).toBe('EPERM')
    using unopened = Fd.adopt(2 ** 30)
    expect(codeOf(() => watch(unopened, READ))).toBe('EBADF')
    const closed = createMemfd('closed')
    closed.close()
    expect(codeOf(() => watch(closed, READ))).toBe('EBADF')
    send(a, BYTE)
    await vi.waitFor(() => expect(said).not.toEqual([]))
  })

  test('any more, because its file was closed, cannot be given another interest', () => {
    const [, b] = pair()
    const { update } = watch(b, READ)
    b.close()
    expect(codeOf(() => update(WRITE))).toBe('EBADF')
  })
})

test('there is one poller in a process', () => {
  expect(Poller.shared()).toBe(poller)
})

describe('a process of its own', () => {
  const source = fileURLToPath(new URL('.', import.meta.url))
  const modules = fileURLToPath(new URL('../../node_modules', import.meta.url))
  let folder: string

  // The sources as they are now, in JavaScript: nothing that was built before is used.
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'luo-poller-'))
    mkdirSync(join(folder, 'sys'))
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
    symlinkSync(modules, join(folder, 'node_modules'))
    const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 }
    const files = readdirSync(source).filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
    for (const name of ['../errors.ts', ...files]) {
      const { outputText } = ts.transpileModule(readFileSync(join(source, name), 'utf8'), { compilerOptions })
      writeFileSync(join(folder, 'sys', name.replace(/ts$/, 'js')), outputText)
    }
  })

  afterAll(() => rmSync(folder, { recursive: true }))

  async function run(program: string): Promise<string> {
    const path = join(folder, 'program.js')
    const imports = `import { Poller } from './sys/poller.js'
      import { receive, send, socketPair } from './sys/unix.js'
      const poller = Poller.shared()
      const [a, b] = socketPair()
      const READ = { read: true, write: false }
    `
    writeFileSync(path, imports + program)
    const { stdout } = await promisify(execFile)(process.execPath, [path], { timeout: 5_000 })
    return stdout
  }

  test('ends although files are watched, when nobody wants it to stay', async () => {
    expect(await run(`poller.add(b, READ, () => {}); console.log('ends')`)).toBe('ends\n')
  })

  test('stays as long as somebody wants that, and ends when all have let go', async () => {
    // A promise that a callback resolves goes on at once: no other event comes that would make it.
    const program = `
      poller.ref()
      poller.ref()
      const { promise, resolve } = (() => {
        let resolve
        const promise = new Promise((done) => { resolve = done })
        return { promise, resolve }
      })()
      poller.add(b, READ, () => {
        receive(b)
        poller.unref()
        resolve()
      })
      setTimeout(() => send(a, Uint8Array.of(1)), 30).unref()
      promise.then(() => {
        console.log('heard')
        poller.unref()
      })
    `
    expect(await run(program)).toBe('heard\n')
  })

  test('that wants to stay again does', async () => {
    const program = `
      poller.ref()
      poller.unref()
      poller.ref()
      poller.add(b, READ, () => {
        receive(b)
        console.log('heard')
        poller.unref()
      })
      setTimeout(() => send(a, Uint8Array.of(1)), 30).unref()
    `
    expect(await run(program)).toBe('heard\n')
  })
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})

test('waiting for one file ends when it is readable, or hangs up, or at the limit', () => {
  const [one, other] = socketPair()
  try {
    expect(waitReadable(one, 1)).toBe(false)
    send(other, BYTE)
    expect(waitReadable(one, 1_000)).toBe(true)
    receive(one)
    other.close()
    expect(waitReadable(one, 1_000)).toBe(true)
  } finally {
    closeAll([one, other])
  }
})

test('waiting for one file first ends when another that is watched is ready, and leaves that to its callback', async () => {
  const [first, firstPeer] = socketPair()
  const [other, otherPeer] = socketPair()
  let heard = 0
  const watch = poller.add(other, READ, () => {
    heard += 1
    receive(other)
  })
  // Registered, but of no interest to the poller itself.
  const idle = poller.add(first, NOTHING, () => expect.unreachable())
  try {
    expect(poller.waitFirst(first, 1)).toBe(false)
    send(firstPeer, BYTE)
    expect(poller.waitFirst(first, 60_000)).toBe(true)
    send(otherPeer, BYTE)
    expect(poller.waitFirst(first, 60_000)).toBe(false)
    receive(first)
    expect(poller.waitFirst(first, 60_000)).toBe(false)
    expect(heard).toBe(0)
    await vi.waitFor(() => expect(heard).toBe(1))
  } finally {
    watch.close()
    idle.close()
    closeAll([first, firstPeer, other, otherPeer])
  }
})
