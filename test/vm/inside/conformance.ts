/**
 * One boot of the conformance suite on the kernel's device as a backend: `cases` has the scripts, and this is the part
 * of each that is run. Prints { script, answers }. What a script holds at its kexec is held until that of the machine.
 */
import { readFileSync } from 'node:fs'
import { KernelDevice } from '../../../src/backends/kernel.js'
import { Calls } from '../../conformance/engine.js'
import { parseScripts } from '../../conformance/script.js'
import { kexec, say } from './kit.js'

const [, , cases = '', text] = process.argv
const part = Number(text)
const scripts = parseScripts(readFileSync(cases, 'latin1'))
const held: Calls[] = []

for (const { name, parts } of scripts) {
  const steps = parts[part]
  if (!steps) continue
  const calls = new Calls(() => KernelDevice.open())
  say({ script: name, answers: steps.map((step) => calls.answer(step.text)) })
  if (part + 1 < parts.length) held.push(calls)
  else calls[Symbol.dispose]()
}
if (held.length > 0) kexec()
