/**
 * Who has luod's sessions at the reboot call of a kexec of systemd: systemd 261 and newer takes them over the kexec in
 * its store, and with the version before luod has to be there to the end. Which one it is follows from the version and
 * from luod's unit; where it would be nobody, everything would be lost, so that the kexec is refused.
 */
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { LuoError } from '../errors.js'

/** The first that puts its stores into sessions of the kernel. */
const STORE_CROSSES = 261
const PRESERVED: ReadonlySet<string> = new Set(['yes', 'on-success'])
const SYSTEMCTL_MS = 5_000
const MAX_OUTPUT = 64 * 1024

export type Keeper = 'manager' | 'luod'

export interface KeeperFacts {
  /** Of the manager, as it says it: `261.2-1`. */
  version: string
  /** luod's; undefined when it is in none of a service. */
  unit: string | undefined
  /** What the unit says, by directive. */
  says: Readonly<Record<string, string>>
  /** Whether the store has everything. */
  storeWorks: boolean
  /** The first word of luod's command line. */
  argv0: string
}

/** LUO_UNSUPPORTED: nobody would have them. */
export function keeperOf({ version, unit, says, storeWorks, argv0 }: KeeperFacts): Keeper {
  const number = Number.parseInt(version, 10)
  const preserved = PRESERVED.has(says.FileDescriptorStorePreserve ?? '')
  if (number >= STORE_CROSSES && storeWorks && preserved) return 'manager'
  // Before there was a directive for it systemd went by the first character.
  if (says.SurviveFinalKillSignal === 'yes' || argv0.startsWith('@')) return 'luod'
  const where = unit === undefined ? 'luod is in no unit of a service' : `its unit is ${unit}`
  throw new LuoError(
    'LUO_UNSUPPORTED',
    `kexec: systemd ${version} would end luod before the kexec, and what it holds would be lost (${where}): take a unit ` +
      'of docs/systemd.md, or luoctl kexec --method direct',
  )
}

/** Asks the manager. EIO: it does not answer. */
export async function askKeeper(storeWorks: boolean): Promise<Keeper> {
  const unit = unitOf(readFileSync('/proc/self/cgroup', 'utf8'))
  const about = ['FileDescriptorStorePreserve', 'SurviveFinalKillSignal']
  const [manager, service] = await Promise.all([
    show(['Version']),
    unit === undefined ? { says: {} } : show(about, unit).then((says) => ({ says })),
  ])
  return keeperOf({ version: manager.Version ?? '', unit, ...service, storeWorks, argv0: process.argv0 })
}

/** The service that a process is in, of /proc/PID/cgroup; undefined when it is in none. */
export function unitOf(cgroups: string): string | undefined {
  const [, path = ''] = /^0::(.*)$/m.exec(cgroups) ?? /^\d+:name=systemd:(.*)$/m.exec(cgroups) ?? []
  return path.split('/').findLast((part) => part.endsWith('.service'))
}

function show(properties: readonly string[], unit?: string): Promise<Record<string, string>> {
  const args = ['show', ...properties.map((name) => `--property=${name}`), ...(unit === undefined ? [] : ['--', unit])]
  return new Promise((resolve, reject) => {
    execFile('systemctl', args, { timeout: SYSTEMCTL_MS, maxBuffer: MAX_OUTPUT }, (error, output, said) => {
      if (error) {
        const why = said.trim().split('\n').at(-1) || error.message
        return reject(new LuoError('EIO', `kexec: systemctl show: ${why}`, { cause: error }))
      }
      const pairs = output.split('\n').map((line) => line.split(/=(.*)/s, 2) as [string, string | undefined])
      resolve(Object.fromEntries(pairs.map(([name, value = '']) => [name, value])))
    })
  })
}
