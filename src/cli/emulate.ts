/**
 * `luoctl emulate -- COMMAND`: runs an unmodified program against an emulated /dev/liveupdate. This process stays in
 * the foreground and ends as the program does; the notifier (`emulate/main.ts`), its parent, stays for what the program
 * left behind. Also `luoctl kexec --emulated` and `luoctl machines`.
 */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { constants } from 'node:os'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { EmulationSettings, Report, TracedCall } from '../emulate/reports.js'
import { isLuoError, LuoError } from '../errors.js'
import { type Context, EXIT, reportError, withClient } from './context.js'
import { clean, table } from './format.js'
import { builtFile, connectOrStart } from './private-daemon.js'
import { findProgram } from './workload-process.js'

export interface EmulateRequest {
  machine: string
  command: readonly string[]
  handlers: 'kernel' | 'all' | undefined
  fail: readonly string[]
  trace: boolean
  everyOpen: boolean
}

/** Sent to this process alone, they are for the program. What a terminal sends reaches the program by itself. */
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const

export async function emulateCommand(context: Context, request: EmulateRequest): Promise<number> {
  const { machine, command, handlers, fail, trace, everyOpen } = request
  const [program = ''] = command
  let path: string
  try {
    path = findProgram(program, process.cwd())
  } catch (error) {
    const code = isLuoError(error) ? error.params.exitCode : undefined
    if (typeof code !== 'number') throw error
    reportError(error, context.json, context.err)
    return code
  }
  // The notifier connects by itself; a private luod must be there, and stay until it has.
  const client = await connectOrStart(context.socket, { answerMs: context.answerMs, quiet: true })
  const { socket } = context
  const settings: EmulationSettings = { socket, machine, handlers, fail, trace, everyOpen, path, argv: command }
  const notifier = spawn(process.execPath, [builtFile('emulate/main.js'), JSON.stringify(settings)], {
    stdio: ['inherit', 'inherit', 'inherit', 'pipe'],
  })
  let code: number | undefined
  let endedByMachine = false
  let pid: number | undefined
  const forward = (signal: NodeJS.Signals) => {
    if (pid !== undefined) process.kill(pid, signal)
  }
  for (const signal of FORWARDED) process.on(signal, forward)
  // They reach the program from the terminal; this process waits for what it makes of them.
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) process.on(signal, process.stdin.isTTY ? () => {} : forward)
  try {
    for await (const line of createInterface({ input: notifier.stdio[3] as Readable })) {
      const report = JSON.parse(line) as Report
      if ('pid' in report) pid = report.pid
      else if ('trace' in report) context.err(context.json ? JSON.stringify(report.trace) : traceLine(report.trace))
      else if ('endedByMachine' in report) endedByMachine = true
      else if ('warning' in report) context.err(`luoctl: ${report.warning}`)
      else if ('error' in report) throw new LuoError(report.code, `emulate ${program}: ${report.error}`)
      else {
        code = 'exit' in report ? report.exit : EXIT.SIGNAL_BASE + constants.signals[report.signal]
        break
      }
    }
  } finally {
    client.close()
    ;(notifier.stdio[3] as Readable).destroy()
    notifier.unref()
  }
  if (code === undefined) throw new LuoError('LUO_GONE', `emulate ${program}: its notifier was killed`)
  if (endedByMachine)
    context.err(`luoctl: machine ${clean(machine)} ended its programs, for a kexec or because it ends`)
  return code
}

function traceLine({ tid, text, result, microseconds }: TracedCall): string {
  return `[${tid}] ${clean(text)} = ${result ?? '?'} <${microseconds.toFixed(0)} us>`
}

export async function kexecCommand(context: Context, machine: string): Promise<number> {
  const { parameters } = await withClient(context, (client) =>
    client.call('KexecMachine', { id: randomUUID(), machine }),
  )
  const { live_update_number } = parameters
  context.out(
    context.json
      ? JSON.stringify({ machine, live_update_number })
      : `${clean(machine)}: kexec done, live update number ${live_update_number}`,
  )
  return EXIT.OK
}

export async function machinesCommand(context: Context): Promise<number> {
  const { machines } = await withClient(context, async (client) => (await client.call('Machines', {})).parameters)
  if (context.json) {
    context.out(JSON.stringify({ machines }))
    return EXIT.OK
  }
  const rows = machines.map(({ machine, uid, programs, holds_state, live_update_number }) => [
    clean(machine),
    String(uid),
    programs ? 'yes' : 'no',
    holds_state ? 'yes' : 'no',
    live_update_number,
  ])
  for (const line of table(['MACHINE', 'USER', 'PROGRAMS', 'HANDED OVER', 'LIVE UPDATES'], rows)) context.out(line)
  return EXIT.OK
}

export async function endMachineCommand(context: Context, machine: string): Promise<number> {
  await withClient(context, (client) => client.call('EndMachine', { id: randomUUID(), machine }))
  context.out(context.json ? JSON.stringify({ machine }) : `${clean(machine)}: ended`)
  return EXIT.OK
}
