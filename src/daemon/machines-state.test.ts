import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { decodeMachineAnswer, encodeMachineRequest, type MachineAnswer, type MachineRequest } from '../abi/machine.js'
import { kernelMemfdHandler } from '../handlers/kernel-memfd.js'
import { closeAll, countOpenFds, type Fd } from '../sys/fd.js'
import { createMemfd, fileSize, readAt, truncate, writeAt } from '../sys/memfd.js'
import { receive, send } from '../sys/unix.js'
import { Machine, type MachineOptions, type MachineState } from './machine.js'
import { filesOf, readMachines, type SavedMachines, writeMachines } from './machines-state.js'

const options: MachineOptions = {
  handlers: 'kernel',
  register: (context, _, faults) => context.registry.register(faults.wrap(kernelMemfdHandler(context))),
  onDefect: (error) => {
    throw error
  },
  checkFiles: () => {},
  changeFiles: (by) => {
    charged += by
  },
}

let charged = 0
const open: Fd[] = []
let machine: Machine
let channel: Fd
let before = 0

beforeEach(() => {
  charged = 0
  // What is made once for all stays open.
  new Machine(1, 'warm', options, () => {}).close()
  before = countOpenFds()
  machine = new Machine(1, 'm', options, () => {})
  channel = machine.attach({ id: 'n', pid: 7, endPrograms: () => {}, kill: () => {} })
})

afterEach(() => {
  machine.close()
  channel.close()
  closeAll(open.splice(0))
  expect([countOpenFds(), charged]).toEqual([before, 0])
})

async function ask(operation: MachineRequest['operation'], values: Partial<MachineRequest> = {}, files: Fd[] = []) {
  send(channel, encodeMachineRequest({ operation, flags: 0, inode: 0n, token: 0n, name: '', ...values }), files)
  let answer: (MachineAnswer & { file: Fd | undefined }) | undefined
  await vi.waitFor(() => {
    const got = receive(channel)
    expect(got).toBeDefined()
    if (!got) return
    answer = { ...decodeMachineAnswer(got.bytes), file: got.fds[0] }
    open.push(...got.fds)
  })
  if (!answer) throw new Error('no answer')
  return answer
}

function memory(text: string): Fd {
  const fd = createMemfd('machines-test')
  writeAt(fd, Buffer.from(text), 0)
  open.push(fd)
  return fd
}

/** What the other process has. */
function received({ entries }: SavedMachines): Map<string, Fd> {
  return new Map(entries.map(({ key, fd }) => [key, fd.dup()]))
}

function saved(): Map<string, Fd> {
  machine.pause()
  using written = writeMachines([machine.save()])
  machine.resume()
  return received(written)
}

/** Others go on with it. */
function replace(): void {
  const [state] = readMachines(saved())
  machine.close()
  machine = Machine.restore(state as MachineState, options, () => {})
}

test('another luod goes on with all of a machine, and no file is left', async () => {
  const device = await ask('open')
  const session = await ask('createSession', { inode: device.inode, name: 'a' })
  expect(await ask('preserve', { inode: session.inode, token: 5n }, [memory('one')])).toMatchObject({ errno: 0 })
  machine.faults.set([{ operation: 'preserve', errno: 'EIO', nth: 2 }])
  expect(await ask('preserve', { inode: session.inode, token: 6n }, [memory('two')])).toMatchObject({ errno: 0 })
  const files = charged
  replace()
  expect(charged).toBe(files)
  expect(await ask('open')).toMatchObject({ errno: 16 })
  expect(await ask('describe', { inode: device.inode })).toMatchObject({ object: 'device' })
  expect(await ask('getName', { inode: session.inode })).toMatchObject({ name: 'a' })
  expect(await ask('preserve', { inode: session.inode, token: 7n }, [memory('x')])).toMatchObject({ errno: 5 })
  void machine.kexec()
  machine.detach({ id: 'n', pid: 7, endPrograms: () => {}, kill: () => {} })
  expect([machine.liveupdateNumber, machine.holdsState]).toEqual([1n, true])
})

test('whoever comes back is the same process with the same request, once, and is told of a kexec', async () => {
  await ask('open')
  replace()
  let told = 0
  const back = (id: string, pid: number) => ({ id, pid, endPrograms: () => void told++, kill: () => {} })
  expect(codeOf(() => machine.returns(back('other', 7)))).toBe('LUO_NOT_FOUND')
  expect(codeOf(() => machine.returns(back('n', 8)))).toBe('LUO_NOT_FOUND')
  const { ended } = machine.kexec()
  expect(codeOf(() => machine.mustBeReplaceable())).toBe('LUO_UPDATING')
  const notifier = back('n', 7)
  machine.returns(notifier)
  expect(codeOf(() => machine.returns(back('n', 7)))).toBe('LUO_NOT_FOUND')
  expect([told, machine.notifiers]).toEqual([1, 1])
  machine.forgetAbsent()
  expect(machine.notifiers).toBe(1)
  machine.detach(notifier)
  await ended
})

test('a notifier that has ended, or does not come back, is forgotten', async () => {
  replace()
  machine.forgetAbsent()
  expect(machine.notifiers).toBe(0)
  channel.close()
  channel = machine.attach({ id: 'm', pid: 8, endPrograms: () => {}, kill: () => {} })
  replace()
  channel.close()
  await vi.waitFor(() => expect(machine.notifiers).toBe(0))
})

test('what a paused machine is asked waits, and it goes on', async () => {
  machine.pause()
  const answer = ask('open')
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(machine.save().things).toEqual([])
  machine.resume()
  // Again does nothing.
  machine.resume()
  expect(await answer).toMatchObject({ errno: 0, object: 'device' })
})

test.each<[string, string, (descriptors: Map<string, Fd>) => void]>([
  [
    'another version',
    'LUO_RECORDS_VERSION',
    (all) => rewrite(all, (text) => text.replace('"version":1', '"version":2')),
  ],
  ['what is no JSON', 'LUO_RECORDS', (all) => rewrite(all, (text) => text.slice(1))],
  ['what is of another shape', 'LUO_RECORDS', (all) => rewrite(all, (text) => text.replace('"things"', '"thongs"'))],
  ['a file less', 'LUO_RECORDS', (all) => drop(all, 'machine/0')],
  ['a file more', 'LUO_RECORDS', (all) => all.set('machine/99', createMemfd('more'))],
  ['a file twice', 'LUO_RECORDS', (all) => rewrite(all, (text) => text.replace('{"file":1}', '{"file":0}'))],
  [
    'a file of another kind',
    'LUO_RECORDS',
    (all) => {
      drop(all, 'machine/0')
      all.set('machine/0', createMemfd('other'))
    },
  ],
])('%s is refused, and every file of it is closed', async (_, code, change) => {
  await ask('open')
  const descriptors = saved()
  change(descriptors)
  const mine = [...descriptors.values()]
  expect(codeOf(() => readMachines(descriptors))).toBe(code)
  expect(descriptors.size).toBe(0)
  expect(mine.filter(({ closed }) => !closed)).toEqual([])
})

test('a program that has what is not there, and a record that leads nowhere: nothing goes on', async () => {
  const device = await ask('open')
  const session = await ask('createSession', { inode: device.inode, name: 'a' })
  await ask('preserve', { inode: session.inode, token: 5n }, [memory('one')])
  const broken = (change: (state: MachineState) => void) => {
    const states = readMachines(saved())
    const [state] = states as [MachineState]
    change(state)
    const files = filesOf(states)
    try {
      return codeOf(() => Machine.restore(state, options, () => {}))
    } finally {
      closeAll(files)
    }
  }
  const without = <T>(list: T[]) => list.splice(0)
  expect(broken(({ generation }) => closeAll(without(generation.outgoing).flatMap(filesOfSession)))).toBe('LUO_RECORDS')
  expect(broken((state) => Object.assign(state.generation, { open: false }))).toBe('LUO_RECORDS')
  expect(broken(({ generation }) => void without(generation.memory))).toBe('LUO_RECORDS')
  const twice = ({ generation: { outgoing } }: MachineState) =>
    void outgoing.push({ name: 'a', files: [] }, { name: 'b', files: [] })
  expect(broken(twice)).toBe('EEXIST')
  expect(await ask('getName', { inode: session.inode })).toMatchObject({ name: 'a' })
})

function filesOfSession({ files }: MachineState['generation']['outgoing'][number]): Fd[] {
  return files.map(({ fd }) => fd)
}

test('no machine, no file', () => {
  using written = writeMachines([])
  expect(readMachines(received(written))).toEqual([])
  expect(readMachines(new Map())).toEqual([])
})

function drop(descriptors: Map<string, Fd>, key: string): void {
  descriptors.get(key)?.close()
  descriptors.delete(key)
}

function rewrite(descriptors: Map<string, Fd>, change: (text: string) => string): void {
  const fd = descriptors.get('machines') as Fd
  const bytes = new Uint8Array(fileSize(fd))
  const text = change(Buffer.from(bytes.subarray(0, readAt(fd, bytes, 0))).toString())
  truncate(fd, 0)
  writeAt(fd, Buffer.from(text), 0)
}
