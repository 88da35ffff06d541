/** luoctl on a kernel that has live update: prints { args, status, out, err } of each call. Leaves a kernel loaded. */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { KernelDevice } from '../../../src/backends/kernel.js'
import { MACHINE_FOLDER, nextBootWord, say } from './kit.js'

const [, , luoctl = '', stage] = process.argv
const KERNEL = `${MACHINE_FOLDER}/kernel`
const INITRD = `${MACHINE_FOLDER}/initrd`
const NO_KERNEL = '/run/no-kernel'

function run(...args: string[]): void {
  const { status, stdout, stderr } = spawnSync(process.execPath, [luoctl, ...args, '--json'], { encoding: 'utf8' })
  const parsed = (text: string) => (text === '' ? null : JSON.parse(text))
  say({ args: args.join(' '), status, out: parsed(stdout), err: parsed(stderr) })
}

if (stage === 'before') {
  writeFileSync(NO_KERNEL, 'no kernel at all')
  using device = KernelDevice.open()
  say({ pid: process.pid })
  run('doctor')
  device.close()
  run('inspect', '--kernel')
  run('kexec', 'load', NO_KERNEL)
  run('kexec', 'load', KERNEL, '--cmdline', 'quiet')
  run('kexec', 'unload')
  run('kexec', 'load', KERNEL, '--initrd', INITRD, '--append', nextBootWord())
} else {
  run('inspect', '--kernel')
}
