// `code-cache.mjs MAIN SCRIPT CODE`: runs the luod or the luoctl that was built in this process, has it do one thing, and
// writes the code that V8 has made of it by then, which bundle-main.mjs reads: what a start needs is in it, and nothing else.
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Script } from 'node:vm'
import { crc32 } from 'node:zlib'

const POLL_MS = 10
const HEAD_BYTES = 8
const [, , main, filename, codeFile] = process.argv
const folder = mkdtempSync(join(tmpdir(), 'luo-code-'))
const socket = join(folder, 'luod.sock')
const source = readFileSync(filename)
const script = new Script(source.toString('latin1'), { filename })
// luoctl has nobody to ask, says so, and ends.
process.on('exit', () => {
  const code = script.createCachedData()
  const head = Buffer.alloc(HEAD_BYTES)
  head.writeUInt32LE(crc32(`${process.version} ${process.arch}`, crc32(source)), 0)
  head.writeUInt32LE(crc32(code), 4)
  writeFileSync(codeFile, Buffer.concat([head, code]))
  // luod has seen to it that nobody else may read what it makes.
  chmodSync(codeFile, 0o644)
  rmSync(folder, { recursive: true })
})
const isLuod = filename.endsWith('luod.cjs')
process.argv = [process.execPath, main, '--socket', socket, ...(isLuod ? ['--backend', 'userspace'] : ['status'])]
script.runInThisContext()(createRequire(main), (module) => import(module), main)
if (isLuod) {
  while (!existsSync(socket)) await sleep(POLL_MS)
  const client = connect(socket)
  client.write('{"method":"org.varlink.service.GetInfo"}\0')
  await once(client, 'data')
  process.exit()
}
