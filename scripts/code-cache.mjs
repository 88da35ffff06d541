// Runs the luod that was built in this process, asks it one thing, and writes the code that V8 has made of it by then to
// luod.code, which luod-main.mjs reads: what a start needs is in it, and nothing else.
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
const [, , daemon] = process.argv
const folder = mkdtempSync(join(tmpdir(), 'luod-code-'))
process.on('exit', () => rmSync(folder, { recursive: true }))
const socket = join(folder, 'luod.sock')
const main = join(daemon, 'main.js')
const filename = join(daemon, 'luod.cjs')
const source = readFileSync(filename)
const script = new Script(source.toString('latin1'), { filename })
process.argv = [process.execPath, main, '--backend', 'userspace', '--socket', socket]
script.runInThisContext()(createRequire(main), (module) => import(module), main)

while (!existsSync(socket)) await sleep(POLL_MS)
const client = connect(socket)
client.write('{"method":"org.varlink.service.GetInfo"}\0')
await once(client, 'data')
const code = script.createCachedData()
const head = Buffer.alloc(HEAD_BYTES)
head.writeUInt32LE(crc32(`${process.version} ${process.arch}`, crc32(source)), 0)
head.writeUInt32LE(crc32(code), 4)
writeFileSync(join(daemon, 'luod.code'), Buffer.concat([head, code]))
// luod has seen to it that nobody else may read what it makes.
chmodSync(join(daemon, 'luod.code'), 0o644)
process.exit()
