/**
 * What the kernel may answer to a luod that keeps its descriptors with the service manager: each call of libc of the
 * store's life fails once. The store has everything by the end of a flush, or says that it does not work any more.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { FdStore, receivedFiles } from '../../src/daemon/fd-store.js'
import { isLuoError } from '../../src/errors.js'
import { closeAll, countOpenFds, type Fd } from '../../src/sys/fd.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { FakeManager } from '../daemon/fake-manager.js'
import { eventually } from '../daemon/stage.js'
import { besides, FAILURES, failEach } from './interference.js'

const BARRIER_MS = 1_000
const folder = mkdtempSync(join(tmpdir(), 'luo-store-calls-'))
const names = ['kept', 'gone', 'two', 'a', 'b', 'c', 'more'] as const
type Name = (typeof names)[number]
const files = Object.fromEntries(names.map((name) => [name, createMemfd(name)])) as Record<Name, Fd>
afterAll(() => {
  closeAll(Object.values(files))
  rmSync(folder, { recursive: true })
})

/** Its own calls do not fail. */
class Manager extends FakeManager {
  override read(): void {
    besides(() => super.read())
  }
}

test.each(FAILURES)('%s at each call costs the store at most, and it says so', async (failure, calls, instead) => {
  const manager = new Manager(join(folder, failure))
  const before = countOpenFds()
  let store: FdStore | undefined
  let received: ReturnType<typeof receivedFiles>
  let code: string | undefined
  const put = (...entries: (Name | [key: Name, file: Name])[]) => {
    try {
      store?.put(
        entries
          .map((entry) => (Array.isArray(entry) ? entry : ([entry, entry] as const)))
          .map(([key, file]) => ({ key, fd: files[file] })),
      )
    } catch (error) {
      // What it did not take costs it, as in luod.
      store?.close()
      throw error
    }
  }
  try {
    await failEach({
      ...{ calls, instead },
      before: () => {
        const left = Object.entries({ 'luo/kept': files.kept, 'luo/gone': files.gone, 'luo/two#2': files.two })
        for (const [name, fd] of left) manager.kept.push({ name, fd: fd.dup() })
        received = receivedFiles(left.map(([name, fd]) => ({ name, fd: fd.dup() })))
      },
      work: async () => {
        store = undefined
        code = undefined
        try {
          store = new FdStore({ path: manager.path, limit: manager.limit, received, barrierMs: BARRIER_MS })
          put('kept', 'a')
          const first = store.flush()
          first.catch(() => {})
          put('b')
          await Promise.all([first, store.flush()])
          put(['a', 'c'], ['two', 'more'])
          store.remove(['b'])
          store.dropUnclaimed()
          await store.flush()
        } catch (error) {
          if (!isLuoError(error)) throw error
          code = error.code
        }
      },
      after: async ({ call, where }) => {
        if (call === undefined) expect(code).toBeUndefined()
        if (code === undefined) {
          expect(store?.works, where).toBe(true)
          expect([...manager.names].sort(), where).toEqual(['luo/a#1', 'luo/kept', 'luo/two#3'])
        } else if (store) {
          expect(store.works, where).toBe(false)
          await expect(store.flush(), where).rejects.toThrow()
        }
        store?.close()
        closeAll([...received.entries.values()].map(({ fd }) => fd))
        manager.read()
        closeAll(manager.kept.splice(0).map(({ fd }) => fd))
        await eventually(countOpenFds, (count) => count <= before, `${where}: descriptors are left`)
      },
    })
  } finally {
    manager[Symbol.dispose]()
  }
})
