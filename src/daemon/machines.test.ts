import { spawnSync } from 'node:child_process'
import { expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { encodeMachineRequest } from '../abi/machine.js'
import { countOpenFds } from '../sys/fd.js'
import { receive, send } from '../sys/unix.js'
import { Answers } from './answers.js'
import { LIMITS } from './limits.js'
import type { MachineOptions } from './machine.js'
import { Machines } from './machines.js'
import { machineHandlers } from './rpc-machine.js'
import { Usage } from './usage.js'
import { userLimits } from './user-limits.js'

const options: MachineOptions = {
  handlers: 'kernel',
  register: () => {},
  onDefect: (error) => {
    throw error
  },
  checkFiles: () => {},
  changeFiles: () => {},
}

test('a user has so many machines, and sees no others; root sees all', () => {
  const machines = new Machines(() => {})
  try {
    for (let count = 0; count < LIMITS.machines; count++) machines.ensure(1000, `m${count}`, options)
    expect(codeOf(() => machines.ensure(1000, 'more', options))).toBe('LUO_LIMIT')
    expect(machines.ensure(1000, 'm0', options)).toBe(machines.get(1000, 'm0'))
    const other = machines.ensure(1001, 'm0', options)
    expect(other).not.toBe(machines.get(1000, 'm0'))
    expect(machines.list(1001)).toEqual([other])
    expect(machines.list(0)).toHaveLength(LIMITS.machines + 1)
    expect(codeOf(() => machines.get(1001, 'm1'))).toBe('LUO_NOT_FOUND')
    expect(codeOf(() => machines.get(0, 'm1'))).toBe('LUO_NOT_FOUND')
  } finally {
    machines.close()
  }
})

test('a machine ends with its last notifier, unless it holds what was handed over, and leaves no file open', async () => {
  let ended = 0
  const machines = new Machines(() => {
    ended += 1
  })
  // The shared poller stays open.
  machines
    .ensure(1, 'warm', options)
    .attach({ id: 'n', pid: 1, endPrograms: () => {}, kill: () => {} })
    .close()
  machines.end(machines.get(1, 'warm'))
  const before = countOpenFds()
  const machine = machines.ensure(1, 'm', options)
  const notifier = { id: 'n', pid: 1, endPrograms: () => machine.detach(notifier), kill: () => {} }
  machine.attach(notifier).close()
  await machine.kexec().ended
  expect(machine.liveupdateNumber).toBe(1n)
  expect([machine.notifiers, machine.holdsState, ended]).toEqual([0, true, 1])
  await machine.kexec().ended
  expect(machine.liveupdateNumber).toBe(2n)
  machines.end(machine)
  machines.end(machine)
  machine.detach(notifier)
  expect([machines.size, ended]).toEqual([0, 2])
  const empty = machines.ensure(1, 'empty', options)
  const last = { id: 'n', pid: 1, endPrograms: () => {}, kill: () => {} }
  empty.attach(last).close()
  empty.detach(last)
  expect(ended).toBe(3)
  expect(countOpenFds()).toBe(before)
})

test('a defect in an answer is told, and ends that notifier alone', async () => {
  const told: string[] = []
  let broken = false
  const machines = new Machines(() => {})
  try {
    const machine = machines.ensure(1, 'm', {
      ...options,
      onDefect: (error, action) => told.push(`${action}: ${String(error)}`),
      changeFiles: () => {
        if (broken) throw new TypeError('a defect')
      },
    })
    const notifier = { id: 'n', pid: 1, endPrograms: () => {}, kill: () => {} }
    const other = { id: 'n', pid: 2, endPrograms: () => {}, kill: () => {} }
    using channel = machine.attach(notifier)
    using otherChannel = machine.attach(other)
    const question = encodeMachineRequest({ operation: 'describe', flags: 0, inode: 1n, token: 0n, name: '' })
    broken = true
    send(channel, question)
    await vi.waitFor(() => expect(receive(channel)).toMatchObject({ bytes: new Uint8Array(), fds: [] }))
    broken = false
    expect(told).toEqual(['answer a notifier: TypeError: a defect'])
    send(otherChannel, question)
    await vi.waitFor(() => expect(receive(otherChannel)?.bytes.length).toBeGreaterThan(0))
    machine.detach(notifier)
    expect(machine.notifiers).toBe(1)
    machine.detach(other)
    expect([machines.size, told.length]).toEqual([0, 1])
  } finally {
    machines.close()
  }
})

test('a notifier whose process cannot be watched joins no machine, and none stays for it', () => {
  const machines = new Machines(() => {})
  const usage = new Usage(userLimits({}, { nofile: 20_000, shared: false, memory: 2 ** 30 }))
  const { Emulate } = machineHandlers(machines, new Answers(), usage, () => {})
  const emulate = (id: string) =>
    Emulate({
      input: { id, machine: 'm' },
      peer: {
        // It has ended, and was waited for.
        pid: spawnSync('true').pid,
        uid: 1,
        gid: 1,
        pidfd: () => undefined,
        mayBeLost: () => () => false,
        onDisconnect: () => {},
        disconnect: () => {},
      },
      fds: [],
      more: true,
      reply: () => expect.unreachable(),
    })
  // What is made once for all of them stays open.
  expect(codeOf(() => emulate('first'))).toBe('ESRCH')
  const before = countOpenFds()
  expect(codeOf(() => emulate('second'))).toBe('ESRCH')
  expect([machines.size, countOpenFds(), usage.of(1).files]).toEqual([0, before, 0])
})
