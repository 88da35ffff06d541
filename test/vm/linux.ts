/** The scripts of the conformance suite on a real Linux, in a virtual machine, with a kexec between their parts. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compileDriver } from '../conformance/emulated.js'
import { MACHINE_FOLDER, runMachine } from './machine.js'

/** What the driver prints to these scripts, part by part, with a kexec between. */
export async function runOnLinux(cases: string, parts: number): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), 'luo-vm-'))
  try {
    const files = [join(folder, 'driver'), join(folder, 'cases')] as const
    compileDriver(files[0])
    writeFileSync(files[1], cases, 'latin1')
    const program = `${MACHINE_FOLDER}/driver`
    const boots = Array.from({ length: parts }, (_, part) => ({
      program,
      args: [`${MACHINE_FOLDER}/cases`, `${part}`],
    }))
    const ran = await runMachine({ boots, files })
    return ran.flat().map(({ output }) => output)
  } finally {
    rmSync(folder, { recursive: true })
  }
}
