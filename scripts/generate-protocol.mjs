// Writes src/protocol/types.ts from the interface's text. Needs a build: npm run generate does both.
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { generateTypes } from '../dist/protocol/generate.js'
import { parseInterface } from '../dist/protocol/idl.js'
import { INTERFACE_TEXT } from '../dist/protocol/interface.js'

const file = new URL('../src/protocol/types.ts', import.meta.url)
writeFileSync(file, generateTypes(parseInterface(INTERFACE_TEXT)))
execFileSync('npx', ['biome', 'format', '--write', file.pathname], { stdio: 'inherit' })
