/** Proofs for memory: memfd, files of /dev/shm without a name, huge pages. */
import { fstatSync, openSync, statfsSync, unlinkSync } from 'node:fs'
import { expect } from 'vitest'
import type { Fd } from '../../src/sys/fd.js'
import { checked } from '../../src/sys/ffi.js'
import { addSeals, createMemfd, fileSize, getSeals, readAt, truncate, writeAt } from '../../src/sys/memfd.js'
import { HUGE_PAGE_BYTES, poolCount, withHugePages, withPage } from './hugepages.js'
import { call, failsWith, type Kit, position } from './kit.js'
import type { Proof } from './proofs.js'

const MFD_CLOEXEC = 1
const MFD_ALLOW_SEALING = 2
const MFD_HUGETLB = 4
const SEEK_SET = 0

export function unlinkedInShm(kit: Kit): Fd {
  const path = `/dev/shm/luo-kinds-${process.pid}`
  const fd = kit.adopt(openSync(path, 'wx+'))
  unlinkSync(path)
  return fd
}

/** Of `pages` huge pages, which are in the pool until the end of the test. */
export function hugeMemory(kit: Kit, pages = 2): Fd {
  withHugePages(kit, pages)
  const flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB
  const fd = kit.adopt(checked('make huge memory', 'memfd_create', 'huge', flags))
  truncate(fd, pages * HUGE_PAGE_BYTES)
  return fd
}

const memoryFile = (kit: Kit) => kit.own(createMemfd('store', { size: 4096 }))

function textAt(fd: Fd, offset: number, length: number): string {
  const bytes = Buffer.alloc(length)
  readAt(fd, bytes, offset)
  return bytes.toString()
}

const contents =
  (make: (kit: Kit) => Fd): Proof =>
  (kit, cross) => {
    const fd = make(kit)
    writeAt(fd, Buffer.from('before'), 0)
    const writer = kit.adopt(openSync(`/proc/self/fd/${fd.number}`, 'r+'))
    const [back] = cross([fd], () => {
      writeAt(writer, Buffer.from(', and after'), 6)
      writer.close()
    })
    expect(textAt(back, 0, 17)).toBe('before, and after')
  }

const size =
  (make: (kit: Kit) => Fd, bytes: number): Proof =>
  (kit, cross) => {
    const fd = make(kit)
    truncate(fd, bytes)
    const [back] = cross([fd])
    expect(fileSize(back)).toBe(bytes)
  }

const filePosition =
  (make: (kit: Kit) => Fd): Proof =>
  (kit, cross) => {
    const fd = make(kit)
    call('lseek', fd.number, 1234, SEEK_SET)
    const [back] = cross([fd])
    expect(position(back)).toBe(1234)
  }

const seals =
  (make: (kit: Kit) => Fd): Proof =>
  (kit, cross) => {
    const fd = make(kit)
    addSeals(fd, ['shrink', 'grow'])
    const before = getSeals(fd)
    const [back] = cross([fd])
    expect(getSeals(back)).toEqual(before)
    expect(failsWith(() => truncate(back, 2 ** 30))).toBe('EPERM')
    addSeals(back, ['seal'])
    expect(failsWith(() => addSeals(back, ['write']))).toBe('EPERM')
  }

const holes =
  (make: (kit: Kit) => Fd): Proof =>
  (kit, cross) => {
    const fd = make(kit)
    truncate(fd, 2 ** 30)
    writeAt(fd, Buffer.from('end'), 2 ** 30 - 3)
    const { blocks } = fstatSync(fd.number)
    const [back] = cross([fd])
    expect(fstatSync(back.number).blocks).toBe(blocks)
    expect(blocks * 512).toBeLessThan(2 ** 24)
    expect(textAt(back, 2 ** 30 - 3, 3)).toBe('end')
  }

export const MEMORY_PROOFS = {
  memfd: {
    contents: contents(memoryFile),
    size: size(memoryFile, 12_345),
    position: filePosition(memoryFile),
    seals: seals(memoryFile),
    holes: holes(memoryFile),
  },
  shmem: {
    contents: contents(unlinkedInShm),
    size: size(unlinkedInShm, 12_345),
    position: filePosition(unlinkedInShm),
    holes: holes(unlinkedInShm),
  },
  hugetlb: {
    contents: ((kit, cross) => {
      const fd = hugeMemory(kit)
      const fill = (file: Fd, page: number, byte: number) => withPage(file, page, (bytes) => bytes.fill(byte))
      const has = (file: Fd, page: number) => withPage(file, page, (bytes) => new Set(bytes))
      const writer = kit.adopt(openSync(`/proc/self/fd/${fd.number}`, 'r+'))
      fill(fd, 0, 7)
      const [back] = cross([fd], () => {
        fill(writer, 1, 9)
        writer.close()
      })
      expect([has(back, 0), has(back, 1)]).toEqual([new Set([7]), new Set([9])])
    }) satisfies Proof,
    size: size(hugeMemory, 2 * HUGE_PAGE_BYTES),
    position: filePosition(hugeMemory),
    seals: seals(hugeMemory),
    holes: ((kit, cross) => {
      const fd = hugeMemory(kit)
      expect(fstatSync(fd.number).blocks).toBe(0)
      const [back] = cross([fd])
      expect(poolCount('resv')).toBeGreaterThanOrEqual(2)
      for (const page of [0, 1]) withPage(back, page, (bytes) => bytes.fill(1))
    }) satisfies Proof,
    'page size': ((kit, cross) => {
      const [back] = cross([hugeMemory(kit)])
      expect(statfsSync(`/proc/self/fd/${back.number}`).bsize).toBe(HUGE_PAGE_BYTES)
    }) satisfies Proof,
  },
}
