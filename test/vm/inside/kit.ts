/** What scripts in a virtual machine share. They print one JSON object a line, which the test outside looks at. */
import { readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { isLuoError } from '../../../src/errors.js'
import { libc } from '../../../src/sys/ffi.js'
import { openFile } from '../../../src/sys/file-reader.js'
import { isKernelLoaded, loadKernel, rebootIntoLoaded } from '../../../src/sys/kexec.js'
import { VarlinkClient } from '../../../src/wire/client.js'

export const MACHINE_FOLDER = '/run/machine'
/** Of kv-client.ts. */
export const JOURNAL = '/run/disk/journal'
/** The line that is put there when a kexec is asked for. */
export const KEXEC_ASKED = 'kexec asked for'
const SOCKET = '/run/luod/liveupdate.sock'
const RETRY_MS = 50
const TCSBRK = 0x5409
const STDOUT = 1

export function say(value: object): void {
  console.log(JSON.stringify(value))
}

/** What `action` answers, or the code of what it throws. */
export function attempt(action: () => unknown): unknown {
  try {
    return action() ?? 'ok'
  } catch (error) {
    if (!isLuoError(error)) throw error
    return error.code
  }
}

/** 'ok', or the code of what `action` throws. */
export async function codeOf(action: () => Promise<unknown>): Promise<string> {
  try {
    await action()
    return 'ok'
  } catch (error) {
    if (!isLuoError(error)) throw error
    return error.code
  }
}

/** Connects as another user. */
export async function connectAs(uid: number): Promise<VarlinkClient> {
  process.seteuid?.(uid)
  try {
    return await connect()
  } finally {
    process.seteuid?.(0)
  }
}

/** The word that tells init of the next boot which one it is: the last of them counts. */
export function nextBootWord(): string {
  const line = readFileSync('/proc/cmdline', 'latin1')
  return `luo.boot=${Number(/.*\bluo\.boot=(\d+)/.exec(line)?.[1] ?? 0) + 1}`
}

/** Loads the next boot of this machine: the same kernel again. */
export function load(): void {
  const commandLine = `${readFileSync('/proc/cmdline', 'latin1').trim()} ${nextBootWord()}`
  using kernel = openFile(`${MACHINE_FOLDER}/kernel`)
  using initrd = openFile(`${MACHINE_FOLDER}/initrd`)
  loadKernel({ kernel, initrd, commandLine })
}

/** What was printed has left the machine then: a kexec does not wait for that. */
export function said(): void {
  libc('ioctl', STDOUT, TCSBRK, 1)
}

/** The kexec into the next boot of this machine, with what is loaded, or the same kernel again. */
export function kexec(): never {
  if (!isKernelLoaded()) load()
  said()
  rebootIntoLoaded()
}

/** Connects to luod, once it listens. */
export async function connect(): Promise<VarlinkClient> {
  for (;;) {
    try {
      return await VarlinkClient.connect(SOCKET)
    } catch (error) {
      if (!isLuoError(error)) throw error
      await setTimeout(RETRY_MS)
    }
  }
}
