/** What an operator asks of luod: updates, and looking at what there is. */
import { LuoError } from '../errors.js'
import type { Methods, Protection, Takeover } from '../protocol/types.js'
import { countOpenFds, type Fd } from '../sys/fd.js'
import { addSeals, createMemfd, fileSize, readAt, writeAt } from '../sys/memfd.js'
import type { Answer, Call, Handlers } from '../wire/server.js'
import { type Answers, updateBytes } from './answers.js'
import { describeSession, describeWorkload } from './describe.js'
import type { Actor } from './events.js'
import { type FollowedGroup, GroupUpdate } from './group-update.js'
import {
  checkCommand,
  checkGroup,
  checkNumber,
  checkText,
  checkWorkloadName,
  DEFAULT_DEADLINE_MS,
  LIMITS,
} from './limits.js'
import type { State } from './state.js'
import { Update } from './update.js'
import type { Followed, UpdateRequest, UpdateResult } from './update-types.js'
import type { Usage } from './usage.js'
import type { Workload } from './workload.js'

type Status = Methods['Status']['output']

export interface DaemonFacts {
  version: string
  connections(): number
  nofile: number
  backend: Status['backend']
  /** A copy of the records, as they are. */
  records(): Fd
  protection(): Protection
  takeover(): Takeover | undefined
}

type OperatorMethods = 'Update' | 'UpdateGroup' | 'Abort' | 'List' | 'Show' | 'Watch' | 'History' | 'Inspect' | 'Status'

export function operatorHandlers(state: State, answers: Answers, facts: DaemonFacts): Pick<Handlers, OperatorMethods> {
  return {
    Update: async (call) => {
      const { input, peer } = call
      // Asked again after a lost connection, it follows the update that it started.
      const update = await answers.once<Followed>(peer.uid, 'Update', input, () => startUpdate(state, call), {
        undo: (begun) => abortUnrecorded([begun], peer),
        record: ({ key }) => ({ updates: [key] }),
        // Its command is kept with it.
        bytes: (_, request) => request + updateBytes(1),
        onForgotten: (forgotten) => forgotten.forget(),
        underWay: ({ ended }) => !ended,
      })
      return follow(update, call)
    },

    UpdateGroup: async (call) => {
      const { input, peer } = call
      const group = await answers.once<FollowedGroup>(peer.uid, 'UpdateGroup', input, () => startGroup(state, call), {
        undo: ({ updates }) => abortUnrecorded(updates, peer),
        record: ({ group: id, updates }) => ({ group: id, updates: updates.map(({ key }) => key) }),
        bytes: ({ updates }) => updateBytes(updates.length),
        onForgotten: ({ updates }) => {
          for (const forgotten of updates) forgotten.forget()
        },
        underWay: ({ updates }) => updates.some(({ ended }) => !ended),
      })
      return followGroup(group, call)
    },

    Abort: ({ input, peer }) =>
      answers
        .once(peer.uid, 'Abort', input, async () => {
          const workload = state.find(peer.uid, input.workload)
          const { update, name } = workload
          if (!update || update.isClaim) throw notUnderWay(workload)
          const reason = `aborted by pid ${peer.pid}`
          update.event('abortAsked', { who: peer.pid, code: 'LUO_ABORTED', reason })
          state.tell(workload, 'aborted', { by: peer, update: update.id })
          const { outcome } = await update.finished
          if (outcome !== 'committed') return { update: update.id }
          throw new LuoError('LUO_WRONG_STATE', `abort ${name}: it came too late, the update is committed`)
        })
        .then((output) => ({ output })),

    List: ({ peer }) => ({ output: { workloads: state.workloads(peer.uid).map(describeWorkload) } }),

    Show: ({ input, peer }) => {
      const workload = state.find(peer.uid, input.workload)
      return { output: { workload: describeWorkload(workload), sessions: [...workload.sessions].map(describeSession) } }
    },

    Watch: ({ input, peer, more, reply }) => {
      if (!more) throw new LuoError('LUO_INVALID_PARAMETER', 'watch: ask for more than one reply (more: true)')
      if (input.workload !== undefined) checkWorkloadName(input.workload)
      const { workload } = input
      return new Promise((resolve, reject) => {
        try {
          const stop = state.events.watch({ uid: peer.uid, workload, send: (event) => reply(event) })
          peer.onDisconnect(() => {
            stop()
            resolve({ output: { event: 'end' } })
          })
        } catch (error) {
          return reject(error)
        }
        // What is true already: whoever waits for it must not have to look as well.
        for (const known of state.workloads(peer.uid)) {
          if (workload === undefined || known.name === workload) reply(present(known))
        }
      })
    },

    History: ({ input, peer }) => {
      const limit = checkNumber('limit', input.limit ?? LIMITS.history_events, 1, LIMITS.history_events)
      if (input.workload === undefined)
        return { output: state.history.all(peer.uid === 0 ? undefined : peer.uid, limit) }
      const name = checkWorkloadName(input.workload)
      return { output: state.history.of(ownerOf(state, peer.uid, name), name, limit) }
    },

    Inspect: ({ peer }) => {
      if (peer.uid !== 0 && peer.uid !== process.getuid?.()) {
        throw new LuoError('EPERM', `inspect: uid ${peer.uid} may not see the records, which are about all users`)
      }
      state.history.flush()
      state.commit()
      return { output: { fds: 1, records_fd: 0 }, fds: [facts.records()] }
    },

    Status: ({ peer }) => {
      const takeover = facts.takeover()
      const { sessions, files } = peer.uid === 0 ? state.usage.total : state.usage.of(peer.uid)
      return {
        output: {
          pid: process.pid,
          version: facts.version,
          uid: process.getuid?.() ?? 0,
          workloads: state.workloads(peer.uid).length,
          sessions,
          files,
          connections: facts.connections(),
          nofile: facts.nofile,
          open_fds: countOpenFds(),
          limits: { ...LIMITS, ...state.usage.limits },
          usage: usageFor(state.usage, peer.uid),
          protection: facts.protection(),
          backend: facts.backend,
          ...(takeover ? { takeover } : {}),
        },
      }
    },
  }
}

/** Whose workload of this name is meant: the user's own, for root also the only one that there is or was. */
function ownerOf(state: State, uid: number, name: string): number {
  if (state.history.has(uid, name)) return uid
  const others = uid === 0 ? state.history.usersWith(name) : []
  const [other] = others
  if (others.length > 1) {
    throw new LuoError('LUO_NOT_FOUND', `find the history of ${name}: ${others.length} users have one`)
  }
  // Of a workload of which nothing is to be told yet it is empty; where there is none, that is an error.
  return other ?? state.find(uid, name).uid
}

/** What this user has; for root, what everybody has who has something. */
function usageFor(usage: Usage, uid: number) {
  const uids = uid === 0 ? [...usage.users()].sort((a, b) => a - b).slice(0, LIMITS.status_users) : [uid]
  return uids.map((user) => ({ uid: user, ...usage.of(user) }))
}

function present(workload: Workload) {
  const { name, uid, state, pid, update } = describeWorkload(workload)
  return {
    event: state,
    workload: name,
    uid,
    ...(pid === undefined ? {} : { pid }),
    ...(update === undefined ? {} : { update }),
    at: new Date().toISOString(),
  }
}

function startUpdate(state: State, { input, peer }: Call<'Update'>): Update {
  const command = input.command === undefined ? undefined : checkCommand(input.command)
  const request = { ...updateRequest(input, peer), command }
  const workload = state.find(peer.uid, input.workload)
  // A user may not have commands run as another.
  if (command && peer.uid !== 0 && peer.uid !== workload.uid) throw new LuoError('EPERM', 'update: not your workload')
  mustBeUpdatable(workload)
  return Update.start(state, workload, request)
}

/** A luod after this one would know nothing of them. */
function abortUnrecorded(begun: readonly Followed[], { pid }: { pid: number }): void {
  for (const update of begun) {
    if (!(update instanceof Update)) continue
    update.event('abortAsked', { who: pid, code: 'LUO_ABORTED', reason: 'it could not be recorded' })
  }
}

function startGroup(state: State, { input, peer }: Call<'UpdateGroup'>): GroupUpdate {
  const request = updateRequest(input, peer)
  const workloads = checkGroup(input.workloads).map((name) => state.find(peer.uid, name))
  for (const workload of workloads) mustBeUpdatable(workload)
  return new GroupUpdate(state, workloads, request)
}

type RequestInput = Pick<Call<'Update'>['input'], 'id' | 'deadline_ms' | 'check'>

function updateRequest(input: RequestInput, by: Actor): UpdateRequest {
  checkText('id', input.id, LIMITS.id_bytes)
  const deadlineMs = checkNumber('deadline_ms', input.deadline_ms ?? DEFAULT_DEADLINE_MS, 1, LIMITS.deadline_ms)
  return { deadlineMs, check: input.check, command: undefined, by }
}

/**
 * The one that was meant may have ended just before, of itself or with its kexec: while that is preserved, an abort
 * waits.
 */
function notUnderWay({ name, lastUpdate }: Workload): LuoError {
  const how = lastUpdate?.committed ? 'is committed' : 'ended without a commit'
  const last = lastUpdate ? `; the last one (${lastUpdate.id}) ${how}: luoctl history` : ''
  return new LuoError('LUO_WRONG_STATE', `abort ${name}: no update is under way${last}`)
}

function mustBeUpdatable({ name, member, supervisor, update }: Workload): void {
  if (update) throw new LuoError('LUO_UPDATING', `update ${name}: update ${update.id} is under way`)
  if (!member?.alive) throw new LuoError('LUO_GONE', `update ${name}: no version of it is running`)
  if (!member.ready) throw new LuoError('LUO_WRONG_STATE', `update ${name}: pid ${member.pid} is still starting`)
  if (!member.listens) {
    throw new LuoError('LUO_WRONG_STATE', `update ${name}: pid ${member.pid} does not listen for updates`)
  }
  if (!supervisor) throw new LuoError('LUO_NO_SUPERVISOR', `update ${name}: nobody is there to start its new version`)
}

async function follow(update: Followed, { more, reply }: Call<'Update'>): Promise<Answer<'Update'>> {
  const stop = update.listen((phase) => {
    if (more) reply({ update: update.id, phase })
  })
  const result = await update.finished
  stop()
  return { output: { update: update.id, ...describeResult(result) } }
}

async function followGroup(group: FollowedGroup, call: Call<'UpdateGroup'>): Promise<Answer<'UpdateGroup'>> {
  const { more, reply } = call
  const stops = group.updates.map((update) =>
    update.listen((phase) => {
      if (more) reply({ group: group.group, workload: update.workload, update: update.id, phase })
    }),
  )
  const results = await group.finished
  for (const stop of stops) stop()
  const outcomes = results.map((result) => ({
    workload: result.workload,
    update: result.update,
    ...describeResult(result),
  }))
  return { output: { group: group.group, outcomes } }
}

function describeResult({ outcome, blackoutMs, timeline }: UpdateResult) {
  return { outcome, ...(blackoutMs === undefined ? {} : { blackout_ms: blackoutMs }), timeline: [...timeline] }
}

/** A copy that nobody can write to: luod goes on with the file itself. */
export function sealedCopy(fd: Fd, name: string): Fd {
  const bytes = new Uint8Array(fileSize(fd))
  const copy = createMemfd(name)
  try {
    writeAt(copy, bytes.subarray(0, readAt(fd, bytes, 0)), 0)
    addSeals(copy, ['seal', 'shrink', 'grow', 'write'])
    return copy
  } catch (error) {
    copy.close()
    throw error
  }
}
