/** Three boots: what is preserved in the first is claimed in the second, and the same again into the third. */
import { KernelDevice, type KernelSession } from '../../../src/backends/kernel.js'
import type { Fd } from '../../../src/sys/fd.js'
import {
  addSeals,
  createMemfd,
  fileSize,
  getSeals,
  type MemfdOptions,
  position,
  readAt,
  type Seal,
  setPosition,
  writeAt,
} from '../../../src/sys/memfd.js'
import { attempt, kexec, say } from './kit.js'
import { checksum, largeMemory } from './large.js'

const [, , stage] = process.argv
const EMPTY_SESSIONS = 2_000
const FILES = 500

const device = KernelDevice.open()
const held: KernelSession[] = []
const keep = (thing: KernelSession) => {
  held.push(thing)
  return thing
}
const memory = (text: string, options: MemfdOptions = {}) => {
  const fd = createMemfd('lifecycle', { size: 4096, overKexec: true, ...options })
  writeAt(fd, Buffer.from(text), 0)
  return fd
}
const textOf = (fd: Fd) => {
  const bytes = Buffer.alloc(64)
  readAt(fd, bytes, 0)
  return bytes.toString().replace(/\0.*$/s, '')
}
const sealed: [string, Seal[]][] = [
  ['none', []],
  ['some', ['shrink', 'grow']],
  ['all', ['shrink', 'grow', 'write', 'seal']],
  ['noexec', []],
]

function preserveSmall(generation: string): void {
  const session = keep(device.createSession('small'))
  for (let i = 0; i < FILES; i++) {
    using fd = memory(`file ${i} of ${generation}`)
    setPosition(fd, i)
    session.preserve(String(i), fd)
  }
}

function claimSmall(generation: string): void {
  using session = device.retrieveSession('small')
  let right = 0
  for (let i = FILES - 1; i >= 0; i--) {
    using fd = session.retrieve(String(i))
    if (textOf(fd) === `file ${i} of ${generation}` && position(fd) === i && fileSize(fd) === 4096) right++
  }
  session.finish()
  say({ right, again: attempt(() => device.retrieveSession('small')) })
}

function preserveBig(fd: Fd): void {
  keep(device.createSession('big')).preserve('1', fd)
}

if (stage === 'first') {
  for (let i = 0; i < EMPTY_SESSIONS; i++) keep(device.createSession(`empty ${i}`))
  preserveSmall(stage)
  const big = largeMemory('big')
  preserveBig(big)
  const seals = keep(device.createSession('seals'))
  sealed.forEach(([name, list], i) => {
    using fd = memory(name, { overKexec: name !== 'noexec' })
    addSeals(fd, list)
    seals.preserve(String(i), fd)
  })
  kexec()
} else if (stage === 'second') {
  let empty = 0
  for (let i = 0; i < EMPTY_SESSIONS; i++) {
    using session = device.retrieveSession(`empty ${i}`)
    session.finish()
    empty++
  }
  say({ empty })
  claimSmall('first')
  {
    using seals = device.retrieveSession('seals')
    sealed.forEach(([name], i) => {
      using fd = seals.retrieve(String(i))
      const write = attempt(() => writeAt(fd, Buffer.from('new'), 0))
      say({ sealed: name, seals: [...getSeals(fd)], text: textOf(fd), write })
    })
    seals.finish()
  }
  const session = device.retrieveSession('big')
  const big = session.retrieve('1')
  say({ checksum: checksum(big), busy: attempt(() => preserveBig(big)) })
  session.finish()
  session.close()
  held.pop()?.close()
  preserveBig(big)
  preserveSmall('second')
  kexec()
} else {
  claimSmall('second')
  using session = device.retrieveSession('big')
  using big = session.retrieve('1')
  say({ checksum: checksum(big), nobody: attempt(() => device.retrieveSession('seals')) })
}
