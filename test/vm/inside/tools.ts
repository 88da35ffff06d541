/** luoctl on a kernel that has live update: prints { args, status, out, err } of each call. Leaves a kernel loaded. */
import { spawnSync } from 'node:child_process'
import { KernelDevice } from '../../../src/backends/kernel.js'
import { MACHINE_FOLDER, nextBootWord, say } from './kit.js'

const [, , luoctl = '', stage] = process.argv
const KERNEL = `${MACHINE_FOLDER}/kernel`
const INITRD = `${MACHINE_FOLDER}/initrd`

function run(...args: string[]): void {
  const { status, stdout, stderr } = spawnSync(process.execPath, [luoctl, ...args, '--json'], { encoding: 'utf8' })
  const parsed = (text: string) => (text === '' ? null : JSON.parse(text))
  say({ args: args.join(' '), status, out: parsed(stdout), err: parsed(stderr) })
}

if (stage === 'before') {
  using device = KernelDevice.open()
  say({ pid: process.pid })
  run('doctor')
  device.close()
  run('inspect', '--kernel')
  run('kexec', 'load', KERNEL, '--initrd', INITRD, '--append', nextBootWord())
} else {
  run('inspect', '--kernel')
}
