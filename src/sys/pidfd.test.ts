import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { openSync, readFileSync } from 'node:fs'
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds, Fd } from './fd.js'
import { isEnding, openPidfd, pidfdOwner, seemsEnding, signalPidfd, standBack } from './pidfd.js'
import { Poller, type Readiness } from './poller.js'

/** There is no descriptor to read the state of a process through. */
let full = false
vi.mock('node:fs', async (original) => {
  const fs = await original<typeof import('node:fs')>()
  const read = (path: string, encoding: BufferEncoding) => {
    if (full && path.endsWith('/stat')) throw Object.assign(new Error('too many'), { code: 'EMFILE' })
    return fs.readFileSync(path, encoding)
  }
  return { ...fs, readFileSync: read }
})

/** Of /proc/PID/stat, counted after the name in parentheses. */
const POLICY_FIELD = 38

let openAtStart: number
const children: ChildProcess[] = []

function start(): { child: ChildProcess; pid: number } {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  children.push(child)
  return { child, pid: child.pid ?? 0 }
}

/** The first thing that is said of it, when it is asked for reading. */
function readiness(fd: Fd): Promise<Readiness> {
  return new Promise((resolve) => {
    const registration = Poller.shared().add(fd, { read: true, write: false }, (ready) => {
      registration.close()
      resolve(ready)
    })
  })
}

beforeAll(async () => {
  Poller.shared()
  // The first child makes the descriptors that the runtime keeps for all of them.
  await once(spawn('true', { stdio: 'ignore' }), 'exit')
  openAtStart = countOpenFds()
})

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

describe('a process', () => {
  test('is opened by its id, and is not inherited by children', () => {
    const { pid } = start()
    using pidfd = openPidfd(pid)
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd.number}`, 'utf8'))?.[1]
    expect(Number.parseInt(flags ?? '0', 8) & 0o2000000).toBe(0o2000000)
    expect(pidfdOwner(pidfd)).toEqual({ pid, uid: process.getuid?.() })
  })

  test('that is not there is ESRCH', async () => {
    const { child, pid } = start()
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(codeOf(() => openPidfd(pid))).toBe('ESRCH')
  })

  test.each([0, -1, 1.5, Number.NaN, 1e10, 2 ** 22 + 1])('with the id %s is refused', (pid) => {
    expect(codeOf(() => openPidfd(pid))).toBe('EINVAL')
  })

  test('stands back from the processors, and nothing fails when it has ended', async () => {
    const { child, pid } = start()
    using pidfd = openPidfd(pid)
    const policy = () => Number(readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ')[1]?.split(' ')[POLICY_FIELD])
    expect(policy()).toBe(0)
    standBack(pidfd)
    expect(policy()).toBe(5)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(() => standBack(pidfd)).not.toThrow()
  })

  test('can be this one', () => {
    using pidfd = openPidfd(process.pid)
    expect(pidfdOwner(pidfd)).toEqual({ pid: process.pid, uid: process.getuid?.() })
    expect(signalPidfd(pidfd, 0)).toBe(true)
  })

  test('is whose its real user is', () => {
    using pidfd = openPidfd(1)
    const uid = Number(/^Uid:\s+(\d+)/m.exec(readFileSync('/proc/1/status', 'utf8'))?.[1])
    expect(pidfdOwner(pidfd)).toEqual({ pid: 1, uid })
  })
})

describe('a signal', () => {
  test('arrives', async () => {
    const { child, pid } = start()
    using pidfd = openPidfd(pid)
    expect(signalPidfd(pidfd, 'SIGTERM')).toBe(true)
    const [, signal] = await once(child, 'exit')
    expect(signal).toBe('SIGTERM')
  })

  test('to a process that has ended is false, and reaches no other', async () => {
    const { child, pid } = start()
    using pidfd = openPidfd(pid)
    expect(signalPidfd(pidfd, 0)).toBe(true)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(signalPidfd(pidfd, 0)).toBe(false)
    expect(signalPidfd(pidfd, 'SIGKILL')).toBe(false)
    expect(pidfdOwner(pidfd)).toBe(undefined)
  })

  test('through what is no process is EBADF', () => {
    using file = Fd.adopt(openSync('/dev/null', 'r'))
    expect(codeOf(() => signalPidfd(file, 0))).toBe('EBADF')
    file.close()
    expect(codeOf(() => signalPidfd(file, 0))).toBe('EBADF')
  })
})

describe('the end of a process', () => {
  test('makes it readable, and not before', async () => {
    const { child, pid } = start()
    using pidfd = openPidfd(pid)
    let ready = false
    const end = readiness(pidfd).then((what) => {
      ready = true
      return what
    })
    await new Promise((resolve) => setTimeout(resolve, 30))
    expect(ready).toBe(false)
    child.kill('SIGKILL')
    expect(await end).toMatchObject({ readable: true })
    if (child.signalCode === null) await once(child, 'exit')
  })

  test('is known before anybody can see that its files are closed', async () => {
    for (let round = 0; round < 20; round++) {
      const child = spawn('sleep', ['100'], { stdio: ['ignore', 'pipe', 'ignore'] })
      using pidfd = openPidfd(child.pid ?? 0)
      expect(isEnding(pidfd)).toBe(false)
      // Its standard output is closed by its end, and by nothing else.
      const closed = new Promise<boolean>((resolve) => child.stdout.once('end', () => resolve(isEnding(pidfd))))
      child.stdout.resume()
      child.kill('SIGKILL')
      expect(await closed).toBe(true)
      if (child.signalCode === null) await once(child, 'exit')
      expect(isEnding(pidfd)).toBe(true)
    }
  })

  test('is not believed of a process that nobody can look at, for want of a descriptor', () => {
    const { pid } = start()
    using pidfd = openPidfd(pid)
    full = true
    try {
      expect(() => isEnding(pidfd)).toThrow('too many')
      expect(seemsEnding(pidfd)).toBe(false)
    } finally {
      full = false
    }
  })

  test('is told again to who asks later, through every copy', async () => {
    const { child, pid } = start()
    using pidfd = openPidfd(pid)
    using copy = pidfd.dup()
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(await readiness(copy)).toMatchObject({ readable: true })
    expect(await readiness(pidfd)).toMatchObject({ readable: true })
  })
})

test('no descriptor is left open', async () => {
  await vi.waitFor(() => expect(countOpenFds()).toBe(openAtStart))
})
