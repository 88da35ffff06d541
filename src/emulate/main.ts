/**
 * The notifier's process: parent of the program and subreaper of all that it starts, so that it may read their memory.
 * It lives until the last of them has ended, longer than `luoctl emulate` in the foreground, which is told on
 * descriptor 3 how the program ended (`reports.ts`). When this process is killed, intercepted calls of its programs get
 * ENOSYS.
 */
import { spawn } from 'node:child_process'
import { closeSync, openSync, writeSync } from 'node:fs'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import { asLuoError, LuoError } from '../errors.js'
import type { Methods } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { libc } from '../sys/ffi.js'
import { Poller } from '../sys/poller.js'
import { descendants, reapOthers } from '../sys/process.js'
import { receive, socketPair } from '../sys/unix.js'
import { ReconnectingClient } from '../wire/reconnecting.js'
import { MachineChannel } from './channel.js'
import { emulationFilter } from './filter.js'
import { Notifier } from './notifier.js'
import type { EmulationSettings, Report } from './reports.js'

const REPORT = 3
const PR_SET_CHILD_SUBREAPER = 36
/** Between two looks for what has not ended yet. */
const END_RETRY_MS = 20

function report(value: Report): void {
  try {
    writeSync(REPORT, `${JSON.stringify(value)}\n`)
  } catch {
    // The foreground has gone; the programs go on.
  }
}

async function main(): Promise<void> {
  const request = JSON.parse(process.argv[2] ?? '{}') as EmulationSettings
  // The terminal's signals are for the program.
  for (const signal of ['SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGTERM', 'SIGTSTP', 'SIGTTOU', 'SIGTTIN'] as const) {
    process.on(signal, () => {})
  }
  libc('prctl', PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
  const client = await ReconnectingClient.connect(request.socket)
  const input: Methods['Emulate']['input'] = {
    id: `emulate-${process.pid}-${Date.now()}`,
    machine: request.machine,
    ...(request.handlers ? { handlers: request.handlers } : {}),
    ...(request.fail.length > 0 ? { fail: [...request.fail] } : {}),
  }
  // A luod that goes on for the one before knows us, and our channel has never ended.
  const events = client.stream('Emulate', input, () => {
    input.again = true
  })
  const first = await events.next()
  const [channel] = first.done ? [] : first.value.fds
  if (!channel) throw new LuoError('LUO_GONE', `join machine ${request.machine}: luod ended the connection`)
  const programs = launch(request, new MachineChannel(channel))
  // luod's end is no end of the programs: unless another one goes on for it, their calls get ENODEV from here on.
  void (async () => {
    for await (const { parameters } of events) if (parameters.event === 'endPrograms') programs.end()
  })().catch(() => {})
  await programs.ended
  client.close()
}

interface Programs {
  ended: Promise<void>
  end(): void
}

function launch({ path, argv, trace, everyOpen }: EmulationSettings, channel: MachineChannel): Programs {
  const [ours, theirs] = socketPair()
  const filter = Buffer.from(emulationFilter({ everyOpen })).toString('base64')
  const launcher = fileURLToPath(new URL('./launcher.js', import.meta.url))
  const child = spawn(process.execPath, [launcher, filter, path, ...argv], {
    stdio: ['inherit', 'inherit', 'inherit', theirs.number],
  })
  theirs.close()
  // From here on they are the program's alone: who reads what it writes must see its end.
  const nothing = openSync('/dev/null', 'r+')
  for (const number of [0, 1, 2]) libc('dup2', nothing, number)
  closeSync(nothing)
  if (child.pid !== undefined) report({ pid: child.pid })
  const childEnded = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      report({ error: error.message, code: 'LUO_SPAWN' })
      resolve()
    })
    child.once('exit', (code, signal) => {
      report(signal ? { signal } : { exit: code ?? 1 })
      resolve()
    })
  })
  let ending = false
  let resolveEnded = () => {}
  const ended = new Promise<void>((resolve) => {
    resolveEnded = resolve
  })
  Poller.shared().ref()
  const watch = Poller.shared().add(ours, { read: true, write: false }, () => {
    const got = receive(ours)
    if (!got) return
    watch.close()
    ours.close()
    const [listener] = got.fds
    if (listener) follow(listener)
    else void childEnded.then(resolveEnded)
  })
  const follow = (listener: Fd) => {
    const notifier = new Notifier(listener, channel, {
      ...(trace ? { onTrace: (call) => report({ trace: call }) } : {}),
      onForeign: (tid) => {
        report({
          warning: `thread ${tid} made a system call of another ABI (i386, x32), which is not emulated: killed`,
        })
        process.kill(tid, 'SIGKILL')
      },
    })
    const calls = Poller.shared().add(listener, { read: true, write: false }, ({ readable, hangup }) => {
      if (readable) {
        // While it looks for calls itself, what the poller has to say is others' alone.
        calls.update({ read: false, write: false })
        try {
          notifier.serve()
        } finally {
          calls.update({ read: true, write: false })
        }
        return
      }
      if (!hangup) return
      // No process is left that has the filter.
      calls.close()
      listener.close()
      channel.close()
      Poller.shared().unref()
      void childEnded.then(resolveEnded)
    })
  }
  process.on('SIGCHLD', () => reapOthers((pid) => pid === child.pid))
  const end = () => {
    if (!ending) report({ endedByMachine: true })
    ending = true
    const left = descendants(process.pid)
    for (const pid of left) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // It has ended.
      }
    }
    if (left.length > 0) setTimeout(end, END_RETRY_MS).unref()
  }
  return { ended, end }
}

main().then(
  () => process.exit(0),
  (error) => {
    const { message, code } = asLuoError(error, 'EIO', 'emulate')
    report({ error: message, code })
    process.exit(constants.signals.SIGTERM)
  },
)
