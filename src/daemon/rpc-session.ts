/**
 * What is asked of sessions: making, adopting and ending them, and what is in them. Whoever is of the same user may:
 * ids are no secrets, and a descriptor is a lifetime and no key.
 */
import type { FileToPreserve } from '../core/file-set.js'
import { LuoError } from '../errors.js'
import type { HeldFile } from '../handlers/held-file.js'
import { MAX_FDS } from '../protocol/interface.js'
import type { FileIn, FileOut } from '../protocol/types.js'
import type { Fd } from '../sys/fd.js'
import { fileInfo } from '../sys/file-info.js'
import type { Answer, Call, Handlers, Peer } from '../wire/server.js'
import type { Answers } from './answers.js'
import { describeFile, describeSession } from './describe.js'
import type { Holding, LuodAbout } from './holding.js'
import { checkNumber, checkOneOf, checkText, LIMITS } from './limits.js'
import type { Recipient } from './sessions.js'
import type { State } from './state.js'

type SessionMethods =
  | 'CreateSession'
  | 'AdoptSession'
  | 'ReleaseSession'
  | 'Sessions'
  | 'Files'
  | 'Preserve'
  | 'Unpreserve'
  | 'Retrieve'

export function sessionHandlers(state: State, answers: Answers): Pick<Handlers, SessionMethods> {
  const { index, files: sessionFiles } = state.sessions
  return {
    CreateSession: (call) => givingOut(state, answers, 'CreateSession', call, (give) => create(state, call, give)),

    AdoptSession: (call) => givingOut(state, answers, 'AdoptSession', call, (give) => adopt(state, call, give)),

    ReleaseSession: ({ input, peer }) =>
      answers
        .once(peer.uid, 'ReleaseSession', input, () => ({
          files: release(state, named(state, peer.uid, input), input.force === true, peer),
        }))
        .then((output) => ({ output })),

    Sessions: ({ input, peer }) => {
      const { holdings, total } = index.page(peer.uid, input)
      return { output: { sessions: holdings.map(describeSession), total } }
    },

    Files: ({ input: { session, ...request }, peer }) => {
      const holding = index.get(peer.uid, session)
      const files = holding.files.page(request).map(describeFile)
      return { output: { files, total: holding.session.files.size } }
    },

    Preserve: ({ input, peer, fds }) =>
      answers
        .once(peer.uid, 'Preserve', input, () => {
          preserve(state, index.get(peer.uid, input.session), input.files, fds)
          return {}
        })
        .then((output) => ({ output })),

    Unpreserve: ({ input, peer }) =>
      answers
        .once(peer.uid, 'Unpreserve', input, () => {
          sessionFiles.unpreserve(index.get(peer.uid, input.session), input.tokens)
          return {}
        })
        .then((output) => ({ output })),

    Retrieve: ({ input: { session, tokens, offset }, peer }) => {
      checkOneOf({ tokens, offset })
      const holding = index.get(peer.uid, session)
      const { files } = holding.session
      const wanted = tokens ?? holding.files.page({ offset: offset ?? 0, limit: MAX_FDS }).map(({ token }) => token)
      if (wanted.length > MAX_FDS) {
        throw new LuoError('LUO_INVALID_PARAMETER', `tokens has ${wanted.length}: ${MAX_FDS} files go in a message`)
      }
      const found = sessionFiles.reference(holding, wanted)
      const described = found.map(({ file: { token, about } }, index) => {
        const out: FileOut = { token, fd: index, kind: about.kind }
        if (about.format !== undefined) out.format = about.format
        return out
      })
      return { output: { files: described, total: files.size, fds: found.length }, fds: found.map(({ fd }) => fd) }
    },
  }
}

/** Files that came with a request. What is preserved is taken out of `fds`: the orchestrator owns it. */
export function preserve(state: State, holding: Holding, files: readonly FileIn[], fds: Fd[]): void {
  const preserved = state.sessions.files.preserve(holding, filesToPreserve(state, files, fds))
  const taken = new Set(preserved.map(({ file }) => file.fd))
  fds.splice(0, fds.length, ...fds.filter((fd) => !taken.has(fd)))
}

function filesToPreserve(
  state: State,
  files: readonly FileIn[],
  fds: readonly Fd[],
): FileToPreserve<HeldFile, LuodAbout>[] {
  return files.map(({ token, fd, format, until }, index) => {
    const file = fds[fd]
    if (!file) {
      throw new LuoError('EBADF', `preserve token ${token}: file ${fd} of ${fds.length} that came with the request`, {
        params: { parameter: `files[${index}].fd` },
      })
    }
    if (format !== undefined) checkText(`files[${index}].format`, format, LIMITS.format_bytes)
    const info = fileInfo(file)
    const reason = until === undefined ? state.whyNotCross({ fd: file, info }) : undefined
    if (reason !== undefined) {
      throw new LuoError(
        'ENOENT',
        `preserve token ${token}: a file of kind ${info.kind} does not cross a kexec: ${reason}; if it need not, say that ` +
          'it is for updates only (until: update)',
        { params: { parameter: `files[${index}].fd` } },
      )
    }
    const about = { kind: info.kind, format, bytes: info.size, until, key: state.sessions.files.newKey() }
    return { token, file: { fd: file, info }, about }
  })
}

type Given = 'CreateSession' | 'AdoptSession'

/** The same request again gets another descriptor, in place of the one before, which may have been lost. */
async function givingOut<M extends Given>(
  { sessions }: State,
  answers: Answers,
  method: M,
  { input, peer }: Call<M>,
  run: (give: (fd: Fd) => void) => Answer<M>['output'],
): Promise<Answer<M>> {
  let given: Fd | undefined
  const request = answers.once(peer.uid, method, input, () =>
    run((fd) => {
      given = fd
    }),
  )
  // It was given out, and that could not be recorded.
  request.catch(() => given?.close())
  const output = await request
  if (given) return { output, fds: [given] }
  if (!output.fds) return { output }
  const holding = sessions.index.get(peer.uid, output.session.session)
  return { output, fds: [sessions.giveAgain(holding, recipientOf(peer, input.id))] }
}

function recipientOf(peer: Peer, id: string): Recipient {
  return { pid: peer.pid, request: id, mayBeLost: peer.mayBeLost() }
}

function create(state: State, { input, peer }: Call<'CreateSession'>, give: (fd: Fd) => void) {
  const { name } = input
  const keepMs = checkNumber('keep_ms', input.keep_ms ?? 0, 0, LIMITS.keep_ms)
  const { sessions } = state
  const of = input.member === undefined ? undefined : state.member(peer.uid, input.member)
  if (of && !isSuccessor(of) && of.workload.session?.custody !== 'held') {
    throw new LuoError('LUO_UPDATING', `create the session ${name}: an update of ${of.workload.name} is under way`)
  }
  const madeBy = of && isSuccessor(of) ? { madeBy: of.member } : {}
  const uid = of?.workload.uid ?? peer.uid
  const holding = sessions.create(uid, name, { keepMs, ...(of ? { workload: of.workload } : {}), ...madeBy })
  try {
    give(sessions.giveOut(holding, recipientOf(peer, input.id), of?.member))
  } catch (error) {
    sessions.release(holding)
    throw error
  }
  state.tellOf(holding, 'sessionCreated', { by: peer })
  return { session: describeSession(holding), fds: 1, session_fd: 0 }
}

function isSuccessor({ member, workload }: ReturnType<State['member']>): boolean {
  return workload.member !== member
}

function adopt(state: State, { input, peer, fds }: Call<'AdoptSession'>, give: (fd: Fd) => void) {
  const [file] = fds
  checkOneOf({ session: input.session, name: input.name, file })
  if (file) return { session: describeSession(state.sessions.ofDescriptor(peer.uid, file, peer.pid)) }
  const holding = named(state, peer.uid, input)
  const member = input.member === undefined ? undefined : state.member(peer.uid, input.member).member
  give(state.sessions.adopt(holding, recipientOf(peer, input.id), member))
  state.tellOf(holding, 'sessionAdopted', { by: peer })
  return { session: describeSession(holding), fds: 1, session_fd: 0 }
}

function named({ sessions }: State, uid: number, { session, name }: { session?: string; name?: string }): Holding {
  checkOneOf({ session, name })
  return session === undefined ? sessions.index.named(uid, name ?? '') : sessions.index.get(uid, session)
}

/** By hand. Of a workload that waits for a restart, all of it ends. */
function release(state: State, holding: Holding, force: boolean, peer: Peer): number {
  const { session, workload } = holding
  const what = `release the session ${session.name}`
  if (session.custody === 'frozen') throw new LuoError('LUO_UPDATING', `${what}: an update decides whose it is`)
  const own = workload?.session === session
  if (own && session.custody === 'held') {
    const { member } = workload
    throw new LuoError(
      'EBUSY',
      `${what}: it is of the workload ${workload.name}, which runs (pid ${member?.pid}): end that`,
    )
  }
  if (session.custody === 'held' && !force)
    throw new LuoError('EBUSY', `${what}: it is held, and force was not asked for`)
  if (!own) {
    const files = state.sessions.release(holding)
    state.tellOf(holding, 'sessionReleased', { by: peer, detail: `by hand: ${files} files` })
    return files
  }
  const files = [...workload.sessions].reduce((sum, { session: { files } }) => sum + files.size, 0)
  state.release(workload, 'by hand', peer)
  state.endIfUnused(workload)
  return files
}
