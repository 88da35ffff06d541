/**
 * The systemd units of docs/running.md. Sections and directives are checked here in any case, and the whole by
 * `systemd-analyze verify` where there is one. The programs that they start are not installed here, so /bin/true stands
 * for them.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

const TEXT = readFileSync(new URL('../docs/running.md', import.meta.url), 'utf8')
/** What the documented units may use: a directive in the wrong section is ignored by systemd with a warning only. */
const KNOWN: Record<string, readonly string[]> = {
  Unit: ['Description', 'Wants', 'After'],
  Service: [
    ...['Type', 'NotifyAccess', 'User', 'WorkingDirectory', 'Environment', 'ExecStart', 'ExecReload', 'Restart'],
    ...['KillMode', 'TimeoutStopSec', 'LimitNOFILE', 'RuntimeDirectory', 'OOMScoreAdjust', 'NoNewPrivileges'],
    ...['ProtectSystem', 'SuccessExitStatus'],
  ],
  Install: ['WantedBy'],
}
/** systemd's version that knows Type=notify-reload. */
const NOTIFY_RELOAD_SINCE = 253

const units = [...TEXT.matchAll(/^```ini unit=(\S+)\n([\s\S]*?)^```$/gm)].map(([, name = '', text = '']) => ({
  name,
  text,
}))

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'luo-units-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

/** `Section.Key` with its value, in order. */
function directives(text: string): [string, string][] {
  const found: [string, string][] = []
  let section = ''
  for (const line of text.split('\n').filter((line) => line !== '')) {
    section = /^\[(\w+)\]$/.exec(line)?.[1] ?? section
    if (line.startsWith('[')) continue
    const [, key = '', value = ''] = /^(\w+)=(.+)$/.exec(line) ?? []
    expect(KNOWN[section], `the section of ${line}`).toContain(key)
    found.push([`${section}.${key}`, value])
  }
  return found
}

/** systemd's version; 0 where it is not installed. */
function systemdVersion(): number {
  const { stdout, error } = spawnSync('systemd-analyze', ['--version'], { encoding: 'utf8' })
  return error ? 0 : Number(/systemd (\d+)/.exec(stdout)?.[1])
}

test('there is a unit for luod and one for a service', () => {
  expect(units.map(({ name }) => name)).toEqual(['luod.service', 'web.service', 'web-252.service'])
})

test.each(units)('$name has directives that exist, and reports to systemd', ({ text }) => {
  const all = new Map(directives(text))
  expect(all.get('Service.Type')).toMatch(/^notify/)
  expect(all.get('Service.ExecStart')).toMatch(/^\/usr\/local\/bin\/luo(d|ctl run web --restart -- )/)
  // notify-reload sends the signal by itself; with both there would be two.
  expect(all.has('Service.ExecReload')).toBe(
    all.get('Service.Type') === 'notify' && all.get('Service.NotifyAccess') === 'main',
  )
})

const version = systemdVersion()
test.runIf(version > 0)('systemd has nothing to say against them', () => {
  const paths = units.map(({ name, text }) => {
    const path = join(folder, name)
    writeFileSync(path, text.replace(/^(Exec\w+=)\S+/gm, '$1/bin/true'))
    return path
  })
  const { stderr } = spawnSync('systemd-analyze', ['verify', '--recursive-errors=no', '--man=no', ...paths], {
    encoding: 'utf8',
  })
  const tooOld = (line: string) => version < NOTIFY_RELOAD_SINCE && line.includes('ignoring: notify-reload')
  const ours = (line: string) => units.some(({ name }) => line.includes(name))
  expect(stderr.split('\n').filter((line) => ours(line) && !tooOld(line))).toEqual([])
})
