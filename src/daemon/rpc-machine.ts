/**
 * What is asked of emulated machines: by the notifiers of their programs, and by whoever does a kexec. Each user sees
 * their own machines, and root sees all; only whoever made one uses it.
 */
import { LuoError } from '../errors.js'
import type { HandlerContext } from '../handlers/context.js'
import type { HeldFile } from '../handlers/held-file.js'
import { kernelMemfdHandler } from '../handlers/kernel-memfd.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import type { Fd } from '../sys/fd.js'
import { killProcess, openPidfd } from '../sys/pidfd.js'
import { madeHere } from '../sys/unix.js'
import type { Handlers } from '../wire/server.js'
import type { Answers } from './answers.js'
import { type Faults, parseFaults } from './failing-handlers.js'
import { checkText, checkWorkloadName, LIMITS } from './limits.js'
import type { Logger } from './log.js'
import type { Machine, MachineHandlers, MachineOptions } from './machine.js'
import type { Notifier } from './machine-channels.js'
import type { Machines } from './machines.js'
import type { Usage } from './usage.js'

type MachineMethods = 'Emulate' | 'KexecMachine' | 'Machines' | 'EndMachine'

export function machineHandlers(
  machines: Machines,
  answers: Answers,
  usage: Usage,
  log: Logger,
): Pick<Handlers, MachineMethods> {
  return {
    Emulate: ({ input, peer, more, reply }) => {
      checkText('id', input.id, LIMITS.id_bytes)
      checkWorkloadName(input.machine, 'machine')
      if (!more) throw new LuoError('LUO_INVALID_PARAMETER', 'emulate: ask for more than one reply (more: true)')
      const faults = parseFaults(input.fail ?? [])
      const about = { uid: peer.uid, name: input.machine, handlers: input.handlers ?? 'kernel' }
      const machine = input.again
        ? machines.get(peer.uid, input.machine)
        : machines.ensure(peer.uid, input.machine, machineOptions(about, usage, log))
      if (input.handlers && input.handlers !== machine.handlers) {
        const message = `emulate: machine ${input.machine} has the handlers ${machine.handlers}; end it, or use another`
        throw new LuoError('LUO_WRONG_STATE', message)
      }
      let pidfd: Fd
      try {
        pidfd = peer.pidfd() ?? openPidfd(peer.pid)
      } catch (error) {
        machines.endIdle(machine)
        throw error
      }
      const notifier: Notifier = {
        id: input.id,
        pid: peer.pid,
        endPrograms: () => void reply({ event: 'endPrograms' }),
        kill: () => void killProcess(pidfd),
      }
      return new Promise((resolve, reject) => {
        try {
          if (input.again) machine.returns(notifier)
          using channel = input.again ? undefined : machine.attach(notifier)
          if (channel && faults.length > 0) machine.faults.set(faults)
          peer.onDisconnect(() => {
            machine.detach(notifier)
            pidfd.close()
            resolve({ output: { event: 'endPrograms' } })
          })
          if (channel) reply({ event: 'attached', fds: 1, channel_fd: 0 }, [channel])
          else reply({ event: 'attached' })
        } catch (error) {
          machine.detach(notifier)
          machines.endIdle(machine)
          pidfd.close()
          reject(error)
        }
      })
    },

    KexecMachine: ({ input, peer }) =>
      answers
        .once(peer.uid, 'KexecMachine', input, async () => {
          const machine = machines.get(peer.uid, input.machine)
          await machine.kexec().ended
          return { live_update_number: String(machine.liveupdateNumber) }
        })
        .then((output) => ({ output })),

    Machines: ({ peer }) => ({ output: { machines: machines.list(peer.uid).map(describe) } }),

    EndMachine: ({ input, peer }) =>
      answers
        .once(peer.uid, 'EndMachine', input, async () => {
          const machine = machines.get(peer.uid, input.machine)
          await machine.endPrograms()
          machines.end(machine)
          return {}
        })
        .then((output) => ({ output })),
  }
}

/** What a machine needs of luod. */
export function machineOptions(
  { uid, name, handlers }: { uid: number; name: string; handlers: MachineHandlers },
  usage: Usage,
  log: Logger,
): MachineOptions {
  return {
    handlers,
    register,
    onDefect: (error, action) => log('error', `machine ${name}: ${action}: ${String(error)}`),
    checkFiles: () => usage.check(uid, 'files', 1, `hold a file of machine ${name}`),
    changeFiles: (by) => usage.change(uid, 'files', by),
  }
}

/** For a device or a session, of any machine: it would wait for its own end. */
const stands = ({ fd, info }: HeldFile) => info.kind === 'unix' && madeHere(fd)

function register(context: HandlerContext, handlers: MachineHandlers, faults: Faults): void {
  context.registry.register(faults.wrap(kernelMemfdHandler(context)))
  if (handlers === 'all') registerReferenceHandlers(context, { isOwn: stands })
}

function describe(machine: Machine) {
  const { name, uid, notifiers, holdsState, liveupdateNumber } = machine
  return {
    machine: name,
    uid,
    programs: notifiers > 0,
    holds_state: holdsState,
    live_update_number: String(liveupdateNumber),
  }
}
