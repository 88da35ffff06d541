/**
 * A note for the next luod under this kernel: what came over the kexec is of another version, and still there. Whoever
 * found that out has taken the session that says so out of the kernel, where it is finished with its last descriptor.
 * Without a note the next one would find nothing, and begin with nothing.
 *
 * The note is a file beside luod's socket, and counts under the kernel that it was written under. One that somebody
 * else has put there is none. What cannot be written is an error of whoever writes it.
 */
import { closeSync, constants, fstatSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'

const BOOT_ID = '/proc/sys/kernel/random/boot_id'
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
const WRITE = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW

export class OtherVersionNote {
  readonly path: string
  /** What no other kernel has. */
  readonly #kernel: () => string

  constructor(socket: string, kernel: () => string = () => readFileSync(BOOT_ID, 'latin1').trim()) {
    this.path = `${socket}.other-version`
    this.#kernel = kernel
  }

  write(why: string): void {
    const file = openSync(this.path, WRITE, 0o600)
    try {
      writeFileSync(file, `${this.#kernel()}\n${why}`)
    } finally {
      closeSync(file)
    }
  }

  /** Undefined when there is none. */
  read(): string | undefined {
    let file: number
    try {
      file = openSync(this.path, READ)
    } catch {
      return undefined
    }
    try {
      const stat = fstatSync(file)
      if (!stat.isFile() || stat.uid !== process.geteuid?.()) return undefined
      const [kernel, ...why] = readFileSync(file, 'utf8').split('\n')
      return kernel === this.#kernel() ? why.join('\n') : undefined
    } finally {
      closeSync(file)
    }
  }

  remove(): void {
    rmSync(this.path, { force: true })
  }
}
