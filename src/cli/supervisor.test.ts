import { beforeEach, describe, expect, test } from 'vitest'
import { type Exit, exitCodeOfProcess, Supervisor, type SupervisorPort } from './supervisor.js'

class FakePort implements SupervisorPort {
  started: { pid: number; command: readonly string[]; onExit: (exit: Exit) => void; signals: string[] }[] = []
  said: string[] = []
  result: Exit | undefined
  timers: { ms: number; run: () => void }[] = []
  clock = 0

  start = (command: readonly string[], onExit: (exit: Exit) => void) => {
    const child = { pid: 100 + this.started.length, command, onExit, signals: [] as string[] }
    this.started.push(child)
    return { pid: child.pid, kill: (signal: string) => void child.signals.push(signal) }
  }
  say = (text: string) => void this.said.push(text)
  finished = (exit: Exit) => {
    this.result = exit
  }
  now = () => this.clock
  later = (ms: number, run: () => void) => {
    const timer = { ms, run }
    this.timers.push(timer)
    return () => void this.timers.splice(this.timers.indexOf(timer), 1)
  }
  exit(index: number, code: number | null, signal: NodeJS.Signals | null = null) {
    this.started[index]?.onExit({ code, signal })
  }
  fire() {
    const timer = this.timers.shift()
    timer?.run()
    return timer?.ms
  }
}

let port: FakePort
const make = (restart: boolean) => {
  const supervisor = new Supervisor(port, { command: ['v1'], restart })
  supervisor.begin()
  return supervisor
}
beforeEach(() => {
  port = new FakePort()
})

test('the exit of the workload is the result', () => {
  make(false)
  port.exit(0, 7)
  expect(port.result).toEqual({ code: 7, signal: null })
})

test('a death by signal is 128 + the signal', () => {
  expect(exitCodeOfProcess({ code: null, signal: 'SIGKILL' })).toBe(137)
  expect(exitCodeOfProcess({ code: 3, signal: null })).toBe(3)
})

describe('an update', () => {
  test('that commits makes the successor current, and the old exit means nothing', () => {
    const supervisor = make(false)
    supervisor.beginUpdate('u1', ['v2'], port.start)
    supervisor.endUpdate('u1', true)
    expect(supervisor.currentPid).toBe(101)
    port.exit(0, 1)
    expect(port.result).toBeUndefined()
    port.exit(1, 4)
    expect(port.result?.code).toBe(4)
  })

  test('whose old version exits before luod said committed is judged afterwards', () => {
    const supervisor = make(true)
    supervisor.beginUpdate('u1', undefined, port.start)
    port.exit(0, 0)
    expect(port.result).toBeUndefined()
    supervisor.endUpdate('u1', true)
    expect(port.result).toBeUndefined()
    expect(supervisor.currentPid).toBe(101)
  })

  test('that rolls back leaves the old version current', () => {
    const supervisor = make(false)
    supervisor.beginUpdate('u1', ['v2'], port.start)
    port.exit(1, 1)
    supervisor.endUpdate('u1', false)
    expect(supervisor.currentPid).toBe(100)
    expect(port.result).toBeUndefined()
  })

  test('that rolls back before luod knew of the successor ends it', () => {
    const supervisor = make(false)
    supervisor.beginUpdate('u1', ['v2'], port.start)
    supervisor.endUpdate('u1', false)
    expect(port.started.map(({ signals }) => signals)).toEqual([[], ['SIGKILL']])
  })

  test.each([
    [3, null, ['the new version, pid 101, exited with code 3']],
    [null, 'SIGSEGV' as const, ['the new version, pid 101, was killed by SIGSEGV']],
    [null, 'SIGKILL' as const, []],
  ])('whose successor ends by itself (%s, %s) says how', (code, signal, said) => {
    const supervisor = make(false)
    supervisor.beginUpdate('u1', ['v2'], port.start)
    port.exit(1, code, signal)
    expect(port.said).toEqual(said)
  })

  test('in which both die restarts the old command', () => {
    const supervisor = make(true)
    supervisor.beginUpdate('u1', ['v2'], port.start)
    port.exit(0, null, 'SIGKILL')
    port.exit(1, null, 'SIGKILL')
    expect(port.timers).toHaveLength(0)
    supervisor.endUpdate('u1', false)
    port.fire()
    expect(port.started[2]?.command).toEqual(['v1'])
  })

  test('that committed decides what a later crash restarts', () => {
    const supervisor = make(true)
    supervisor.beginUpdate('u1', ['v2'], port.start)
    supervisor.endUpdate('u1', true)
    port.exit(1, 9)
    port.fire()
    expect(port.started[2]?.command).toEqual(['v2'])
  })

  test('with a successor that cannot be started leaves all as it was', () => {
    const supervisor = make(false)
    const fail = () => {
      throw new Error('no such program')
    }
    expect(() => supervisor.beginUpdate('u1', ['v2'], fail)).toThrow('no such program')
    supervisor.endUpdate('u1', false)
    expect(supervisor.currentPid).toBe(100)
  })

  test('that drains is waited for at the end', () => {
    const supervisor = make(false)
    supervisor.beginUpdate('u1', ['v2'], port.start)
    supervisor.endUpdate('u1', true)
    port.exit(1, 0)
    expect(port.result).toBeUndefined()
    port.exit(0, 0)
    expect(port.result?.code).toBe(0)
  })
})

describe('restart', () => {
  test('waits longer each time, up to 10 s, and is quick again after a long run', () => {
    make(true)
    const waits: (number | undefined)[] = []
    for (let i = 0; i < 9; i++) {
      port.exit(i, 1)
      waits.push(port.fire())
    }
    expect(waits).toEqual([100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000])
    port.clock += 10_000
    port.exit(9, 1)
    expect(port.fire()).toBe(100)
  })

  test('that fails is tried again, and why is said once, and in the end how often', () => {
    make(true)
    const { start } = port
    const failing = ['no such program', 'no such program', 'not executable', 'not executable']
    port.start = (...args) => {
      const why = failing.shift()
      if (why === undefined) return start(...args)
      throw new Error(why)
    }
    port.exit(0, 1)
    const waits = [0, 1, 2, 3, 4].map(() => port.fire())
    expect(waits).toEqual([100, 200, 400, 800, 1600])
    expect(port.said).toEqual([
      'pid 100 exited with code 1; restart in 100 ms',
      'restart failed: no such program; tried again, at last every 10 s',
      'restart failed: not executable; tried again, at last every 10 s',
      'restarted, after 4 attempts that failed',
    ])
    expect(port.started).toHaveLength(2)
  })

  test('does not happen after exit code 0', () => {
    make(true)
    port.exit(0, 0)
    expect(port.result?.code).toBe(0)
  })

  test('does not happen after our own signal', () => {
    const supervisor = make(true)
    supervisor.signal('SIGTERM', { ends: true, passOn: true })
    expect(port.started[0]?.signals).toEqual(['SIGTERM'])
    port.exit(0, null, 'SIGTERM')
    expect(port.result).toEqual({ code: null, signal: 'SIGTERM' })
  })

  test('that waits is called off by a signal', () => {
    const supervisor = make(true)
    port.exit(0, 1)
    supervisor.signal('SIGTERM', { ends: true, passOn: true })
    expect(port.timers).toHaveLength(0)
    expect(port.result?.signal).toBe('SIGTERM')
  })

  test('does not happen when luod is gone', () => {
    const supervisor = make(true)
    supervisor.luodGone()
    expect(port.result).toBeUndefined()
    port.exit(0, 5)
    expect(port.result?.code).toBe(5)
    expect(port.said.at(-1)).toContain('luod is gone')
  })
})

test('when luod is lost in an update, the version that lives longer is the workload', () => {
  const supervisor = make(true)
  supervisor.beginUpdate('u1', ['v2'], port.start)
  supervisor.luodGone()
  port.exit(0, 0)
  expect(port.result).toBeUndefined()
  port.exit(1, 6)
  expect(port.result?.code).toBe(6)
})

test('an ending signal in a terminal is not sent a second time', () => {
  const supervisor = make(true)
  supervisor.signal('SIGINT', { ends: true, passOn: false })
  expect(port.started[0]?.signals).toEqual([])
})
