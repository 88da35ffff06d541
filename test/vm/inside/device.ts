/** One boot: the device and its sessions, whatever needs no kexec. Prints { check, answer } for each. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { foreignSessions, KernelDevice, KernelSession } from '../../../src/backends/kernel.js'
import type { LuoError } from '../../../src/errors.js'
import { countOpenFds } from '../../../src/sys/fd.js'
import { createMemfd } from '../../../src/sys/memfd.js'
import { attempt, say } from './kit.js'

const check = (name: string, action: () => unknown) => say({ check: name, answer: attempt(action) })
if (process.argv[2] === 'hold') {
  // Another process that has the device open, and a session.
  const device = KernelDevice.open()
  const session = device.createSession('foreign')
  say({ holding: true })
  setInterval(() => session.name, 1_000_000)
} else {
  await main()
}

async function main(): Promise<void> {
  const other = spawn(process.execPath, [process.argv[1] as string, 'hold'], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(other.stdout, 'data')
  say({ pid: other.pid })
  try {
    KernelDevice.open()
  } catch (error) {
    const { code, message, params } = error as LuoError
    say({ code, message, holders: params.holders })
  }
  say(foreignSessions())
  other.kill('SIGKILL')
  await once(other, 'close')
  say(foreignSessions())

  const before = countOpenFds()
  check('open a file that is no device', () => KernelDevice.open('/dev/none'))
  const device = KernelDevice.open()
  check('open twice', () => KernelDevice.open())
  const a = device.createSession('a')
  const fd = createMemfd('device', { size: 4096, overKexec: true })
  check('preserve', () => a.preserve('18446744073709551615', fd))
  check('preserve no file', () => a.preserve('2', undefined))
  check('preserve at no token', () => a.preserve('-1', fd))
  check('adopt', () => {
    using same = KernelSession.adopt(a.descriptor())
    return `${same.name} ${same.direction}`
  })
  check('adopt what is no session', () => KernelSession.adopt(fd))
  a.close()
  check('preserve through a closed one', () => a.preserve('1', fd))
  device.close()
  check('create through a closed one', () => device.createSession('b'))
  fd.close()
  say({ leaked: countOpenFds() - before })
}
