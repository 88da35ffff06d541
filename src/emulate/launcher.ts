import { errno, libc, SYS } from '../sys/ffi.js'
import { scratch } from '../sys/mapping.js'

const LISTENER_SOCKET = 3
const PR_SET_NO_NEW_PRIVS = 38
const SECCOMP_SET_MODE_FILTER = 1
const FILTER_NEW_LISTENER = 8
/** Signals must not take a call back that its answer is on the way to. */
const FILTER_WAIT_KILLABLE_RECV = 32
const F_SETFD = 2
const SIG_DFL = 0n
const SIG_SETMASK = 2
const RT_SIGACTION = process.arch === 'arm64' ? 134 : 13
const RT_SIGPROCMASK = process.arch === 'arm64' ? 135 : 14
const SIGSET_BYTES = 8
const LAST_SIGNAL = 64
const MSG_NOSIGNAL = 0x4000

/** Everything that the kernel is given, one after the other, in memory that never moves. */
class Area {
  readonly #area: { address: number; buffer: ArrayBuffer }
  readonly #view: DataView
  #end = 0

  constructor(bytes: number) {
    this.#area = scratch(bytes)
    this.#view = new DataView(this.#area.buffer)
  }

  put(bytes: Uint8Array): number {
    const at = this.#end
    new Uint8Array(this.#area.buffer).set(bytes, at)
    this.#end = Math.ceil((at + bytes.length) / 8) * 8
    return this.#area.address + at
  }

  words(...values: (number | bigint)[]): number {
    const bytes = new Uint8Array(values.length * 8)
    const view = new DataView(bytes.buffer)
    values.forEach((value, index) => {
      view.setBigUint64(index * 8, BigInt(value), true)
    })
    return this.put(bytes)
  }

  setInt32(address: number, value: number): void {
    this.#view.setInt32(address - this.#area.address, value, true)
  }

  strings(values: readonly string[]): number {
    return this.words(...values.map((value) => this.put(Buffer.from(`${value}\0`))), 0)
  }
}

function main(): void {
  const [filterText = '', path = '', ...argv] = process.argv.slice(2)
  const filter = Buffer.from(filterText, 'base64')
  const environment = Object.entries(process.env).map(([name, value]) => `${name}=${value}`)
  const strings = [path, ...argv, ...environment]
  const size = strings.reduce((sum, text) => sum + Buffer.byteLength(text) + 24, 0)
  const area = new Area(size + filter.length + 4096)
  const pathAt = area.put(Buffer.from(`${path}\0`))
  const argvAt = area.strings(argv)
  const environmentAt = area.strings(environment)
  const filterAt = area.words(filter.length / 8, area.put(filter))
  const controlAt = area.words(20, 0x100000001n, 0)
  const byteAt = area.put(Uint8Array.of(0))
  const vectorAt = area.words(byteAt, 1)
  const messageAt = area.words(0, 0, vectorAt, 1, controlAt, 24, 0)
  const defaultAction = area.words(SIG_DFL, 0, 0, 0)
  const emptySet = area.words(0)

  for (let signal = 1; signal <= LAST_SIGNAL; signal++)
    libc('syscall', RT_SIGACTION, signal, defaultAction, 0, SIGSET_BYTES)
  libc('syscall', RT_SIGPROCMASK, SIG_SETMASK, emptySet, 0, SIGSET_BYTES)
  // The runtime has set close-on-exec on them.
  for (const number of [0, 1, 2]) libc('fcntl', number, F_SETFD, 0)
  libc('prctl', PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
  // Called once, so that nothing is loaded or compiled any more: each of these fails and changes nothing.
  libc('syscall', SYS.seccomp, -1, 0, 0)
  libc('sendmsg', -1, messageAt, 0)
  libc('syscall', SYS.execve, 0, 0, 0)
  errno()
  area.setInt32(controlAt + 16, 0)

  const flags = FILTER_NEW_LISTENER | FILTER_WAIT_KILLABLE_RECV
  const listener = libc('syscall', SYS.seccomp, SECCOMP_SET_MODE_FILTER, flags, filterAt)
  if (listener === -1) fail(`the kernel does not take the filter: ${errno()}`)
  area.setInt32(controlAt + 16, listener)
  libc('sendmsg', LISTENER_SOCKET, messageAt, MSG_NOSIGNAL)
  libc('syscall', SYS.execve, pathAt, argvAt, environmentAt)
  libc('syscall', SYS.exitGroup, errno() === 'ENOENT' ? 127 : 126)
}

function fail(why: string): never {
  process.stderr.write(`luoctl emulate: ${why}\n`)
  process.exit(1)
}

main()
