/** luod where there is nothing but it, and /run. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { KernelDevice } from '../../../src/backends/kernel.js'
import { LuoError } from '../../../src/errors.js'
import { attempt, connect, say } from './kit.js'

const [, , luod = ''] = process.argv

const daemon = spawn(process.execPath, [luod], { stdio: ['ignore', 'inherit', 'inherit'], env: {} })
const client = await connect()
const { pid } = (await client.call('Status', {})).parameters
say({ answers: pid === daemon.pid })
client.close()
daemon.kill('SIGTERM')
const [code] = await once(daemon, 'close')
const elsewhere = attempt(() => {
  try {
    writeFileSync('/file', '')
  } catch (error) {
    throw new LuoError((error as NodeJS.ErrnoException).code as 'EROFS', 'write elsewhere than to /run')
  }
})
say({ code, elsewhere, session: attempt(() => KernelDevice.open().createSession('s').close()) })
