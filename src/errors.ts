/**
 * The one error class, and every code it can carry. A code is stable: programs switch on it. It is an errno name where
 * the kernel's interface has one, and a name that starts with `LUO_` otherwise. docs/errors.md is checked against
 * this table by a test.
 */
export const LUO_CODES = {
  LUO_ABORTED: 'The update was ended by an operator. Nothing was lost; start it again when ready.',
  LUO_CHANGED: 'A file is not what it was before the kexec, or is missing. The message says what differs.',
  LUO_CYCLE: 'A workload would have to come after itself. The message shows the way round; leave out one of its steps.',
  LUO_DEADLINE: 'A side did not answer in time. Look at what it waits for, or give a longer --deadline.',
  LUO_GONE: 'A process that was needed has ended. Look at its output; `luoctl list` says what runs.',
  LUO_GROUP: 'Another workload of the group does not commit. Its own outcome says why.',
  LUO_INVALID_PARAMETER: 'A parameter is missing, unknown or of the wrong type. Compare with docs/protocol.md.',
  LUO_LIMIT: 'A limit on what one user may have was reached. `luoctl status` shows the limits.',
  LUO_NOT_FOUND: 'None that this user may see: `luoctl list`, `sessions` and `machines` show what there is.',
  LUO_NO_DAEMON:
    'luod cannot be reached, or does not answer. Start it, use `luoctl run`, or say where it is: --socket, LUO_SOCKET.',
  LUO_NO_SUPERVISOR: 'Nobody is there to start the new version. Start the workload with `luoctl run`.',
  LUO_PLUGIN: 'A plug-in cannot be loaded. luod does not start; the message says what to change.',
  LUO_PROTOCOL: 'The peer broke the framing of the protocol. The connection was closed.',
  LUO_RECORDS: 'The records are damaged or not records at all. Nothing was changed.',
  LUO_RECORDS_VERSION: 'The records were written by a newer version. Nothing was changed; use that version.',
  LUO_REFUSED: 'The running version refused the update. Its reason is in the message.',
  LUO_REPEATED: 'The request id was used before for a different request. Use a fresh id.',
  LUO_SLOW_PEER: 'The peer stopped reading and its queue is full. The connection was closed.',
  LUO_SPAWN: 'The program could not be started. Check the command.',
  LUO_STATE_VERSION: 'The new version does not accept the state as it was recorded. Nothing was asked of the old one.',
  LUO_TICKET: 'The ticket is not valid: used before, of an ended update, or not one of this luod.',
  LUO_UNSUPPORTED: 'This machine or this object cannot do that. The message says why.',
  LUO_UPDATING: 'An update, an upgrade of luod or a kexec is under way. Wait for it, or abort it.',
  LUO_WORKLOAD_ACTIVE: 'The workload already has a running instance.',
  LUO_WRONG_STATE: 'The operation does not fit the state that the object is in.',
} as const

export type LuoCode = keyof typeof LUO_CODES
/** An errno name, such as `ENOENT`. */
export type ErrnoName = `E${string}`

export class LuoError extends Error {
  override readonly name = 'LuoError'
  readonly code: LuoCode | ErrnoName
  /** Values that the message names, for programs. */
  readonly params: Readonly<Record<string, unknown>>

  constructor(
    code: LuoCode | ErrnoName,
    message: string,
    options: { cause?: unknown; params?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.params = options.params ?? {}
  }
}

export function isLuoError(error: unknown, code?: LuoCode | ErrnoName): error is LuoError {
  return error instanceof LuoError && (code === undefined || error.code === code)
}

const SHORTAGES: ReadonlySet<string> = new Set<ErrnoName>(['ENOMEM', 'ENOBUFS', 'EMFILE', 'ENFILE'])

/** There was nothing wrong with what was asked for: the kernel had too little of something, and may have more soon. */
export function isShortage(error: unknown): error is LuoError {
  return error instanceof LuoError && SHORTAGES.has(error.code)
}

/** Any thrown value as a LuoError; what was not one keeps its cause and gets `code`. */
export function asLuoError(error: unknown, code: LuoCode | ErrnoName, action: string): LuoError {
  if (error instanceof LuoError) return error
  return new LuoError(code, `${action}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
}
