/** What a workload's own processes ask of luod: joining, and their part in an update. */

import { LuoError } from '../errors.js'
import type { Fd } from '../sys/fd.js'
import { mayKill, openPidfd } from '../sys/pidfd.js'
import type { Call, Handlers, Peer } from '../wire/server.js'
import type { AnswerOptions, Answers } from './answers.js'
import { checkFormats } from './describe.js'
import { ownHolding } from './holding.js'
import { checkAccepts, checkAfter, checkNumber, checkText, checkWorkloadName, LIMITS, RECONNECT_MS } from './limits.js'
import { type Given, Member, type MemberOptions } from './member.js'
import { preserve } from './rpc-session.js'
import type { State } from './state.js'
import { step } from './steps.js'
import { Update } from './update.js'
import type { Workload } from './workload.js'

type MemberMethods = 'Join' | 'Subscribe' | 'Claim' | 'Ready' | 'Refuse' | 'Commit' | 'Released'

/** More than a file or a session in the answer of a claim has. */
const CLAIM_ROW_BYTES = 512

export function memberHandlers(state: State, answers: Answers): Pick<Handlers, MemberMethods> {
  return {
    Join: (call) => {
      let sessionFd: Fd | undefined
      const answer = answers.once(call.peer.uid, 'Join', call.input, () => {
        const joined = join(state, call)
        sessionFd = joined.sessionFd
        return joined.output
      })
      // It was given out, and that could not be recorded.
      answer.catch(() => sessionFd?.close())
      return answer.then((output) => {
        if (sessionFd) return { output, fds: [sessionFd] }
        // The answer before may have been lost, and with it the descriptor.
        const { member } = state.member(call.peer.uid, output.member)
        return { output, fds: [member.giveAgain(givenWith(call))] }
      })
    },

    Subscribe: ({ input, peer, more, reply }) => {
      const { member, workload } = state.member(peer.uid, input.member)
      if (!more) throw new LuoError('LUO_INVALID_PARAMETER', 'subscribe: ask for more than one reply (more: true)')
      return new Promise((resolve) => {
        const subscriber = (event: Parameters<typeof reply>[0]) => reply(event)
        // The end of the connection before, if there was one, may not have been seen yet.
        member.subscriber = subscriber
        peer.onDisconnect(() => {
          if (member.subscriber === subscriber) {
            member.subscriber = undefined
            member.expect(RECONNECT_MS)
            workload.update?.expectBack(member)
          }
          resolve({ output: { event: 'subscribed' } })
        })
        const asks = workload.update?.asks(member)
        step('takeover.member')
        reply({ event: 'subscribed', ...(asks ? { update: asks.update } : {}) })
        if (asks?.due) reply(asks.due)
      })
    },

    Claim: ({ input, peer }) => {
      const { member, workload } = state.member(peer.uid, input.member)
      return answers
        .once(peer.uid, 'Claim', input, () => updateOf(workload, 'claim').waitForState(member), {
          // As long as the update is there it is answered anew.
          record: () => undefined,
          // Clients wait for it: it is not written out just to be measured.
          bytes: ({ files, sessions }) => (files.length + sessions.length) * CLAIM_ROW_BYTES,
        })
        .then((output) => {
          const tokens = output.files.map(({ token }) => token)
          const files = state.sessions.files.reference(state.sessions.index.get(peer.uid, output.session), tokens)
          return { output, fds: files.map(({ fd }) => fd) }
        })
    },

    Ready: ({ input, peer, fds }) =>
      answers
        .once(peer.uid, 'Ready', input, () => {
          const { member, workload } = state.member(peer.uid, input.member)
          updateOf(workload, 'ready', input.update).oldReady(member, input.held_ms, () => {
            const own = ownHolding(workload)
            if (own && input.files) preserve(state, own, input.files, fds)
          })
          return {}
        })
        .then((output) => ({ output })),

    Refuse: ({ input, peer }) =>
      answers
        .once(peer.uid, 'Refuse', input, () => {
          const { member, workload } = state.member(peer.uid, input.member)
          const reason = checkText('reason', input.reason, LIMITS.reason_bytes)
          updateOf(workload, 'refuse', input.update).oldRefused(member, input.held_ms, reason)
          return {}
        })
        .then((output) => ({ output })),

    Commit: ({ input, peer }) => {
      let undo: (() => void) | undefined
      const commit = async () => {
        const { member, workload } = state.member(peer.uid, input.member)
        if (workload.update?.successor === member) return workload.update.waitForCommit(member)
        // It was committed in a luod before this one, which did not get to answer.
        if (workload.member === member && member.committed && state.restoredMembers.delete(member)) {
          return { released: member.committed }
        }
        if (workload.member !== member || member.ready) {
          throw new LuoError('LUO_WRONG_STATE', `commit: pid ${member.pid} is running already`)
        }
        member.ready = true
        workload.generation += 1
        state.recordWorkload(workload)
        state.tell(workload, 'running', { by: peer })
        undo = () => {
          member.ready = false
          workload.generation -= 1
        }
        return { released: 'none' as const }
      }
      // The old version has let go, and does not come back.
      const options: AnswerOptions<unknown> = { stands: () => undo === undefined, undo: () => undo?.() }
      return answers.once(peer.uid, 'Commit', input, commit, options).then((output) => ({ output }))
    },

    Released: ({ input, peer }) => {
      const released = () => {
        const { member, workload } = state.member(peer.uid, input.member)
        updateOf(workload, 'released', input.update).oldReleased(member)
        return {}
      }
      // The new version goes on.
      return answers.once(peer.uid, 'Released', input, released, { stands: () => true }).then((output) => ({ output }))
    },
  }
}

function updateOf(workload: Workload, what: string, id?: string): Update {
  const { update } = workload
  if (update && (id === undefined || update.id === id)) return update
  throw new LuoError('LUO_WRONG_STATE', `${what}: ${id === undefined ? 'there is no update' : `update ${id} is over`}`)
}

// --- joining --------------------------------------------------------------------------------------------------------

const ORIGINS = { new: 'first start', update: 'new version', crash: 'claims what a crash left' } as const

interface Joined {
  output: Parameters<Call<'Join'>['reply']>[0]
  sessionFd: Fd
}

function givenWith({ input, peer }: Call<'Join'>): Given {
  return { request: input.id, mayBeLost: peer.mayBeLost() }
}

function join(state: State, call: Call<'Join'>): Joined {
  const { input, peer, fds } = call
  checkWorkloadName(input.workload)
  const says = { accepts: checkAccepts(input.accepts), after: checkAfter(input.after ?? []) }
  const keepMs = checkNumber('keep_ms', input.keep_ms ?? 0, 0, LIMITS.keep_ms)
  const [ticket] = fds
  const candidate = { ...says, peer, given: givenWith(call) }
  const joined = ticket
    ? joinWithTicket(state, input.workload, candidate, ticket)
    : joinWithoutTicket(state, input.workload, candidate)
  if (keepMs > 0) joined.workload.keepMs = keepMs
  const { workload, member, sessionFd } = joined
  const { update } = workload
  if (!workload.session) throw new LuoError('LUO_GONE', `join ${workload.name}: its session has just ended`)
  state.recordWorkload(workload)
  state.tell(workload, 'joined', { by: peer, update: update?.id, detail: ORIGINS[member.origin] })
  return {
    output: {
      member: member.id,
      session: workload.session.id,
      origin: member.origin,
      ...(update ? { update: update.id } : {}),
      fds: 1,
      session_fd: 0,
    },
    sessionFd,
  }
}

/** A process that joins, and what it says of itself. */
interface Candidate extends Pick<Member, 'accepts' | 'after'> {
  peer: Peer
  given: Given
}

interface JoinedMember {
  workload: Workload
  member: Member
  sessionFd: Fd
}

/** The successor in an update. The ticket is an inherited descriptor that only the supervisor's child has. */
function joinWithTicket(state: State, name: string, candidate: Candidate, ticket: Fd): JoinedMember {
  const workload = state.workloads(candidate.peer.uid).find(({ update }) => update?.hasTicket(ticket))
  const update = workload?.update
  if (!workload || !update || workload.name !== name) {
    throw new LuoError('LUO_TICKET', `join ${name}: this ticket is used, of another workload, or its update is over`)
  }
  try {
    checkFormats(workload, candidate.accepts, 'the new version')
    state.checkAfter(workload.uid, name, candidate.after)
  } catch (error) {
    const { code, message } = error as LuoError
    update.event('successorFailed', { who: candidate.peer.pid, code, reason: message })
    throw error
  }
  const made = newMember(state, workload, candidate, 'update')
  try {
    update.joined(made.member)
  } catch (error) {
    takeBack(state, made)
    throw error
  }
  return { workload, ...made }
}

/** The first start, or the restart after a crash. */
function joinWithoutTicket(state: State, name: string, candidate: Candidate): JoinedMember {
  const { peer, accepts, after } = candidate
  const known = state.lookup(peer.uid, name)
  if (known?.update) throw new LuoError('LUO_UPDATING', `join ${name}: an update of it is under way`)
  if (known?.member) {
    throw new LuoError('LUO_WORKLOAD_ACTIVE', `join ${name}: pid ${known.member.pid} is running, or holds its session`)
  }
  if (known) checkFormats(known, accepts, 'the restarted version')
  state.checkAfter(peer.uid, name, after)
  const workload = state.ensure(peer.uid, name)
  const orphaned = workload.session?.custody === 'orphaned'
  let made: ReturnType<typeof newMember> | undefined
  try {
    if (!orphaned) state.createSession(workload)
    made = newMember(state, workload, candidate, orphaned ? 'crash' : 'new')
    if (orphaned) Update.claim(state, workload, made.member)
    else workload.member = made.member
    return { workload, ...made }
  } catch (error) {
    if (made) takeBack(state, made)
    if (!orphaned) state.release(workload, 'its first process could not join')
    state.endIfUnused(workload)
    throw error
  }
}

/** It was told of nothing yet. */
function takeBack(state: State, { member, sessionFd }: ReturnType<typeof newMember>): void {
  state.dropMember(member)
  sessionFd.close()
}

function newMember(
  state: State,
  workload: Workload,
  { peer, given, accepts, after }: Candidate,
  origin: 'new' | 'update' | 'crash',
): { member: Member; sessionFd: Fd } {
  // Before Linux 6.5 the kernel knows the peer's pid only.
  const pidfd = peer.pidfd() ?? openPidfd(peer.pid)
  try {
    if (!mayKill(pidfd))
      throw new LuoError(
        'EPERM',
        `join: luod may not kill pid ${peer.pid}, as it must when its update fails; start it with one uid only`,
      )
    const options: MemberOptions = {
      ...state.memberOptions(workload, () => made.member),
      uid: peer.uid,
      pid: peer.pid,
      pidfd,
      accepts,
      after,
      origin,
    }
    const made = Member.create(options, state.sessions.holds, given)
    state.addMember(made.member)
    return made
  } catch (error) {
    pidfd.close()
    throw error
  }
}
