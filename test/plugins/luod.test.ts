/** luod with plug-ins: it does not start with one that cannot be loaded, and outlives one that is broken. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { isLuoError } from '../../src/errors.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { Stage } from '../daemon/stage.js'
import { Kit } from '../kinds/kit.js'
import { REFUSED_MAKERS } from '../kinds/proofs.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const BROKEN = fileURLToPath(new URL('broken.js', import.meta.url))
const GOOD = 'export function register() {}\n'
const LIMIT_MS = 20_000

let folder: string
let kit: Kit
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-plugins-'))
  kit = new Kit()
})
afterEach(() => {
  kit[Symbol.dispose]()
  rmSync(folder, { recursive: true })
})

function plugin(text: string, name = 'plugin.mjs'): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

const BAD: [string, RegExp, () => string][] = [
  ['a relative path', /give its absolute path \(LUO_PLUGIN\)/, () => 'plugin.mjs'],
  ['one that cannot be loaded', /at the top \(LUO_PLUGIN\)/, () => plugin('throw new Error("at the top")')],
  [
    'one that does not register',
    /inside \(LUO_PLUGIN\)/,
    () => plugin('export function register() { throw new Error("inside") }'),
  ],
]

test.each(BAD)('luod does not start with %s', (_, message, make) => {
  const socket = join(folder, 'luod.sock')
  const args = [LUOD, '--socket', socket, '--plugin', make()]
  const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8', timeout: LIMIT_MS })
  expect(stderr).toMatch(message)
  expect(status).toBe(1)
  expect(existsSync(socket)).toBe(false)
})

test('luod starts with good ones, through links of root too, in the order in which they are given', async () => {
  const first = plugin(GOOD, 'first.mjs')
  mkdirSync(join(folder, 'real'))
  symlinkSync('real', join(folder, 'current'))
  copyFileSync(first, join(folder, 'real/second.mjs'))
  await using stage = await Stage.start({
    args: ['--plugin', first, '--plugin', join(folder, 'current/../current/second.mjs')],
  })
  expect(await stage.call('List', {})).toEqual({ workloads: [] })
})

const FAILURES: [string, string][] = [
  ['canPreserve error', 'EIO'],
  ['canPreserve promise', 'EIO'],
  ['getId nonsense', 'EIO'],
  ['preserve errno', 'ENOTTY'],
  ['preserve node', 'ENOENT'],
  ['preserve string', 'EIO'],
  ['preserve promise', 'EIO'],
  ['flb.preserve error', 'EIO'],
]

test.each(FAILURES)('a plug-in that is broken (%s) costs that request, and luod goes on', async (broken, code) => {
  process.env.BROKEN = broken
  try {
    await using stage = await Stage.start({ args: ['--plugin', BROKEN] })
    const client = await stage.client()
    const { parameters, fds } = await client.call('Join', { id: 'join', workload: 'web', accepts: ['*'], fds: 0 })
    const preserve = async (token: string, file: Fd) => {
      const files = [{ token, fd: 0 }]
      try {
        await client.call('Preserve', { id: token, session: parameters.session, files, fds: 1 }, [file])
        return 'done'
      } catch (error) {
        if (isLuoError(error)) return `${error.code}: ${error.message}`
        throw error
      }
    }
    const epoll = REFUSED_MAKERS.epoll?.(kit) as Fd
    for (const token of ['1', '2']) {
      const answer = await preserve(token, epoll)
      expect(answer).toMatch(new RegExp(`^${code}: .*plug-in ${BROKEN}, .*-broken-v1, `))
    }
    if (!broken.startsWith('canPreserve')) expect(await preserve('3', kit.own(createMemfd('store')))).toBe('done')
    const { workload } = await stage.call('Show', { workload: 'web' })
    expect(workload.files).toBe(broken.startsWith('canPreserve') ? 0 : 1)
    closeAll(fds)
  } finally {
    delete process.env.BROKEN
  }
})
