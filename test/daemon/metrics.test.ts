/** Metrics as Prometheus gets them: over HTTP, in its text format, and as docs/running.md says. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, lstatSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, test } from 'vitest'
import { eventually, failure, Stage } from './stage.js'

const LUOD = fileURLToPath(new URL('../../dist/daemon/main.js', import.meta.url))
const DOCS = readFileSync(new URL('../../docs/running.md', import.meta.url), 'utf8')
const MODE_BITS = 0o777
const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'luo-metrics-'))
  folders.push(made)
  return made
}

type Target = { socketPath: string } | { host: string; port: number }

async function get(target: Target, options: { path?: string; method?: string; headers?: Record<string, string> } = {}) {
  const asked = request({ path: '/metrics', agent: false, ...options, ...target })
  asked.end()
  const [response] = (await once(asked, 'response')) as [IncomingMessage]
  let text = ''
  for await (const chunk of response) text += chunk
  return { status: response.statusCode, type: response.headers['content-type'], text }
}

interface Family {
  type: string
  samples: Map<string, number>
}

/** As Go's ParseFloat, by which the format is defined: what is no number at all (a mean of nothing) may be `Nan`. */
const isNumber = (text: string) => /^([+-]inf|nan)$/i.test(text) || Number.isFinite(Number(text))

/** The text format, version 0.0.4, strictly: a family begins with HELP and TYPE, and its samples follow. */
function parse(text: string): Map<string, Family> {
  const families = new Map<string, Family>()
  let current = ''
  expect(text.endsWith('\n')).toBe(true)
  for (const line of text.split('\n').filter((line) => line !== '')) {
    const [, help] = /^# HELP ([a-zA-Z_:][\w:]*) \S.*$/.exec(line) ?? []
    const [, typed, type = ''] =
      /^# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram|summary|untyped)$/.exec(line) ?? []
    if (help) {
      expect(families.has(help), `${help} comes twice`).toBe(false)
      current = help
    } else if (typed) {
      expect(typed).toBe(current)
      families.set(typed, { type, samples: new Map() })
    } else {
      const sample = /^([a-zA-Z_:][\w:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*",?)*\})? (\S+)$/.exec(line)
      const [, name = '', labels = '', value = ''] = sample ?? []
      const family = families.get(current)
      const suffix = name.slice(current.length)
      const suffixes = family?.type === 'histogram' ? ['_bucket', '_sum', '_count'] : ['']
      expect(name.startsWith(current) && suffixes.includes(suffix), `no sample of ${current}: ${line}`).toBe(true)
      expect(isNumber(value), line).toBe(true)
      expect(family?.samples.has(`${suffix}${labels}`), `${line} comes twice`).toBe(false)
      family?.samples.set(`${suffix}${labels}`, Number(value))
    }
  }
  return families
}

/** A Stage whose luod serves metrics, and how to get them. */
async function serving(...args: string[]) {
  const path = join(folder(), 'metrics.sock')
  const stage = await Stage.start({ args: ['--metrics', `unix:${path}`, ...args] })
  await eventually(() => existsSync(path), Boolean, 'no metrics')
  const scrape = async () => parse((await get({ socketPath: path })).text)
  return { stage, path, scrape }
}

test('what is served can be parsed, and is what the documentation lists', async () => {
  const { stage, path, scrape } = await serving()
  await using _ = stage
  const { status, type } = await get({ socketPath: path })
  expect([status, type]).toEqual([200, 'text/plain; version=0.0.4; charset=utf-8'])
  const families = await scrape()
  const own = [...families].filter(([name]) => name.startsWith('luod_'))
  const documented = [...DOCS.matchAll(/^\| `(luod_\w+)` \| (\w+) \|/gm)].map(([, name, kind]) => [name, kind])
  expect(own.map(([name, family]) => [name, family.type])).toEqual(documented)
  expect(documented.length).toBeGreaterThan(10)
  for (const name of families.keys()) expect(name).toMatch(/^(luod|process|nodejs)_/)
  expect(lstatSync(path).mode & MODE_BITS).toBe(0o600)
  stage.luod.kill('SIGTERM')
  await eventually(
    () => existsSync(path),
    (there) => !there,
    'the socket stays',
  )
})

test('whether a crash would lose nothing is a number', async () => {
  const isProtected = async ({ scrape }: Awaited<ReturnType<typeof serving>>) =>
    (await scrape()).get('luod_protected')?.samples.get('')
  const alone = await serving()
  await using _alone = alone.stage
  expect(await isProtected(alone)).toBe(0)
  const standing = await serving('--standby')
  await using _standing = standing.stage
  await eventually(
    () => isProtected(standing),
    (value) => value === 1,
    'the standby is never ready',
  )
})

test('counts follow what there is, and what happens is counted once', async () => {
  const { stage, scrape } = await serving()
  await using _ = stage
  const value = async (name: string, labels = '') => (await scrape()).get(name)?.samples.get(labels)
  const old = await stage.supervised('web', ['--keep', '60s'])
  const { member, session } = await old.join('web')
  await old.do('memfd', { name: 'store', size: 5_000 })
  const files = [{ token: '1', fd: 0, format: 'store/1' }]
  await old.call('Preserve', { id: 'p', session, files, fds: 1 }, { send: ['store'] })
  await old.call('Commit', { id: 'first', member })
  expect(await value('luod_workloads')).toBe(1)
  expect(await value('luod_sessions')).toBe(1)
  expect(await value('luod_files')).toBe(1)
  expect(await value('luod_bytes_held')).toBe(5_000)
  expect(await value('luod_orphans')).toBe(0)
  expect(await value('luod_connections')).toBeGreaterThan(1)
  expect(await value('luod_open_fds')).toBeGreaterThan(5)
  expect(await value('luod_requests_total', '{method="Preserve",code="ok"}')).toBe(1)
  const { version } = await stage.call('Status', {})
  expect(await value('luod_build_info', `{version="${version}"}`)).toBe(1)

  const update = stage.call('Update', { id: 'u', workload: 'web' })
  const successor = await stage.nextPuppet()
  const joined = await successor.join('web')
  const claim = successor.call('Claim', { id: 'claim', member: joined.member })
  const { update: id = '' } = await old.event('prepare')
  await old.call('Ready', { id: 'ready', member, update: id })
  await claim
  const commit = successor.call('Commit', { id: 'commit', member: joined.member })
  await old.event('release')
  await old.call('Released', { id: 'released', member, update: id })
  await commit
  const { blackout_ms = 0 } = await update
  const families = await scrape()
  expect(families.get('luod_updates_total')?.samples).toEqual(
    new Map([
      ['{outcome="committed"}', 1],
      ['{outcome="rolledBack"}', 0],
      ['{outcome="orphaned"}', 0],
      ['{outcome="checked"}', 0],
    ]),
  )
  const blackout = families.get('luod_update_blackout_seconds')?.samples
  expect(blackout?.get('_count')).toBe(1)
  expect(blackout?.get('_sum')).toBeCloseTo(blackout_ms / 1000, 6)
  expect(blackout?.get('_bucket{le="0.001"}')).toBe(blackout_ms <= 1 ? 1 : 0)
  expect(blackout?.get('_bucket{le="+Inf"}')).toBe(1)
  expect(families.get('luod_update_duration_seconds')?.samples.get('_count')).toBe(1)

  const made = Array.from({ length: 20 }, (_, index) => failure(stage.call('Show', { workload: `made-up-${index}` })))
  expect(new Set(await Promise.all(made))).toEqual(new Set(['LUO_NOT_FOUND']))
  const after = await scrape()
  expect(after.get('luod_refusals_total')?.samples).toEqual(new Map([['{code="LUO_NOT_FOUND"}', 20]]))
  expect(after.get('luod_requests_total')?.samples.get('{method="Show",code="LUO_NOT_FOUND"}')).toBe(20)
})

test('only GET /metrics is answered; long headers and too many connections are not', async () => {
  const { stage, path } = await serving()
  await using _ = stage
  const target = { socketPath: path }
  for (const other of ['/', '/metrics/', '/metrics?x=1', '//metrics', '/../metrics']) {
    expect((await get(target, { path: other })).status).toBe(404)
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS']) {
    expect((await get(target, { method })).status).toBe(405)
  }
  expect((await get(target, { headers: { long: 'x'.repeat(20_000) } })).status).toBe(431)
  const idle = Array.from({ length: 40 }, () => connect(path).on('error', () => {}))
  await eventually(
    () => idle.filter((socket) => socket.destroyed || socket.readableEnded).length,
    (closed) => closed >= 24,
    'all of them are kept',
  )
  for (const socket of idle) socket.destroy()
  await eventually(
    async () => (await get(target)).status,
    (status) => status === 200,
    'it does not go on',
  )
  expect((await stage.call('List', {})).workloads).toEqual([])
})

test('a port of the loopback interface serves the same', async () => {
  const free = createServer().listen(0, '127.0.0.1')
  await once(free, 'listening')
  const { port } = free.address() as { port: number }
  await new Promise((resolve) => free.close(resolve))
  await using stage = await Stage.start({ args: ['--metrics', `127.0.0.1:${port}`] })
  const { text } = await eventually(() => get({ host: '127.0.0.1', port }), Boolean, 'no metrics')
  expect(parse(text).get('luod_workloads')?.samples.get('')).toBe(0)
  expect(stage.luod.exitCode).toBe(null)
})

function luod(args: string[]): Promise<{ code: number; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [LUOD, ...args], { timeout: 5_000 }, (error, _, stderr) => {
      resolve({ code: error ? Number(error.code ?? -1) : 0, stderr })
    })
  })
}

test('an address that is not of this machine ends luod with 2, and nothing is made', async () => {
  const socket = join(folder(), 'luod.sock')
  const { code, stderr } = await luod(['--socket', socket, '--metrics', '0.0.0.0:9464'])
  expect([code, stderr]).toEqual([2, expect.stringContaining('for this machine only')])
  expect(existsSync(`${socket}.lock`)).toBe(false)
})

test('a place that is taken, or open to others, ends luod with 1 and leaves no socket', async () => {
  const place = folder()
  const socket = join(place, 'luod.sock')
  const taken = createServer().listen(0, '127.0.0.1')
  await once(taken, 'listening')
  const { port } = taken.address() as { port: number }
  const busy = await luod(['--socket', socket, '--metrics', `127.0.0.1:${port}`])
  expect([busy.code, busy.stderr]).toEqual([1, expect.stringContaining('EADDRINUSE')])
  await new Promise((resolve) => taken.close(resolve))
  mkdirSync(join(place, 'open'))
  chmodSync(join(place, 'open'), 0o777)
  const open = await luod(['--socket', socket, '--metrics', `unix:${join(place, 'open', 'metrics.sock')}`])
  expect([open.code, open.stderr]).toEqual([1, expect.stringContaining('can be written by other users')])
  expect(existsSync(socket)).toBe(false)
})
