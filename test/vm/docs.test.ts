/**
 * docs/kernel-update.md does what it says: an operator runs all of its commands in a virtual machine, over the kexec
 * that they do (inside/operator.ts), and what it says can refuse a kexec does. A command that was not run, and a row of
 * a table that nothing here is about, is a failure.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, test } from 'vitest'
import { blocksOf, sectionOf, tableOf } from '../markdown.js'
import { MACHINE_LIMIT_MS, possible, type Ran, runMachine } from './machine.js'

const pathOf = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url))
const DOCUMENT = readFileSync(pathOf('docs/kernel-update.md'), 'utf8')
const COMMANDS = blocksOf(DOCUMENT, 'sh').flatMap((block) => block.trimEnd().split('\n'))
const REFUSALS = '| code | why, and what to do |'

/** Of a run by its name: how it ends, and the codes and words that it says. */
type Proof = [ran: string, status: number, code: string, words?: RegExp]
/** For each row of a table that is about a refusal: what is seen of it, or why nothing can be here. */
type Proofs = Record<string, Proof[] | string>

const LOADING: Proofs = {
  EPERM: [
    ['load as a user', 1, 'EPERM', /CAP_SYS_BOOT/],
    ['load where it is disabled', 1, 'EPERM', /kernel\.kexec_load_disabled is 1/],
    // Lockdown: the kernel of the tests is built without that security module.
  ],
  ENOEXEC: [['load a text', 1, 'ENOEXEC']],
  EINVAL: [['load a long line', 1, 'EINVAL', /2048 bytes, and 2047 fit/]],
  'ENOMEM, EADDRNOTAVAIL': [
    ['load more than there is', 1, 'ENOMEM'],
    ['load more than the scratch memory', 1, 'EADDRNOTAVAIL', /kho_scratch=/],
  ],
  'EKEYREJECTED, ENOKEY, ENODATA':
    'the kernel of the tests is built without CONFIG_KEXEC_SIG, and looks at no signature',
  EBUSY: [['load beside another', 1, 'EBUSY']],
  ENOSYS: 'the kernel of the tests is built with CONFIG_KEXEC_FILE: without it there would be no test',
}

const STARTING: Proofs = {
  LUO_NOT_FOUND: [
    ['kexec with nothing loaded', 1, 'LUO_NOT_FOUND'],
    ['dry run with nothing loaded', 0, '', /warning: kexec: no kernel is loaded/],
  ],
  LUO_UNSUPPORTED: [['kexec without the device', 1, 'LUO_UNSUPPORTED']],
  EPERM: [
    ['kexec as a user', 1, 'EPERM', /root may/],
    ['kexec of a luod that may not reboot', 1, 'EPERM', /luod may not reboot/],
  ],
  LUO_UPDATING: [
    ['kexec beside another', 1, 'LUO_UPDATING', /one is under way/],
    ['kexec beside an update', 1, 'LUO_UPDATING', /an update of the workload store/],
  ],
  EBUSY: [
    ['kexec that loses a session', 1, 'EBUSY', /luoctl kexec --drop guest/],
    ['kexec that may lose a session', 0, ''],
  ],
  LUO_REFUSED: [['kexec while a workload refuses', 3, 'LUO_REFUSED', /a backup is running/]],
  LUO_DEADLINE: [['kexec with a short deadline', 3, 'LUO_DEADLINE']],
  LUO_ABORTED: [
    ['kexec that is aborted', 3, 'LUO_ABORTED'],
    ['kexec that gets Ctrl-C', 130, 'LUO_ABORTED'],
    // That another luod takes this one's place is seen in test/daemon.
  ],
}

describe.runIf(possible)('docs/kernel-update.md', () => {
  let before: Ran
  let after: Ran
  let runs: Record<string, unknown>[]

  /** What a command said, and how it ended, in one text. */
  const seen = (name: string) => {
    const { status, out, err } = runs.find(({ ran }) => ran === name) ?? { status: `${name} was not run` }
    return { status, text: `${out}${err}` }
  }

  beforeAll(async () => {
    const folder = mkdtempSync(join(tmpdir(), 'luo-vm-'))
    try {
      const handbook = join(folder, 'handbook.json')
      const [snippet] = blocksOf(DOCUMENT, 'js')
      writeFileSync(handbook, JSON.stringify({ commands: COMMANDS, snippet, library: pathOf('dist/client/index.js') }))
      const programs = [pathOf('dist/daemon/main.js'), pathOf('dist/cli/main.js')]
      const boot = (stage: string) => ({ script: 'operator', args: [stage, ...programs] })
      const ran = (await runMachine({
        boots: [boot('before'), boot('after')],
        files: [handbook],
      })) as [[Ran], [Ran]]
      ;[[before], [after]] = ran
      runs = [...before.json, ...after.json]
    } finally {
      rmSync(folder, { recursive: true })
    }
  }, MACHINE_LIMIT_MS)

  test('an operator has run all of its commands, and each has ended well', () => {
    expect(COMMANDS.length).toBeGreaterThan(0)
    const [kexec] = runs.filter(({ guest }) => guest)
    for (const command of COMMANDS)
      if (command !== kexec?.ran) expect(seen(command), command).toMatchObject({ status: 0 })
    // This one has ended with its kernel.
    expect(COMMANDS).toContain(kexec?.ran)
    expect(before.output).toMatch(
      /workloads let go[\s\S]*preserved: 2 sessions, 3 files[\s\S]*the next kernel is started/,
    )
  })

  test('what it names elsewhere is one of these', () => {
    const inline = [...DOCUMENT.matchAll(/`(luoctl [^`]+)`/g)].map(([, command = '']) => command)
    expect(inline.filter((command) => !COMMANDS.some((run) => run.startsWith(command)))).toEqual([])
    expect(blocksOf(DOCUMENT, 'js')).toHaveLength(1)
  })

  test('the workload finds its memory under the next kernel, and the history has the time of each part', () => {
    expect(after.json).toContainEqual({ found: 'crash 42', guest: 'guest' })
    expect(seen('luoctl history').text).toMatch(/kexec .*letGo .*, preserve .*, stop .*, reboot .*, boot .*, luod /)
    expect(seen('luoctl history').text).toMatch(/kexecOver /)
    expect(seen('luoctl sessions').text).toMatch(/^\d+ +forgotten .*orphaned/m)
    expect(seen('luoctl sessions --kernel').text).toMatch(/^guest +incoming /m)
    expect(seen('luoctl release NAME').text).toBe('forgotten: 1 file released\n')
  })

  test.each([
    ['### What can refuse it', LOADING],
    ['### What can refuse the kexec', STARTING],
  ])('every row under "%s" is seen, or it is said why not', (heading, proofs) => {
    const rows = tableOf(sectionOf(DOCUMENT, heading), REFUSALS).map(([code]) => code)
    expect(rows).toEqual(Object.keys(proofs))
    for (const proof of Object.values(proofs)) {
      if (typeof proof === 'string') continue
      for (const [name, status, code, words = /(?:)/] of proof) {
        const { text, ...end } = seen(name)
        expect(end, `${name}: ${text}`).toEqual({ status })
        expect(text, name).toContain(code)
        expect(text, name).toMatch(words)
      }
    }
  })

  test('checks, warnings, steps and exit codes are those of its tables', () => {
    const column = (head: string) => tableOf(DOCUMENT, head).map(([cell = '']) => cell)
    for (const check of column('| check | what it looks at | when it is not ok |')) {
      expect(seen('luoctl doctor').text).toMatch(new RegExp(`^\\w+ +${check} `, 'm'))
    }
    const { warnings } = JSON.parse(seen('load a poor line').text) as { warnings: { code: string }[] }
    expect(warnings.map(({ code }) => code)).toEqual(column('| code | what would happen at the kexec |'))
    const said = seen('kexec that may lose a session').text.trimEnd().split('\n')
    const steps = said.flatMap((line) => (JSON.parse(line) as { step?: string }).step ?? [])
    const done = column('| step | what happens | to undo it |')
    expect([...steps, 'stopping', 'rebooting']).toEqual([...done.slice(0, 3), 'undone', ...done.slice(3)])
    const codes = [LOADING, STARTING].flatMap((proofs) => Object.values(proofs)).flat()
    const ends = new Set(codes.flatMap((proof) => (typeof proof === 'string' ? [] : proof[1])))
    // That luod cannot be reached, or ends in the middle of it, is seen in src/cli/kexec.test.ts.
    ends.add(4)
    expect(column('| exit code | what has happened |').map(Number).sort()).toEqual([...ends].sort())
  })
})
