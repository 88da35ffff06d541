import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import { afterEach, expect, test } from 'vitest'
import { countOpenFds, Fd } from './fd.js'
import { sameOpenFile } from './file-info.js'
import { createMemfd, readAt, writeAt } from './memfd.js'
import { whoHasOpen } from './open-files.js'

const NAME = `open-files-${process.pid}`
const isOurs = (link: string) => link.startsWith(`/memfd:${NAME}`)

let before = 0
afterEach(() => expect(countOpenFds()).toBe(before))

test('each descriptor of a file is found, with its process, and one more of it can be had', async () => {
  before = countOpenFds()
  using fd = createMemfd(NAME, { size: 10 })
  writeAt(fd, Buffer.from('text'), 0)
  const child = spawn('sleep', ['60'], { stdio: [fd.number, 'ignore', 'ignore'] })
  await once(child, 'spawn')
  try {
    const { found } = whoHasOpen(isOurs)
    expect(found.map(({ pid }) => pid).sort()).toEqual([process.pid, child.pid].sort())
    const theirs = found.find(({ pid }) => pid === child.pid)
    using taken = theirs?.take()
    expect(taken && sameOpenFile(taken, fd)).toBe(true)
    const text = Buffer.alloc(4)
    if (taken) readAt(taken, text, 0)
    expect(text.toString()).toBe('text')
  } finally {
    child.kill('SIGKILL')
    await once(child, 'close')
  }
})

test('a descriptor that is another one by now is not taken', () => {
  before = countOpenFds()
  const fd = createMemfd(NAME)
  const [found] = whoHasOpen(isOurs).found
  const { number } = fd
  fd.close()
  // The lowest free number is the one that was closed.
  using other = Fd.adopt(openSync('/dev/null', 'r'))
  expect(other.number).toBe(number)
  expect(found?.take()).toBeUndefined()
})
