// `code-cache-next.mjs MAIN SCRIPT CODE`: has the luod that was built die, and writes the code of the one that took its
// place to CODE: whoever stands by has it when it is needed.
//
// Both run this file too, by way of one beside the real main file: a luod starts its standby as it was started itself.
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createMemfd } from '../dist/sys/memfd.js'
import { ReconnectingClient } from '../dist/wire/reconnecting.js'
import { runRecorded } from './recorded.mjs'

const POLL_MS = 10
const CLIENTS = 20
const FILES = 20
const ROUNDS = 5
const { LUO_CODE_NEXT: given } = process.env

if (given) runRecorded(JSON.parse(given))
else await lead(...process.argv.slice(2))

async function lead(main, filename, codeFile) {
  const folder = mkdtempSync(join(tmpdir(), 'luo-code-'))
  const socket = join(folder, 'luod.sock')
  const as = join(dirname(main), 'next.mjs')
  let luod
  process.on('exit', () => {
    luod?.kill()
    rmSync(as, { force: true })
    rmSync(folder, { recursive: true, force: true })
  })
  // Whoever waits for it has waited long enough.
  process.once('SIGTERM', () => process.exit(1))
  writeFileSync(as, `import '${import.meta.url}'\n`)
  const env = { ...process.env, LUO_CODE_NEXT: JSON.stringify({ main, filename, codeFile, as }) }
  // Without clients it ends, whatever becomes of this process.
  const args = ['--socket', socket, '--backend', 'userspace', '--standby', '--exit-when-idle']
  luod = spawn(process.execPath, [as, ...args], { env, stdio: 'ignore' })
  while (!existsSync(socket)) await sleep(POLL_MS)
  const holder = await ReconnectingClient.connect(socket)
  const { parameters, fds } = await holder.call('Join', { id: randomUUID(), workload: 'code', accepts: ['*'] })
  const memory = Array.from({ length: FILES }, (_, index) => createMemfd(`code-${index}`))
  const files = memory.map((_, index) => ({ token: String(index), fd: index }))
  const input = { id: randomUUID(), session: parameters.session, files, fds: files.length }
  await holder.call('Preserve', input, memory)
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => ReconnectingClient.connect(socket)))
  const ask = () => Promise.all(clients.map((client) => client.call('Sessions', { limit: 1 })))
  await ask()
  await standsBy(holder)
  luod.kill('SIGKILL')
  for (let round = 0; round < ROUNDS; round++) await ask()
  const { pid } = (await holder.call('Status', {})).parameters
  for (const client of [holder, ...clients]) client.close()
  for (const fd of [...fds, ...memory]) fd.close()
  while (isThere(pid)) await sleep(POLL_MS)
}

async function standsBy(client) {
  while (!(await client.call('Status', {})).parameters.protection.ready) await sleep(POLL_MS)
}

function isThere(pid) {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}
