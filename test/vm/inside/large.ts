/** Memory of 256 MiB, and what is in it in short. */
import { createHash } from 'node:crypto'
import type { Fd } from '../../../src/sys/fd.js'
import { createMemfd, readAt, writeAt } from '../../../src/sys/memfd.js'

const PIECE = 2 ** 20
const PIECES = 256

/** Each piece unlike the others. */
export function largeMemory(name: string): Fd {
  const fd = createMemfd(name, { size: PIECE * PIECES, overKexec: true })
  const piece = Buffer.alloc(PIECE)
  for (let at = 0; at < PIECES; at++) writeAt(fd, piece.fill(`${at},`), at * PIECE)
  return fd
}

export function checksum(fd: Fd): string {
  const hash = createHash('sha1')
  const piece = Buffer.alloc(PIECE)
  for (let at = 0; at < PIECES; at++) {
    readAt(fd, piece, at * PIECE)
    hash.update(piece)
  }
  return hash.digest('hex')
}
