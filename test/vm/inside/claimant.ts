/** A workload that has memory and a file. Told to die, it is killed between its claim and its commit. */
import { openSync, readSync } from 'node:fs'
import { join } from '../../../src/client/index.js'
import { say } from './kit.js'

const [, , dies = ''] = process.argv
const live = await join({ workload: 'claimant', keepMs: 600_000 })
const memory = await live.memory('state', { size: 4096, format: 'state/1' })
const bytes = new Uint8Array(memory.buffer)
const file = await live.file('file', live.successor ? undefined : openSync('/run/disk/claimant', 'a+'))
const text = Buffer.alloc(16)
const length = file === undefined ? 0 : readSync(file, text, 0, text.length, 0)
say({
  claimant: live.origin,
  has: [...bytes.subarray(0, 2)],
  format: memory.format,
  file: text.toString('latin1', 0, length),
})
// What a successor does before its commit is its own.
if (live.successor) bytes[1] = 2
if (dies) process.kill(process.pid, 'SIGKILL')
live.on('resume', (resumed) => say({ resumed }))
await live.ready()
bytes[0] = 1
say({ committed: true })
setInterval(() => {}, 1_000_000)
