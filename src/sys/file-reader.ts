/**
 * A file that is read at any offset, by its path. Works without the native part, and with what has no size, as debugfs
 * and procfs: there the end of the file is where reading ends. Only regular files: reading others may wait forever.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { asLuoError, type ErrnoName, LuoError } from '../errors.js'
import { Fd } from './fd.js'

export class FileReader implements Disposable {
  /** Bytes; 0 when the file does not say. */
  readonly size: number
  readonly #path: string
  readonly #number: number
  #closed = false

  /** What open(2) says, and EINVAL for what is no regular file. */
  static open(path: string): FileReader {
    const { number, size } = openRegular(path)
    return new FileReader(path, number, size)
  }

  private constructor(path: string, number: number, size: number) {
    this.#path = path
    this.#number = number
    this.size = size
  }

  /** `length` bytes at `offset`, fewer at the end of the file. */
  read(offset: number, length: number): Uint8Array {
    if (this.#closed) throw new LuoError('EBADF', `read ${this.#path}: it was closed before`)
    const bytes = new Uint8Array(length)
    let done = 0
    while (done < length) {
      const got = named(`read ${this.#path}`, () => readSync(this.#number, bytes, done, length - done, offset + done))
      if (got === 0) break
      done += got
    }
    return bytes.subarray(0, done)
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    closeSync(this.#number)
  }

  [Symbol.dispose](): void {
    this.close()
  }
}

/** The same as a descriptor. */
export function openFile(path: string): Fd {
  return Fd.adopt(openRegular(path).number)
}

function openRegular(path: string): { number: number; size: number } {
  // A FIFO would wait for a writer.
  const number = named(`open ${path}`, () => openSync(path, constants.O_RDONLY | constants.O_NONBLOCK))
  const stat = fstatSync(number)
  if (stat.isFile()) return { number, size: stat.size }
  closeSync(number)
  throw new LuoError('EINVAL', `open ${path}: it is no regular file`)
}

function named<T>(action: string, call: () => T): T {
  try {
    return call()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT') throw new LuoError(code, `${action}: there is no such file`, { cause: error })
    throw asLuoError(error, code?.startsWith('E') ? (code as ErrnoName) : 'EIO', action)
  }
}
