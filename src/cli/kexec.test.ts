import { describe, expect, test } from 'vitest'
import { codeOf, rejectionOf } from '../../test/code-of.js'
import { fakeLuod } from '../../test/fake-luod.js'
import { LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import type { Handlers } from '../wire/server.js'
import { EXIT } from './context.js'
import { historyLines } from './history.js'
import { kernelSessionsCommand } from './kernel-sessions.js'
import { type KexecRequest, kexecAbortCommand, kexecNextCommand } from './kexec.js'

type Progress = Omit<Methods['Kexec']['output'], 'kexec'>

const REQUEST: KexecRequest = { deadlineMs: undefined, dryRun: false, how: 'direct', drop: [] }
const ASKING: Progress = { step: 'asking', at_ms: 0.5 }
const FROZEN: Progress = { workload: 'web', update: 'u', phase: { phase: 'restoring', at_ms: 3, who: 7 } }
const PRESERVED: Progress = { step: 'preserved', at_ms: 9, sessions: 1, files: 2, bytes: '1024' }
const REBOOTING: Progress = { step: 'rebooting', at_ms: 12, warnings: ['/ stays writable (EBUSY)'] }

/** A luod that says these, and then what `end` does. */
function kexec(said: readonly Progress[], end: (call: Parameters<Handlers['Kexec']>[0]) => Promise<never> | undefined) {
  const asked: Methods['Kexec']['input'][] = []
  const handler: Handlers['Kexec'] = (call) => {
    asked.push(call.input)
    const last = said.at(-1)
    for (const progress of said) call.reply({ kexec: 'k', ...progress })
    return end(call) ?? { output: { kexec: 'k', ...last } }
  }
  return { asked, handler }
}

async function run(
  handlers: Partial<Handlers>,
  {
    json = false,
    loaded = true,
    uid = 0,
    onLine = () => {},
    ...request
  }: Partial<KexecRequest> & {
    json?: boolean
    loaded?: boolean
    uid?: number
    onLine?: (line: string) => unknown
  } = {},
) {
  using luod = fakeLuod(handlers)
  const out: string[] = []
  const err: string[] = []
  const context = {
    json,
    socket: luod.socket,
    out: (line: string) => {
      out.push(line)
      onLine(line)
    },
    err: (line: string) => void err.push(line),
  }
  const code = await kexecNextCommand(context, { ...REQUEST, ...request }, { isLoaded: () => loaded, uid })
  return { code, out, err }
}

const done = () => undefined
const fails = (code: LuoError['code']) => () => Promise.reject(new LuoError(code, 'web refused: busy'))
/** The connection ends without an answer. */
const ends = ({ peer }: { peer: { disconnect(): void } }) => {
  setImmediate(() => peer.disconnect())
  return new Promise<never>(() => {})
}

describe('luoctl kexec', () => {
  test('without a loaded kernel luod is not asked, but for a dry run, with a warning', async () => {
    const { asked, handler } = kexec([ASKING, { step: 'undone', at_ms: 4 }], done)
    expect(await rejectionOf(run({ Kexec: handler }, { loaded: false }))).toBe('LUO_NOT_FOUND')
    expect(asked).toEqual([])
    const dry = await run({ Kexec: handler }, { loaded: false, dryRun: true })
    expect(dry.code).toBe(EXIT.OK)
    expect(dry.err[0]).toContain('luoctl kexec load')
  })

  test('is for root, whatever is loaded', async () => {
    for (const loaded of [true, false]) expect(await rejectionOf(run({}, { loaded, uid: 7 }))).toBe('EPERM')
  })

  test('passes on what was asked for, and says each step once', async () => {
    const { asked, handler } = kexec([ASKING, FROZEN, PRESERVED, REBOOTING], done)
    const { code, out, err } = await run({ Kexec: handler }, { deadlineMs: 30_000, how: 'direct', drop: ['vm'] })
    expect(code).toBe(EXIT.OK)
    expect(asked[0]).toMatchObject({ deadline_ms: 30_000, dry_run: false, how: 'direct', drop: ['vm'] })
    expect(out.map((line) => line.trim().split(/ {2,}/).at(-1))).toEqual([
      'workloads let go',
      'web',
      'preserved: 1 sessions, 2 files, 1 KiB',
      'the next kernel is started',
    ])
    expect(err).toEqual(['luoctl: warning: / stays writable (EBUSY)'])
  })

  test('with --json each is one object a line, as luod says it', async () => {
    const { out } = await run({ Kexec: kexec([ASKING, FROZEN, REBOOTING], done).handler }, { json: true })
    expect(out.map((line) => JSON.parse(line))).toEqual(
      [ASKING, FROZEN, REBOOTING].map((progress) => ({ kexec: 'k', ...progress })),
    )
  })

  test('a refusal is an outcome once it has begun, and an error before', async () => {
    const late = await run({ Kexec: kexec([ASKING], fails('LUO_REFUSED')).handler })
    expect([late.code, late.err[0]]).toEqual([EXIT.NOT_UPDATED, expect.stringContaining('web refused: busy')])
    // What luod takes for a wrong parameter in the middle of it is no wrong usage.
    expect((await run({ Kexec: kexec([ASKING], fails('LUO_INVALID_PARAMETER')).handler })).code).toBe(EXIT.NOT_UPDATED)
    expect(await rejectionOf(run({ Kexec: kexec([], fails('LUO_UPDATING')).handler }))).toBe('LUO_UPDATING')
    // A workload has ended, and not luod.
    expect((await run({ Kexec: kexec([ASKING], fails('LUO_GONE')).handler })).code).toBe(EXIT.NOT_UPDATED)
  })

  test('the end of the connection is what was wanted once it is rebooting, and a failure before', async () => {
    expect((await run({ Kexec: kexec([ASKING, REBOOTING], ends).handler })).code).toBe(EXIT.OK)
    expect(await rejectionOf(run({ Kexec: kexec([ASKING, PRESERVED], ends).handler }))).toBe('LUO_NO_DAEMON')
    const stopping: Progress = { step: 'stopping', at_ms: 10 }
    expect(await rejectionOf(run({ Kexec: kexec([ASKING, stopping], ends).handler }))).toBe('LUO_NO_DAEMON')
    // The service manager stops luod too.
    expect((await run({ Kexec: kexec([ASKING, stopping], ends).handler }, { how: 'systemd' })).code).toBe(EXIT.OK)
  })

  test.each([
    ['that has begun', [ASKING]],
    ['of which nothing is heard yet', []],
  ])('Ctrl-C undoes one %s', async (_, heard) => {
    let undo: (error: LuoError) => void = () => {}
    const interrupted = () => {
      setImmediate(() => process.emit('SIGINT'))
      return new Promise<never>((_, reject) => {
        undo = reject
      })
    }
    const { code, err } = await run({
      // From the beginning of the answer on luoctl listens.
      Kexec: kexec(heard, interrupted).handler,
      AbortKexec: () => {
        undo(new LuoError('LUO_ABORTED', 'kexec: aborted'))
        return { output: { kexec: 'k' } }
      },
    })
    expect(code).toBe(EXIT.INTERRUPTED)
    expect(err[0]).toBe('luoctl: aborting the kexec')
    expect(process.listenerCount('SIGINT')).toBe(0)
  })

  test('Ctrl-C ends luoctl as any program as long as luod is not asked', async () => {
    const listeners: number[] = []
    using luod = fakeLuod({
      Status: () => {
        listeners.push(process.listenerCount('SIGINT'))
        return new Promise(() => {})
      },
    })
    const context = { json: false, socket: luod.socket, answerMs: 20, out: () => {}, err: () => {} }
    const asked = kexecNextCommand(context, REQUEST, { isLoaded: () => true, uid: 0 })
    expect(await rejectionOf(asked)).toBe('LUO_NO_DAEMON')
    expect(listeners).toEqual([0])
  })

  test('Ctrl-C at the reboot call is too late, and luod is not asked', async () => {
    const onLine = (line: string) => line.includes('next kernel') && process.emit('SIGINT')
    const { code, err } = await run({ Kexec: kexec([ASKING, REBOOTING], done).handler }, { onLine })
    expect(code).toBe(EXIT.OK)
    expect(err[0]).toContain('too late')
  })

  test('abort says what was aborted', async () => {
    using luod = fakeLuod({ AbortKexec: () => ({ output: { kexec: 'k' } }) })
    const out: string[] = []
    const context = { json: false, socket: luod.socket, out: (line: string) => void out.push(line), err: () => {} }
    expect(await kexecAbortCommand(context)).toBe(EXIT.OK)
    expect(out).toEqual(['the kexec is aborted: everybody goes on'])
  })
})

test('the sessions of the kernel are listed, and that some may be missing is said', async () => {
  const sessions = [{ name: 'vm\u001b', direction: 'incoming' as const, pid: 7, command: 'qemu' }]
  using luod = fakeLuod({ KernelSessions: () => ({ output: { sessions, complete: false } }) })
  const out: string[] = []
  const err: string[] = []
  const socket = luod.socket
  await kernelSessionsCommand({ json: false, socket, out: (line) => out.push(line), err: (line) => err.push(line) })
  expect(out).toEqual(['SESSION  DIRECTION  PID  COMMAND', 'vm?      incoming   7    qemu'])
  expect(err).toHaveLength(1)
})

test('the history has the parts of a kexec in their order', () => {
  const spans = { letGo: 2.5, boot: 1_500, luod: 120 }
  const event = { event: 'kexec', at: '2026-01-01T00:00:00.000Z', uid: 0, detail: 'by the wall clock', spans }
  const [, line] = historyLines([event], 0, true)
  expect(line).toMatch(/letGo .*2\.5.*, boot 1\.5.*, luod 120.*; by the wall clock$/)
})

test('a kexec of this machine and one of an emulated machine do not mix', async () => {
  const { Command } = await import('commander')
  const { addKexec } = await import('./kexec-options.js')
  const parse = (...args: string[]) => {
    const chosen: unknown[] = []
    const program = new Command('kexec').exitOverride()
    addKexec(program, 'default', (action) => chosen.push(action))
    const code = codeOf(() => program.parse(args, { from: 'user' }))
    return code ?? chosen.length
  }
  expect(parse('--dry-run', '--drop', 'a', '--drop', 'b', '--method', 'systemd', '--deadline', '30s')).toBe(1)
  expect(parse('--emulated', '--machine', 'm')).toBe(1)
  expect(parse('abort')).toBe(1)
  expect(parse('--emulated', '--dry-run')).toBe('LUO_INVALID_PARAMETER')
  expect(parse('--machine', 'm')).toBe('LUO_INVALID_PARAMETER')
  expect(parse('--method', 'firmware')).toBe('LUO_INVALID_PARAMETER')
})
