/** What `luoctl run` asks of luod: it keeps a workload's processes, and starts successors when told to. */
import { isLuoError, LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { isEnding, killProcess, openPidfd, pidfdOwner } from '../sys/pidfd.js'
import { Poller, type Registration } from '../sys/poller.js'
import type { Handlers } from '../wire/server.js'
import type { Answers } from './answers.js'
import { checkAfter, checkNumber, checkText, checkWorkloadName, LIMITS, RECONNECT_MS } from './limits.js'
import type { State } from './state.js'
import { step } from './steps.js'
import type { SupervisorLink } from './workload.js'

/** Of a luod before this one, which would still be waited for, but that it has ended. */
function isGone({ awaySinceMs, pid }: SupervisorLink): boolean {
  if (awaySinceMs === undefined) return false
  try {
    using process = openPidfd(pid)
    return isEnding(process)
  } catch (error) {
    return isLuoError(error, 'ESRCH')
  }
}

export function supervisorHandlers(
  state: State,
  answers: Answers,
): Pick<Handlers, 'Supervise' | 'Spawned' | 'SpawnFailed'> {
  return {
    Supervise: ({ input, peer, more, reply }) => {
      checkWorkloadName(input.workload)
      checkText('id', input.id, LIMITS.id_bytes)
      const keepMs = checkNumber('keep_ms', input.keep_ms ?? 0, 0, LIMITS.keep_ms)
      if (!more) throw new LuoError('LUO_INVALID_PARAMETER', 'supervise: ask for more than one reply (more: true)')
      const after = checkAfter(input.after ?? [])
      state.checkAfter(peer.uid, input.workload, after)
      const workload = state.ensure(peer.uid, input.workload)
      const { supervisor: before } = workload
      // The same one, that has lost its connection, may come back before the end of that is seen.
      if (before && before.id !== input.id && !isGone(before)) {
        const { pid } = before
        throw new LuoError('LUO_WORKLOAD_ACTIVE', `supervise ${workload.name}: pid ${pid} supervises it already`)
      }
      if (input.keep_ms !== undefined) workload.keepMs = keepMs
      const link: SupervisorLink = { id: input.id, pid: peer.pid, after, tell: (event, fds) => reply(event, fds) }
      workload.supervisor = link
      before?.stopWaiting?.()
      state.recordWorkload(workload)
      return new Promise((resolve) => {
        const gone = () => {
          if (workload.supervisor !== link) return
          workload.supervisor = undefined
          const reason = `the supervisor (pid ${peer.pid}) ended`
          workload.update?.event('supervisorGone', { who: peer.pid, code: 'LUO_NO_SUPERVISOR', reason })
          state.endIfUnused(workload)
        }
        peer.onDisconnect(() => {
          // One that another has replaced holds nothing: a client may come and go as often as it likes.
          if (workload.supervisor === link) link.stopWaiting = whenGone(peer.pid, () => state.turnstile.run(gone))
          resolve({ output: { event: 'ended' } })
        })
        const { update } = workload
        state.commit()
        step('takeover.supervisor')
        reply({ event: 'supervising', ...(update && !update.isClaim ? { update: update.id } : {}) })
        update?.startAgain()
      })
    },

    Spawned: ({ input, peer, fds }) =>
      answers
        .once(peer.uid, 'Spawned', input, () => {
          const pidfd = fds.shift()
          if (!pidfd) throw new LuoError('LUO_INVALID_PARAMETER', 'spawned: no pidfd came with it')
          try {
            checkProcess(pidfd, input.pid, peer.uid)
            const { update, lastUpdate } = state.find(peer.uid, input.workload)
            if (update?.id === input.update) update.spawned(input.pid, pidfd.dup())
            else if (lastUpdate?.id !== input.update) {
              throw new LuoError('LUO_NOT_FOUND', `spawned: there is no update ${input.update} of ${input.workload}`)
            }
            // It was over before this came. If it failed, nobody else would end the process.
            else if (!lastUpdate.committed) killProcess(pidfd)
          } finally {
            pidfd.close()
          }
          return {}
        })
        .then((output) => ({ output })),

    SpawnFailed: ({ input, peer }) =>
      answers
        .once(peer.uid, 'SpawnFailed', input, () => {
          const reason = checkText('reason', input.reason, LIMITS.reason_bytes)
          const { update } = state.find(peer.uid, input.workload)
          if (update?.id === input.update) update.event('successorFailed', { who: peer.pid, code: 'LUO_SPAWN', reason })
          return {}
        })
        .then((output) => ({ output })),
  }
}

/** Calls `gone` when this process has ended, or has had the time to come back. Answers how to stop waiting. */
function whenGone(pid: number, gone: () => void): () => void {
  let pidfd: Fd
  try {
    pidfd = openPidfd(pid)
  } catch {
    gone()
    return () => {}
  }
  let watch: Registration | undefined
  const stop = () => {
    clearTimeout(timer)
    watch?.close()
    pidfd.close()
  }
  const end = () => {
    stop()
    gone()
  }
  const timer = setTimeout(end, RECONNECT_MS)
  try {
    watch = Poller.shared().add(pidfd, { read: true, write: false }, end)
  } catch {
    // Its end is not seen, and the time is over all the same.
  }
  return stop
}

/** luod may be root, and it kills this process if the update fails: it must be the client's own. */
function checkProcess(pidfd: Fd, pid: number, uid: number): void {
  const owner = pidfdOwner(pidfd)
  // It may have ended already, which is seen through the pidfd.
  if (!owner) return
  if (owner.pid === pid && (uid === 0 || owner.uid === uid)) return
  throw new LuoError('EPERM', `spawned: the pidfd is of pid ${owner.pid} of uid ${owner.uid}, not of pid ${pid}`)
}
