/**
 * Huge pages for tests: root may have as many as there is memory for. The pool is the machine's: whoever looks at it or
 * sets it has it for themselves meanwhile.
 */
import { openSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Fd } from '../../src/sys/fd.js'
import { checked, koffi, libc } from '../../src/sys/ffi.js'
import type { Kit } from './kit.js'

/** The default size of huge pages here. */
export const HUGE_PAGE_BYTES =
  1024 * Number(/^Hugepagesize:\s+(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1])

const POOL = `/sys/kernel/mm/hugepages/hugepages-${HUGE_PAGE_BYTES / 1024}kB`
const PROT_READ_WRITE = 3
const MAP_SHARED = 1
const MAP_NORESERVE = 0x4000

export type PoolCount = 'nr' | 'free' | 'resv' | 'surplus'

export function poolCount(count: PoolCount): number {
  return Number(readFileSync(`${POOL}/${count}_hugepages`, 'utf8'))
}

export function setPool(pages: number): void {
  writeFileSync(`${POOL}/nr_hugepages`, String(pages))
  if (poolCount('nr') < pages) throw new Error(`no memory for ${pages} huge pages; as root, on a machine with memory`)
}

const LOCK_EX = 2
let lock: { fd: Fd; holders: number } | undefined

/** Until the end of the test no other process of the tests touches the pool. */
export function holdPool(kit: Kit): void {
  if (!lock) {
    const fd = Fd.adopt(openSync(join(tmpdir(), 'luo-hugepages.lock'), 'a'))
    checked('wait for the pool', 'flock', fd.number, LOCK_EX)
    lock = { fd, holders: 0 }
  }
  lock.holders += 1
  kit.atEnd(() => {
    if (!lock || --lock.holders > 0) return
    lock.fd.close()
    lock = undefined
  })
}

/** `pages` more, until the end of the test. */
export function withHugePages(kit: Kit, pages: number): void {
  holdPool(kit)
  const before = poolCount('nr')
  setPool(before + pages)
  kit.atEnd(() => setPool(before))
}

/** Calls `use` with a part of huge memory, mapped without reserving anything. A page that is not there is SIGBUS. */
export function withPage<T>(fd: Fd, page: number, use: (bytes: Uint8Array) => T): T {
  const flags = MAP_SHARED | MAP_NORESERVE
  const offset = page * HUGE_PAGE_BYTES
  const address = checked('map a huge page', 'mmap', 0, HUGE_PAGE_BYTES, PROT_READ_WRITE, flags, fd.number, offset)
  try {
    return use(new Uint8Array(koffi().view(address, HUGE_PAGE_BYTES)))
  } finally {
    libc('munmap', address, HUGE_PAGE_BYTES)
  }
}
