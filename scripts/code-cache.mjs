// `code-cache.mjs MAIN SCRIPT CODE`: has the luod or the luoctl that was built do one thing, and writes the code of its
// start to CODE.
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { runRecorded } from './recorded.mjs'

const POLL_MS = 10
const [, , main, filename, codeFile] = process.argv
const folder = mkdtempSync(join(tmpdir(), 'luo-code-'))
const socket = join(folder, 'luod.sock')
process.on('exit', () => rmSync(folder, { recursive: true }))
const isLuod = filename.endsWith('luod.cjs')
process.argv = [process.execPath, main, '--socket', socket, ...(isLuod ? ['--backend', 'userspace'] : ['status'])]
// luoctl has nobody to ask, says so, and ends.
runRecorded({ main, filename, codeFile })
if (isLuod) {
  while (!existsSync(socket)) await sleep(POLL_MS)
  const client = connect(socket)
  client.write('{"method":"org.varlink.service.GetInfo"}\0')
  await once(client, 'data')
  process.exit()
}
