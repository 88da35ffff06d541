/**
 * `luoctl kexec` and `kexec abort`: has luod start the loaded kernel with everything that workloads have preserved, and
 * prints each step. The kexec is luod's: Ctrl-C asks it to end it in order, as `kexec abort` from elsewhere does.
 * Whatever ends it once it has begun, everybody goes on, and the exit code is that of an update that did not commit.
 */
import { randomUUID } from 'node:crypto'
import { isLuoError, LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import { isKernelLoaded } from '../sys/kexec.js'
import { atMost, type Context, EXIT, reportError, withClient } from './context.js'
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

/** Of all workloads; no luod has as many as it takes. */
const MAX_REPLIES = 1_000_000

const STEPS: Readonly<Record<Step, string>> = {
  asking: 'workloads let go',
  preserving: 'what they hold is preserved',
  preserved: 'preserved',
  stopping: 'workloads are stopped',
  rebooting: 'the next kernel is started',
  undone: 'undone: everybody goes on, nobody refused',
}

/** `isLoaded`: whether there is a kernel to start. `uid`: who asks. */
export async function kexecNextCommand(
  context: Context,
  request: KexecRequest,
  { isLoaded = isKernelLoaded, uid = process.geteuid?.() } = {},
): Promise<number> {
  // Nobody else has a luod that could do it, and nobody else can load a kernel.
  if (uid !== 0) throw new LuoError('EPERM', `kexec: uid ${uid} may not, root may`)
  if (!isLoaded()) {
    const message = 'kexec: no kernel is loaded; load one (luoctl kexec load)'
    if (!request.dryRun) throw new LuoError('LUO_NOT_FOUND', message)
    context.err(`luoctl: warning: ${message}`)
  }
  let last: Step | undefined
  const interrupt = new Interrupt(context, () => last === 'rebooting')
  try {
    await follow(context, request, interrupt, (progress) => {
      const { step } = progress
      // The last answer is the last step once more.
      if (step !== undefined && step === last) return
      last = step ?? last
      context.out(context.json ? JSON.stringify(progress) : line(progress))
      for (const warning of progress.warnings ?? []) context.err(`luoctl: warning: ${clean(warning)}`)
    })
  } catch (error) {
    const gone = isLuoError(error, 'LUO_NO_DAEMON')
    // It ends with this kernel, and so does luod.
    if (gone && (last === 'rebooting' || (last === 'stopping' && request.how === 'systemd'))) return EXIT.OK
    // It has not begun, and nobody has undone it; or nobody says how it went.
    if (gone || (last === undefined && !interrupt.aborted)) throw error
    reportError(error, context.json, context.err)
    return interrupt.aborted ? EXIT.INTERRUPTED : EXIT.NOT_UPDATED
  } finally {
    interrupt.close()
  }
  return EXIT.OK
}

async function follow(
  context: Context,
  { deadlineMs, dryRun, how, drop }: KexecRequest,
  interrupt: Interrupt,
  onProgress: (progress: Progress) => void,
): Promise<void> {
  const input = { id: randomUUID(), deadline_ms: deadlineMs, dry_run: dryRun, how, drop: [...drop] }
  // Asked again by another luod, it would be another kexec.
  await withClient({ ...context, reconnectMs: 0 }, async (client) => {
    interrupt.listen()
    const replies = client.stream('Kexec', input)
    for await (const { parameters } of atMost(MAX_REPLIES, replies, 'kexec')) onProgress(parameters)
  })
}

/** The first Ctrl-C undoes the kexec; a second one ends luoctl, and so does one before luod is asked. */
class Interrupt {
  aborted = false
  readonly #listener: () => void

  constructor(context: Context, tooLate: () => boolean) {
    this.#listener = () => {
      if (tooLate()) return context.err('luoctl: too late: the next kernel is started')
      this.aborted = true
      context.err('luoctl: aborting the kexec')
      abortKexec(context).catch((error: Error) => {
        this.aborted = false
        reportError(error, context.json, context.err)
      })
    }
  }

  listen(): void {
    process.once('SIGINT', this.#listener)
  }

  close(): void {
    process.off('SIGINT', this.#listener)
  }
}

export async function kexecAbortCommand(context: Context): Promise<number> {
  const kexec = await abortKexec(context)
  context.out(context.json ? JSON.stringify({ aborted: kexec }) : 'the kexec is aborted: everybody goes on')
  return EXIT.OK
}

function abortKexec(context: Context): Promise<string> {
  return withClient(context, async (client) => (await client.call('AbortKexec', { id: randomUUID() })).parameters.kexec)
}

function line({ step, at_ms: at = 0, workload = '', phase, sessions, files, bytes }: Progress): string {
  if (phase) return `${phaseLine(phase)}  ${clean(workload)}`
  if (step === undefined) throw new LuoError('LUO_PROTOCOL', 'kexec: luod said neither a step nor a phase')
  const what = sessions === undefined ? '' : `: ${sessions} sessions, ${files} files, ${formatBytes(Number(bytes))}`
  // One of a later luod is called as it calls it.
  return `${formatDuration(at).padStart(10)}  ${Object.hasOwn(STEPS, step) ? STEPS[step] : step}${what}`
}
