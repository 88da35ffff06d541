/**
 * What crosses a transition, as values: from the sessions of one generation, and to those of the next. `abi` makes
 * bytes of it.
 */
import type { LuoState } from '../abi/luo.js'
import { LuoError } from '../errors.js'
import type { Flbs } from './flb.js'
import type { HandlerRegistry } from './handler.js'
import { checkName, checkToken } from './names.js'
import type { IncomingFile, IncomingSession, OutgoingSession } from './session.js'

export function writeState<F, A>(
  liveupdateNumber: bigint,
  sessions: Iterable<OutgoingSession<F, A>>,
  flbs: Flbs,
): LuoState {
  const written: LuoState['sessions'] = []
  for (const { name, files } of sessions) {
    const records: LuoState['sessions'][number]['files'] = []
    for (const { handler, kept, token } of files.values()) {
      records.push({ compatible: handler.compatible, data: kept.data, token })
    }
    written.push({ name, files: records })
  }
  return { liveupdateNumber, sessions: written, flbs: flbs.records() }
}

/** ENOENT when there is no handler for a file, EINVAL for a bad name or token, EEXIST when one is there twice. */
export function readState<F>(
  state: LuoState,
  scope: string,
  registry: HandlerRegistry<F>,
  newId: () => string,
): IncomingSession<F>[] {
  const names = new Set<string>()
  return state.sessions.map(({ name, files }) => {
    if (names.has(checkName(name))) throw new LuoError('EEXIST', `receive session ${name}: it was handed over twice`)
    names.add(name)
    const read = new Map<string, IncomingFile<F>>()
    for (const { compatible, data, token } of files) {
      const handler = registry.get(compatible)
      if (!handler) {
        throw new LuoError('ENOENT', `receive token ${token} of session ${name}: there is no handler ${compatible}`)
      }
      if (read.has(checkToken(token))) {
        throw new LuoError('EEXIST', `receive token ${token} of session ${name}: it was handed over twice`)
      }
      read.set(token, { token, handler, data })
    }
    return { id: newId(), name, scope, direction: 'incoming', files: read, retrieved: false, finished: false }
  })
}
