/**
 * What the kernel may answer to a luod with an emulated machine: each call of libc of a session's life on its device
 * fails once. A program gets an errno, or a notifier no answer any more; the machine goes on, and no file is left.
 */
import { afterAll, expect, test } from 'vitest'
import {
  decodeMachineAnswer,
  encodeMachineRequest,
  type MachineAnswer,
  type MachineRequest,
} from '../../src/abi/machine.js'
import { Machine, type MachineOptions, type MachineState } from '../../src/daemon/machine.js'
import { filesOf, readMachines, writeMachines } from '../../src/daemon/machines-state.js'
import { isLuoError } from '../../src/errors.js'
import { kernelMemfdHandler } from '../../src/handlers/kernel-memfd.js'
import { closeAll, countOpenFds, type Fd } from '../../src/sys/fd.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { receive, send } from '../../src/sys/unix.js'
import { eventually } from '../daemon/stage.js'
import { besides, FAILURES, failEach } from './interference.js'

const defects: unknown[] = []
let charged = 0
const options: MachineOptions = {
  handlers: 'kernel',
  register: (context, _, faults) => context.registry.register(faults.wrap(kernelMemfdHandler(context))),
  onDefect: (error) => void defects.push(error),
  checkFiles: () => {},
  changeFiles: (by) => {
    charged += by
  },
}
const notifier = { id: 'n', pid: 7, endPrograms: () => {}, kill: () => {} }
const memory = createMemfd('machine-calls')
afterAll(() => memory.close())

/** A notifier that asks, and what it gets. Its own calls do not fail. */
class Asking implements Disposable {
  readonly #channel: Fd
  readonly #got: Fd[] = []
  readonly errnos: number[] = []

  constructor(machine: Machine) {
    this.#channel = machine.attach(notifier)
  }

  async ask(operation: MachineRequest['operation'], values: Partial<MachineRequest> = {}, files: Fd[] = []) {
    const request = encodeMachineRequest({ operation, flags: 0, inode: 0n, token: 0n, name: '', ...values })
    try {
      besides(() => send(this.#channel, request, files))
    } catch (error) {
      // luod could not answer the one before, and has given this notifier up.
      if (!isLuoError(error, 'EPIPE')) throw error
      return this.#noAnswer()
    }
    const got = await eventually(
      () => besides(() => receive(this.#channel)),
      (answer) => answer !== undefined,
      `${operation} is not answered`,
    )
    if (!got || got.bytes.length === 0) return this.#noAnswer()
    this.#got.push(...got.fds)
    const answer: MachineAnswer = decodeMachineAnswer(got.bytes)
    if (answer.errno !== 0) this.errnos.push(answer.errno)
    return { ...answer, file: got.fds[0] }
  }

  #noAnswer(): undefined {
    this.errnos.push(-1)
    return undefined
  }

  [Symbol.dispose](): void {
    closeAll(this.#got)
    this.#channel.close()
  }
}

async function live(machine: Machine): Promise<number[]> {
  let asking: Asking
  try {
    asking = new Asking(machine)
  } catch (error) {
    if (!isLuoError(error)) throw error
    return [-1]
  }
  try {
    const device = await asking.ask('open')
    if (device?.errno === 0) {
      const session = await asking.ask('createSession', { inode: device.inode, name: 'a' })
      if (session?.errno === 0) {
        await asking.ask('preserve', { inode: session.inode, token: 5n }, [memory])
        await asking.ask('getName', { inode: session.inode })
        session.file?.close()
      }
      device.file?.close()
    }
    return asking.errnos
  } finally {
    asking[Symbol.dispose]()
  }
}

test.each(FAILURES)('%s at each call costs one request, or one notifier, at most', async (_, calls, instead) => {
  const machine = new Machine(1, 'm', options, () => {})
  try {
    await live(machine)
    machine.detach(notifier)
    const before = countOpenFds()
    let errnos: number[] = []
    const after = async (where: string) => {
      machine.detach(notifier)
      await eventually(countOpenFds, (count) => count <= before, `${where}: descriptors are left`)
      expect([machine.notifiers, charged], where).toEqual([0, 0])
    }
    const struck = await failEach({
      ...{ calls, instead },
      work: async () => {
        errnos = await live(machine)
      },
      after: async ({ call, where }) => {
        if (call === undefined) expect(errnos).toEqual([])
        await after(where)
        expect(await live(machine), where).toEqual([])
        await after(where)
      },
    })
    // Nothing is written when memory is preserved.
    if (!calls.includes('pwrite')) expect(struck).toBeGreaterThan(0)
    expect(defects).toEqual([])
  } finally {
    machine.close()
  }
})

test('a snapshot of it is whole, or is none, and the machine goes on', async () => {
  let machine = new Machine(1, 'm', options, () => {})
  using asking = new Asking(machine)
  try {
    const device = await asking.ask('open')
    const session = await asking.ask('createSession', { inode: device?.inode ?? 0n, name: 'a' })
    await asking.ask('preserve', { inode: session?.inode ?? 0n, token: 5n }, [memory])
    const before = countOpenFds()
    for (const [failure, calls, instead] of FAILURES) {
      await failEach({
        ...{ calls, instead },
        work: () => {
          machine.pause()
          try {
            let states: MachineState[]
            try {
              using written = writeMachines([machine.save()])
              const received = new Map<string, Fd>()
              try {
                for (const { key, fd } of written.entries) received.set(key, fd.dup())
              } catch (error) {
                closeAll(received.values())
                throw error
              }
              states = readMachines(received)
            } finally {
              machine.resume()
            }
            // It is taken over, and the one before ends.
            try {
              const next = Machine.restore(states[0] as MachineState, options, () => {})
              machine.close()
              machine = next
              machine.returns({ ...notifier })
            } catch (error) {
              closeAll(filesOf(states))
              throw error
            }
          } catch (error) {
            if (!isLuoError(error)) throw error
          }
        },
        after: async ({ where }) => {
          const what = `${failure}, ${where}`
          expect(await asking.ask('getName', { inode: session?.inode ?? 0n }), what).toMatchObject({ name: 'a' })
          await eventually(countOpenFds, (count) => count <= before, `${what}: descriptors are left`)
        },
      })
    }
    expect(defects).toEqual([])
  } finally {
    machine.close()
  }
})
