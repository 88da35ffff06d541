/** luod where there is nothing but it, and /run: what it is given crosses a kexec that it does from there. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { KernelDevice } from '../../../src/backends/kernel.js'
import { LuoError } from '../../../src/errors.js'
import { createMemfd, readAt, writeAt } from '../../../src/sys/memfd.js'
import type { VarlinkClient } from '../../../src/wire/client.js'
import { attempt, connect, load, said, say } from './kit.js'

const KEEP_MS = 600_000
const TEXT = 'from a bare initrd'
const [, , luod = '', stage = ''] = process.argv

async function preserve(client: VarlinkClient): Promise<void> {
  const { session } = (await client.call('CreateSession', { id: '1', name: 'kept', keep_ms: KEEP_MS })).parameters
  using kept = createMemfd('kept', { size: 4096, overKexec: true })
  writeAt(kept, Buffer.from(TEXT), 0)
  await client.call('Preserve', { id: '2', session: session.session, files: [{ token: '1', fd: 0 }], fds: 1 }, [kept])
}

async function claim(client: VarlinkClient): Promise<void> {
  const { session } = (await client.call('AdoptSession', { id: '3', name: 'kept' })).parameters
  const { fds } = await client.call('Retrieve', { session: session.session, offset: 0 })
  const bytes = Buffer.alloc(TEXT.length)
  if (fds[0]) readAt(fds[0], bytes, 0)
  say({ claimed: bytes.toString('latin1') })
}

const daemon = spawn(process.execPath, [luod], { stdio: ['ignore', 'inherit', 'inherit'], env: {} })
const client = await connect()
const { pid, backend } = (await client.call('Status', {})).parameters
say({ answers: pid === daemon.pid, backend })
if (stage === 'first') {
  await preserve(client)
  load()
  said()
  for await (const _ of client.stream('Kexec', { id: '4' }));
} else {
  await claim(client)
}
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
