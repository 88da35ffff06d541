import { spawn } from 'node:child_process'
import { Poller } from './dist/sys/poller.js'
import { readRemote, readRemoteString, writeRemote } from './dist/sys/remote.js'
import { AUDIT_ARCH_X86_64, buildFilter, HeldCalls } from './dist/sys/seccomp.js'
import { receive, socketPair } from './dist/sys/unix.js'

const filter = buildFilter(AUDIT_ARCH_X86_64, [
  { number: 16, when: [{ argument: 1, mask: 0xff00, values: [0xba00] }] },
  { number: 2, when: [{ argument: 1, mask: 3, values: [1, 2, 3] }] },
  { number: 257, when: [{ argument: 2, mask: 3, values: [1, 2, 3] }] },
  { number: 437 },
])
const [mine, theirs] = socketPair()
const cmd = process.argv.slice(2)
const child = spawn(
  process.execPath,
  ['dist/emulate/launcher.js', Buffer.from(filter).toString('base64'), cmd[0], ...cmd],
  { stdio: ['inherit', 'inherit', 'inherit', theirs.number] },
)
theirs.close()
let n = 0
const reg = Poller.shared().add(mine, { read: true, write: false }, () => {
  const got = receive(mine)
  if (!got?.fds.length) {
    console.error('eof', got?.bytes.length)
    reg.close()
    mine.close()
    return
  }
  const listener = got.fds[0]
  const held = new HeldCalls(listener)
  const [_dev, far] = socketPair()
  Poller.shared().add(listener, { read: true, write: false }, (r) => {
    if (r.hangup) {
      console.error('listener hangup')
      process.exit()
    }
    const call = held.receive()
    if (!call) return
    n++
    if (call.number === 257) {
      const path = readRemoteString(call.tid, call.args[1], 4096).toString()
      if (path === '/dev/liveupdate') {
        held.addFd(call.id, far, { cloexec: false, answer: true })
        return
      }
      console.error('pass', path)
      return held.letPass(call.id)
    }
    if (call.number === 16) {
      const bytes = readRemote(call.tid, call.args[2], 72)
      if (!held.valid(call.id)) return
      writeRemote(call.tid, call.args[2], bytes)
      return held.answer(call.id, 0n)
    }
    held.letPass(call.id)
  })
})
child.on('exit', (c, s) => {
  console.error('exit', c, s, n)
  process.exit()
})
