#!/usr/bin/env node
// NAME's main file as it is built: runs NAME.cjs, which is all of NAME (bundle.mjs), with the code that V8 has made of
// it before. That is in NAME.code, and in NAME.next.code for one that stands by, to be trusted as much as this file;
// one that does not fit is as good as none:
//
//     u32 CRC-32 of NAME.cjs, and of version and architecture of the Node that made it · u32 CRC-32 of the code ·
//     the code

// Importing a module of Node reads each of its properties, and some of those load other modules.
const { readFileSync } = process.getBuiltinModule('node:fs')
const { createRequire } = process.getBuiltinModule('node:module')
const { fileURLToPath } = process.getBuiltinModule('node:url')
const { Script } = process.getBuiltinModule('node:vm')
const { crc32 } = process.getBuiltinModule('node:zlib')

const CODE_AT = 8
const main = fileURLToPath(import.meta.url)
const filename = fileURLToPath(new URL('NAME.cjs', import.meta.url))
const source = readFileSync(filename)
const script = new Script(source.toString('latin1'), { filename, cachedData: codeOf(source) })
script.runInThisContext()(createRequire(main), (module) => import(module), main)

function codeOf(source) {
  try {
    const end = process.argv.includes('--line-fd') ? 'next.code' : 'code'
    const file = readFileSync(new URL(`NAME.${end}`, import.meta.url))
    const code = file.subarray(CODE_AT)
    const made = crc32(`${process.version} ${process.arch}`, crc32(source))
    return file.readUInt32LE(0) === made && file.readUInt32LE(4) === crc32(code) ? code : undefined
  } catch {
    return undefined
  }
}
