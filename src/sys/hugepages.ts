/**
 * Huge pages: what a memory file of them needs, and the kernel's pool that they come from, one for each size of pages.
 *
 * A hole of such a file has no page yet. Touching it takes one from the pool, and is SIGBUS when there is none, unless
 * one is reserved for the file. Mapping the file reserves pages for all of its holes, for as long as the file lives.
 */
import { fstatSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { Fd } from './fd.js'
import { checked, errno, failure, libc } from './ffi.js'

const POOLS = '/sys/kernel/mm/hugepages'
const PROT_NONE = 0
const MAP_SHARED = 1
/** st_blocks counts these, whatever the file system. */
const BLOCK_BYTES = 512

export interface HugeHoles {
  pageBytes: number
  /** How many pages the file could still take. */
  pages: number
}

/** Of a memory file of huge pages: its block size is the size of its pages. */
export function hugeHoles(fd: Fd): HugeHoles {
  const { size, blksize, blocks } = fstatSync(fd.number)
  return { pageBytes: blksize, pages: Math.max(0, Math.ceil((size - blocks * BLOCK_BYTES) / blksize)) }
}

/**
 * Reserves pages of the pool for all holes of the file; they are the file's until it is gone, and reserving them again
 * takes no more. False, and nothing was reserved, when the pool has too few (or a cgroup may not have so many).
 */
export function reserveHoles(fd: Fd): boolean {
  const { size } = fstatSync(fd.number)
  if (size === 0) return true
  // Opened for reading: a file that is sealed against writing can be mapped then, on older kernels too.
  using readable = Fd.adopt(openSync(`/proc/self/fd/${fd.number}`, 'r'))
  const address = libc('mmap', 0, size, PROT_NONE, MAP_SHARED, readable.number, 0)
  if (address === -1) {
    const code = errno()
    if (code === 'ENOMEM') return false
    throw failure('reserve huge pages', code)
  }
  checked('unmap huge pages', 'munmap', address, size)
  return true
}

function path(pageBytes: number, file: string): string {
  return `${POOLS}/hugepages-${pageBytes / 1024}kB/${file}_hugepages`
}

function count(pageBytes: number, file: 'nr' | 'free' | 'resv' | 'surplus'): number {
  return Number(readFileSync(path(pageBytes, file), 'latin1'))
}

/** Pages that are neither in use nor reserved for anybody. */
export function availableHugePages(pageBytes: number): number {
  return Math.max(0, count(pageBytes, 'free') - count(pageBytes, 'resv'))
}

/**
 * Adds pages to the pool, or takes them out of it (less than 0); answers by how many it changed, closer to 0 when there
 * is no memory for more. Pages that are in use or reserved stay where they are, and leave the pool when they are given
 * back. EACCES without the right to; that takes root.
 */
export function changeHugePool(pageBytes: number, pages: number): number {
  // Those over the pool's own number (surplus) are counted in nr, and are not what is set.
  const own = () => count(pageBytes, 'nr') - count(pageBytes, 'surplus')
  const before = own()
  writeFileSync(path(pageBytes, 'nr'), String(Math.max(0, before + pages)))
  return own() - before
}
