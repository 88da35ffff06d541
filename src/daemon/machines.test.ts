import { expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { countOpenFds } from '../sys/fd.js'
import { LIMITS } from './limits.js'
import type { MachineOptions } from './machine.js'
import { Machines } from './machines.js'

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
    .attach({ pid: 1, endPrograms: () => {}, kill: () => {} })
    .close()
  machines.end(machines.get(1, 'warm'))
  const before = countOpenFds()
  const machine = machines.ensure(1, 'm', options)
  const notifier = { pid: 1, endPrograms: () => machine.detach(notifier), kill: () => {} }
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
  const last = { pid: 1, endPrograms: () => {}, kill: () => {} }
  empty.attach(last).close()
  empty.detach(last)
  expect(ended).toBe(3)
  expect(countOpenFds()).toBe(before)
})
