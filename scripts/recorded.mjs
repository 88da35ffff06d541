// Runs what was built in this process, and at its end writes the code that V8 has made of it by then, which
// bundle-main.mjs reads: what was needed is in it, and nothing else.
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Script } from 'node:vm'
import { crc32 } from 'node:zlib'

const HEAD_BYTES = 8

/** `as`: what it takes for its main file. */
export function runRecorded({ main, filename, codeFile, as = main }) {
  const source = readFileSync(filename)
  const script = new Script(source.toString('latin1'), { filename })
  process.on('exit', () => {
    const code = script.createCachedData()
    const head = Buffer.alloc(HEAD_BYTES)
    head.writeUInt32LE(crc32(`${process.version} ${process.arch}`, crc32(source)), 0)
    head.writeUInt32LE(crc32(code), 4)
    writeFileSync(codeFile, Buffer.concat([head, code]))
    // luod has seen to it that nobody else may read what it makes.
    chmodSync(codeFile, 0o644)
  })
  script.runInThisContext()(createRequire(main), (module) => import(module), as)
}
