import { spawnSync } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { LuoError } from '../errors.js'
import { standaloneContext } from '../handlers/context.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { loadPlugin } from './load.js'
import { registerPlugin } from './register.js'

const NOBODY = 65_534
const GOOD = 'export function register() {}\n'

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-plugins-'))
  chmodSync(folder, 0o755)
})
afterEach(() => rmSync(folder, { recursive: true }))

function plugin(text: string, name = 'plugin.mjs'): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

async function load(path: string): Promise<void> {
  const context = standaloneContext()
  registerPlugin(await loadPlugin(path), context)
  registerReferenceHandlers(context)
}

/** Each makes one, and answers how the operator names it. */
const BAD: [string, RegExp, () => string][] = [
  ['a relative path', /give its absolute path/, () => 'plugin.mjs'],
  ['no file', /ENOENT/, () => join(folder, 'missing.mjs')],
  ['a directory', /is no file/, () => folder],
  ['a syntax error', /it cannot be loaded/, () => plugin('export function (')],
  ['an error at its top level', /it cannot be loaded: at the top/, () => plugin('throw new Error("at the top")')],
  ['no register', /exports no function "register"/, () => plugin('export const registered = 1')],
  [
    'a register that throws',
    /register\(\) failed: inside/,
    () => plugin('export function register() { throw new Error("inside") }'),
  ],
  ['an asynchronous register', /must answer nothing/, () => plugin('export async function register() {}')],
  [
    'a handler without its operations',
    /no canPreserve, preserve, unpreserve, retrieve, finish/,
    () => plugin('export function register(registry) { registry.register({ compatible: "x-v1" }) }'),
  ],
  [
    'a handler whose name a built-in one has',
    /handler memfd-ref-v1: one of luod itself has this name/,
    () =>
      plugin(`export function register(registry) {
        const nothing = () => {}
        const handler = { compatible: 'memfd-ref-v1', canPreserve: () => false }
        for (const name of ['preserve', 'unpreserve', 'retrieve', 'finish']) handler[name] = nothing
        registry.register(handler)
      }`),
  ],
  [
    'a file that others may write to',
    /others can write to .*plugin.mjs: chmod/,
    () => {
      const path = plugin(GOOD)
      chmodSync(path, 0o646)
      return path
    },
  ],
  [
    'a file of somebody else',
    /belongs to uid 65534/,
    () => {
      const path = plugin(GOOD)
      chownSync(path, NOBODY, NOBODY)
      return path
    },
  ],
  [
    'a directory that others may write to',
    /others can write to .*open: chmod/,
    () => {
      mkdirSync(join(folder, 'open'))
      chmodSync(join(folder, 'open'), 0o777)
      return plugin(GOOD, 'open/plugin.mjs')
    },
  ],
  [
    'a link in a directory that others may write to, to a good one',
    /others can write to .*open: chmod/,
    () => {
      mkdirSync(join(folder, 'open'))
      chmodSync(join(folder, 'open'), 0o777)
      symlinkSync(plugin(GOOD), join(folder, 'open/link.mjs'))
      return join(folder, 'open/link.mjs')
    },
  ],
  [
    'a link of somebody else, in a directory like /tmp',
    /belongs to uid 65534/,
    () => {
      const sticky = join(folder, 'sticky')
      mkdirSync(sticky)
      chmodSync(sticky, 0o1777)
      const link = join(sticky, 'link.mjs')
      const made = spawnSync('ln', ['-s', plugin(GOOD), link], { uid: NOBODY, gid: NOBODY })
      // Others have to get there to make it.
      if (made.status !== 0) {
        chmodSync(folder, 0o755)
        spawnSync('ln', ['-s', join(folder, 'plugin.mjs'), link], { uid: NOBODY, gid: NOBODY })
      }
      return link
    },
  ],
  [
    'a good link into a directory that others may write to',
    /others can write to .*open: chmod/,
    () => {
      mkdirSync(join(folder, 'open'))
      const path = plugin(GOOD, 'open/plugin.mjs')
      chmodSync(join(folder, 'open'), 0o777)
      symlinkSync(path, join(folder, 'link.mjs'))
      return join(folder, 'link.mjs')
    },
  ],
  [
    'links in a circle',
    /go round in a circle/,
    () => {
      symlinkSync('b.mjs', join(folder, 'a.mjs'))
      symlinkSync('a.mjs', join(folder, 'b.mjs'))
      return join(folder, 'a.mjs')
    },
  ],
]

test.each(BAD)('%s is refused, and it is said why', async (_, message, make) => {
  const path = make()
  const error = await load(path).catch((error: unknown) => error)
  expect(error).toBeInstanceOf(LuoError)
  expect(error).toMatchObject({ code: 'LUO_PLUGIN', message: expect.stringMatching(message) })
  expect((error as LuoError).message).toContain(path)
})

describe('a good one', () => {
  test('is loaded, also by links that nobody else can change', async () => {
    mkdirSync(join(folder, 'releases'))
    mkdirSync(join(folder, 'releases/1'))
    plugin(GOOD, 'releases/1/plugin.mjs')
    symlinkSync('releases/1', join(folder, 'current'))
    symlinkSync(`${folder}/current/../1/./plugin.mjs`, join(folder, 'absolute.mjs'))
    for (const path of ['releases/1/plugin.mjs', 'current/plugin.mjs', 'current/../1/plugin.mjs', 'absolute.mjs']) {
      await load(`${folder}/${path}`)
    }
  })

  test('may be of the user that luod runs as', async () => {
    const path = plugin(GOOD)
    chownSync(path, NOBODY, NOBODY)
    expect((await loadPlugin(path, NOBODY)).path).toBe(path)
    await expect(loadPlugin(path, NOBODY - 1)).rejects.toThrow('belongs to uid 65534')
  })

  test('comes before those that are registered later, and cannot register anything later itself', async () => {
    const context = standaloneContext()
    const path = plugin(`export let late
      export function register(registry) {
        const nothing = () => {}
        const handler = { compatible: 'all-v1', canPreserve: () => true }
        for (const name of ['preserve', 'unpreserve', 'retrieve', 'finish']) handler[name] = nothing
        registry.register(handler)
        late = () => registry.register({ ...handler, compatible: 'late-v1' })
      }`)
    const loaded = await loadPlugin(path)
    registerPlugin(loaded, context)
    registerReferenceHandlers(context)
    const { late } = (await import(path)) as { late: () => void }
    expect(late).toThrow('only while register() runs')
    expect(context.registry.find({ fd: undefined as never, info: { kind: 'memfd' } as never })?.compatible).toBe(
      'all-v1',
    )
  })
})
