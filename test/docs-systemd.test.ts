/**
 * The systemd units of docs/running.md and docs/systemd.md. Sections and directives are checked here in any case, and
 * the whole by `systemd-analyze verify` where there is one. The programs that they start are not installed here, so
 * /bin/true stands for them.
 */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'

const TEXT = ['running', 'systemd']
  .map((page) => readFileSync(new URL(`../docs/${page}.md`, import.meta.url), 'utf8'))
  .join('')
/** What the documented units may use: a directive in the wrong section is ignored by systemd with a warning only. */
const KNOWN: Record<string, readonly string[]> = {
  Unit: [
    ...['Description', 'Wants', 'After', 'Before', 'Requires', 'Conflicts', 'DefaultDependencies', 'IgnoreOnIsolate'],
    ...['RefuseManualStop', 'SurviveFinalKillSignal'],
  ],
  Service: [
    ...['Type', 'NotifyAccess', 'User', 'WorkingDirectory', 'Environment', 'ExecStart', 'ExecReload', 'Restart'],
    ...['KillMode', 'TimeoutStopSec', 'LimitNOFILE', 'RuntimeDirectory', 'OOMScoreAdjust', 'NoNewPrivileges'],
    ...[
      'ProtectSystem',
      'SuccessExitStatus',
      'RestartSec',
      'RestartPreventExitStatus',
      'FileDescriptorStoreMax',
      'FileDescriptorStorePreserve',
    ],
    ...['RuntimeDirectoryPreserve', 'CapabilityBoundingSet', 'RestrictAddressFamilies', 'DevicePolicy', 'DeviceAllow'],
    ...['RestrictNamespaces', 'LockPersonality', 'RestrictRealtime', 'SystemCallArchitectures'],
  ],
  Install: ['WantedBy'],
}
/** systemd's version that knows it, of what is newer than what may be installed here. */
const SINCE = { 'notify-reload': 253, FileDescriptorStorePreserve: 254, SurviveFinalKillSignal: 255 }
/** systemd-analyze security, where 10 is a service that may do anything. What luod is for takes most of it. */
const MAX_EXPOSURE = 7.5

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
  for (const line of text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))) {
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

test('there are units for luod and for a service', () => {
  expect(units.map(({ name }) => name)).toEqual([
    ...['luod.service', 'web.service', 'web-252.service', 'luod-kexec.service', 'luod-survives.service'],
  ])
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
  const tooOld = (line: string) =>
    Object.entries(SINCE).some(
      ([name, since]) => version < since && new RegExp(`(ignoring: |Unknown key (name )?')${name}`).test(line),
    )
  const ours = (line: string) => units.some(({ name }) => line.includes(name))
  expect(stderr.split('\n').filter((line) => ours(line) && !tooOld(line))).toEqual([])
})

const kexecUnits = units.filter(({ name }) => /^luod-/.test(name))
test.runIf(version > 0).each(kexecUnits)('$name may do no more than it has to', ({ name, text }) => {
  const path = join(folder, name)
  writeFileSync(path, text.replace(/^(Exec\w+=)\S+/gm, '$1/bin/true'))
  const { stdout } = spawnSync('systemd-analyze', ['security', '--offline=true', '--no-pager', path], {
    encoding: 'utf8',
  })
  const exposure = Number(/exposure level for \S+: ([\d.]+)/i.exec(stdout)?.[1])
  expect(exposure, stdout).toBeLessThan(MAX_EXPOSURE)
})

test('what lets luod live until the kexec, and what would end it before, is there and is not', () => {
  const [kexec, survives] = kexecUnits.map(({ text }) => new Map(directives(text)))
  expect(kexec?.get('Service.FileDescriptorStorePreserve')).toBe('yes')
  // systemd needs the device that luod would still have.
  expect([...(kexec?.keys() ?? [])].filter((key) => /Survive|DefaultDependencies/.test(key))).toEqual([])
  expect(survives?.get('Unit.DefaultDependencies')).toBe('no')
  expect(survives?.get('Unit.SurviveFinalKillSignal')).toBe('yes')
  expect(survives?.get('Unit.Conflicts')).not.toMatch(/shutdown|kexec|umount/)
  // A mount namespace of its own keeps file systems busy.
  const mounts = /^Service\.(Protect|Private|ReadOnly|ReadWrite|Inaccessible|Bind|TemporaryFileSystem|Root)/
  for (const unit of [kexec, survives]) expect([...(unit?.keys() ?? [])].filter((key) => mounts.test(key))).toEqual([])
})
