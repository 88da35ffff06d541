/**
 * `luoctl kexec` and `kexec abort`: has luod start the loaded kernel with everything that workloads have preserved, and
 * prints each step. The kexec is luod's: Ctrl-C asks it to end it in order, as `kexec abort` from elsewhere does.
 */
import { randomUUID } from 'node:crypto'
import { isLuoError, LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import { type Context, connect, EXIT, withClient } from './context.js'
import { formatDuration } from './durations.js'
import { clean, formatBytes, phaseLine } from './format.js'

type Progress = Methods['Kexec']['output']
type Step = NonNullable<Progress['step']>

export interface KexecRequest {
  deadlineMs?: number | undefined
  dryRun: boolean
  how: 'direct' | 'systemd'
  /** Names of incoming sessions that may be lost. */
  drop: readonly string[]
}

const STEPS: Readonly<Record<Step, string>> = {
  asking: 'workloads let go',
  preserving: 'what they hold is preserved',
  preserved: 'preserved',
  stopping: 'workloads are stopped',
  rebooting: 'the next kernel is started',
  undone: 'undone: everybody goes on, nobody refused',
}

export async function kexecNextCommand(context: Context, request: KexecRequest): Promise<number> {
  let last: Step | undefined
  const abort = () => {
    context.err('luoctl: aborting the kexec')
    void abortKexec(context).catch((error: Error) => context.err(`luoctl: ${error.message}`))
  }
  process.on('SIGINT', abort)
  try {
    // Asked again by another luod, it would be another kexec.
    await withClient({ ...context, reconnectMs: 0 }, async (client) => {
      const { deadlineMs, dryRun, how, drop } = request
      const deadline = deadlineMs === undefined ? {} : { deadline_ms: deadlineMs }
      const input = { id: randomUUID(), ...deadline, dry_run: dryRun, how, drop: [...drop] }
      for await (const { parameters } of client.stream('Kexec', input)) {
        const { step } = parameters
        // The last answer is the last step once more.
        if (step !== undefined && step === last) continue
        last = step ?? last
        context.out(context.json ? JSON.stringify(parameters) : line(parameters))
        for (const warning of parameters.warnings ?? []) context.err(`luoctl: warning: ${clean(warning)}`)
      }
    })
  } catch (error) {
    // It ends with this kernel, and so does luod.
    const ending = last === 'rebooting' || (last === 'stopping' && request.how === 'systemd')
    if (!ending || !isLuoError(error, 'LUO_GONE')) throw error
  } finally {
    process.off('SIGINT', abort)
  }
  return EXIT.OK
}

export async function kexecAbortCommand(context: Context): Promise<number> {
  const kexec = await abortKexec(context)
  context.out(context.json ? JSON.stringify({ aborted: kexec }) : 'the kexec is aborted: everybody goes on')
  return EXIT.OK
}

async function abortKexec(context: Context): Promise<string> {
  const client = await connect(context.socket, context)
  try {
    return (await client.call('AbortKexec', { id: randomUUID() })).parameters.kexec
  } finally {
    client.close()
  }
}

function line({ step, at_ms: at = 0, workload = '', phase, sessions, files, bytes }: Progress): string {
  if (phase) return `${phaseLine(phase)}  ${clean(workload)}`
  if (step === undefined) throw new LuoError('LUO_PROTOCOL', 'kexec: luod said neither a step nor a phase')
  const what = sessions === undefined ? '' : `: ${sessions} sessions, ${files} files, ${formatBytes(Number(bytes))}`
  return `${formatDuration(at).padStart(10)}  ${STEPS[step]}${what}`
}
