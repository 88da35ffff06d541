/**
 * A luod that runs, and requests of all kinds with files of all kinds, on several connections at once: good ones, which
 * name what luod has answered before, and such with a field, a byte or a file changed. luod answers what its interface
 * says, serves on, and in the end has neither a descriptor nor a session more. The interface's `Upgrade` is left out: it
 * would start whatever the input names.
 */
import { openSync } from 'node:fs'
import fc from 'fast-check'
import { isLuoError } from '../../src/errors.js'
import { parseInterface, validate } from '../../src/protocol/idl.js'
import { INTERFACE_NAME, INTERFACE_TEXT } from '../../src/protocol/interface.js'
import { Decoder, decodeError, encodeMessage, parseReply } from '../../src/protocol/messages.js'
import { closeAll, Fd } from '../../src/sys/fd.js'
import { createMemfd } from '../../src/sys/memfd.js'
import { openPidfd } from '../../src/sys/pidfd.js'
import { waitReadable } from '../../src/sys/poller.js'
import { connectUnix, receive, send, socketPair } from '../../src/sys/unix.js'
import { eventually, Stage } from '../daemon/stage.js'
import { badValue, byteChange, changeBytes, changeField, type LiveTarget, share } from './target.js'

type Json = Record<string, unknown>

const definition = parseInterface(INTERFACE_TEXT)
const MAX_CONNECTIONS = 6
const MAX_STEPS = 24
/** Descriptors that luod gave, such as lifetimes, are held until there are so many. */
const MAX_HELD = 40
/** luod answers in less, unless it has reason to wait. */
const ANSWER_MS = 50
/** Whoever has not answered so long after luod is asked hangs. */
const STATUS_MS = 10_000

// --- inputs ---------------------------------------------------------------------------------------------------------

const FILES = ['memory', 'socket', 'directory', 'device', 'pidfd', 'held'] as const

interface Step {
  connection: number
  /** Of the interface, or any text. A value "$session" stands for what luod has called one last. */
  method: string
  parameters: Json
  more: boolean
  files: (typeof FILES)[number][]
  /** After all that: the bytes of the message are changed. */
  bytes?: Parameters<typeof changeBytes>[1]
  /** Only so much of it is sent. */
  part?: number
  /** And then the connection is closed. */
  close?: boolean
}

const id = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f')
const name = fc.constantFrom('w', 'v', 's', 't')
const token = fc.constantFrom('1', '2', '3', '18446744073709551615')
const deadline = fc.constantFrom(1, 20)
const known = (what: string) => fc.constant(`$${what}`)
const fileIn = fc.record({ token, fd: fc.constant(0), format: fc.constantFrom(undefined, 'f/1') })
const aFile = fc.constantFrom(...FILES).map((file) => [file])

type Good = [parameters: fc.Arbitrary<Json>, files?: fc.Arbitrary<Step['files']>]
/** Good parameters of each method, and the files that go with them. */
const METHODS: Record<string, Good> = {
  Join: [fc.record({ id, workload: name, accepts: fc.constant(['*']), keep_ms: fc.constantFrom(undefined, 0, 5) })],
  Subscribe: [fc.record({ member: known('member') })],
  Claim: [fc.record({ id, member: known('member') })],
  Ready: [fc.record({ id, member: known('member'), update: known('update') })],
  Refuse: [fc.record({ id, member: known('member'), update: known('update'), reason: name })],
  Commit: [fc.record({ id, member: known('member') })],
  Released: [fc.record({ id, member: known('member'), update: known('update') })],
  CreateSession: [
    fc.record({ id, name, keep_ms: fc.constantFrom(undefined, 5), member: fc.constantFrom(undefined, '$member') }),
  ],
  AdoptSession: [
    fc.oneof(
      fc.record({ id, name }),
      fc.record({ id, session: known('session') }),
      fc.record({ id, fds: fc.constant(1) }),
    ),
    fc.constantFrom<Step['files'][]>([], ['held']),
  ],
  ReleaseSession: [fc.record({ id, session: known('session'), force: fc.boolean() })],
  Preserve: [
    fc.record({ id, session: known('session'), files: fileIn.map((file) => [file]), fds: fc.constant(1) }),
    aFile,
  ],
  Unpreserve: [fc.record({ id, session: known('session'), tokens: fc.array(token, { maxLength: 2 }) })],
  Retrieve: [
    fc.oneof(
      fc.record({ session: known('session'), tokens: fc.array(token, { maxLength: 2 }) }),
      fc.record({ session: known('session'), offset: fc.nat(2) }),
    ),
  ],
  Files: [fc.record({ session: known('session') })],
  Sessions: [fc.record({ offset: fc.nat(2), limit: fc.nat(300) })],
  Supervise: [fc.record({ id, workload: name })],
  Spawned: [
    fc.record({
      ...{ id, workload: name, update: known('update') },
      ...{ pid: fc.constantFrom(1, process.pid), fds: fc.constant(1) },
    }),
    aFile,
  ],
  SpawnFailed: [fc.record({ id, workload: name, update: known('update'), reason: name })],
  Emulate: [fc.record({ id, machine: name, handlers: fc.constantFrom('kernel', 'all') })],
  KexecMachine: [fc.record({ id, machine: name })],
  Machines: [fc.constant({})],
  EndMachine: [fc.record({ id, machine: name })],
  Update: [fc.record({ id, workload: name, deadline_ms: deadline })],
  UpdateGroup: [fc.record({ id, workloads: fc.array(name, { maxLength: 3 }), deadline_ms: deadline })],
  Abort: [fc.record({ id, workload: name })],
  List: [fc.constant({})],
  Show: [fc.record({ workload: name })],
  Watch: [fc.record({ workload: fc.constantFrom(undefined, 'w') })],
  History: [fc.record({ workload: fc.constantFrom(undefined, 'w'), limit: fc.nat(10) })],
  Kexec: [fc.record({ id, dry_run: fc.constant(true) })],
  AbortKexec: [fc.record({ id })],
  KernelSessions: [fc.constant({})],
  OpenKernelSession: [fc.record({ id, name, direction: fc.constantFrom('outgoing', 'incoming') })],
  Inspect: [fc.constant({})],
  Status: [fc.constant({})],
}
/** Without them there is nothing to ask about. Supervisors are waited for, so there are few. */
const OFTEN = ['Join', 'CreateSession', 'Preserve', 'Retrieve', 'AdoptSession', 'Subscribe']
const SELDOM = ['Supervise', 'Inspect']
const methods = fc.oneof(
  ...Object.keys(METHODS).map((method) => ({
    arbitrary: fc.constant(method),
    weight: OFTEN.includes(method) ? 6 : SELDOM.includes(method) ? 1 : 2,
  })),
)
const STREAMS = ['Subscribe', 'Supervise', 'Emulate', 'Update', 'UpdateGroup', 'Watch', 'Kexec']
/** luod may have reason to wait before it answers one. */
const WAITING = ['Claim', 'Commit', 'Update', 'UpdateGroup', 'KexecMachine', 'EndMachine']

const good = methods.chain((method): fc.Arbitrary<Step> => {
  const [parameters, files = fc.constant<Step['files']>([])]: Good = METHODS[method] ?? [fc.constant({})]
  const more = fc.constant(STREAMS.includes(method))
  return fc.record({ connection: fc.nat(MAX_CONNECTIONS - 1), method: fc.constant(method), parameters, more, files })
})

const changed = fc
  .tuple(
    good,
    fc.oneof(
      { weight: 5, arbitrary: fc.record({ field: share, to: fc.option(badValue, { nil: undefined }) }) },
      { weight: 2, arbitrary: fc.record({ files: fc.array(fc.constantFrom(...FILES), { maxLength: 4 }) }) },
      { weight: 2, arbitrary: fc.record({ bytes: byteChange }) },
      { weight: 1, arbitrary: fc.record({ part: share }) },
      { weight: 1, arbitrary: fc.record({ more: fc.boolean() }) },
      {
        weight: 1,
        arbitrary: fc.record({ method: fc.constantFrom('', 'Nothing', 'a.B', 'org.varlink.service.GetInfo') }),
      },
      { weight: 2, arbitrary: fc.record({ close: fc.constant(true) }) },
    ),
  )
  .map(([step, change]): Step => {
    if (!('field' in change)) return { ...step, ...(change as Partial<Step>) }
    return { ...step, parameters: changeField(step.parameters, change.field, change.to ?? null) as Json }
  })

const steps = fc
  .array(fc.oneof({ weight: 3, arbitrary: good }, { weight: 2, arbitrary: changed }), {
    minLength: 1,
    maxLength: MAX_STEPS,
    size: 'max',
  })
  .map((all) => new Uint8Array(Buffer.from(JSON.stringify(all))))

// --- playing them ---------------------------------------------------------------------------------------------------

class Connection {
  readonly fd: Fd
  readonly #decoder = new Decoder()
  /** What was asked and not answered yet; undefined once something else than a request was sent. */
  #asked: string[] | undefined = []

  constructor(socket: string) {
    this.fd = connectUnix(socket)
  }

  send(bytes: Uint8Array, files: readonly Fd[], method: string | undefined): void {
    if (method === undefined) this.#asked = undefined
    else this.#asked?.push(method)
    const sent = send(this.fd, bytes, files)
    // It does not read any more.
    if (sent < bytes.length) this.fd.close()
  }

  /** What luod has answered so far. */
  *answers(held: Fd[]): Generator<Json> {
    for (;;) {
      const got = receive(this.fd)
      if (!got) return
      held.push(...got.fds)
      if (got.bytes.length === 0) return this.fd.close()
      for (const message of this.#decoder.push(got.bytes)) yield this.#check(message)
    }
  }

  #check(message: Json): Json {
    const { parameters, continues, error } = parseReply(message)
    const method = this.#asked?.[0]
    if (method === undefined) return parameters
    if (!continues) this.#asked?.shift()
    if (error !== undefined) decodeError(error, parameters)
    else {
      const output = definition.methods.get(method)?.output
      if (output) validate(definition, output, parameters, method)
    }
    return parameters
  }
}

class Luod implements LiveTarget {
  readonly inputs = steps
  readonly #stage: Stage
  readonly #before: Awaited<ReturnType<Stage['atRest']>>

  constructor(stage: Stage, before: Awaited<ReturnType<Stage['atRest']>>) {
    this.#stage = stage
    this.#before = before
  }

  async check(input: Uint8Array): Promise<void> {
    const connections: (Connection | undefined)[] = []
    const held: Fd[] = []
    const names: Record<string, string> = {}
    try {
      for (const step of JSON.parse(Buffer.from(input).toString()) as Step[]) {
        const index = step.connection % MAX_CONNECTIONS
        const last = connections[index]
        const connection = last?.fd.closed === false ? last : new Connection(this.#stage.socket)
        connections[index] = connection
        this.#play(step, connection, held, names)
        closeAll(held.splice(0, Math.max(0, held.length - MAX_HELD)))
      }
    } finally {
      closeAll(connections.flatMap((connection) => connection?.fd ?? []))
      closeAll(held)
    }
    await this.#serves()
  }

  #play(step: Step, connection: Connection, held: Fd[], names: Record<string, string>): void {
    const files = step.files.map((file) => openFile(file, held))
    try {
      const parameters = JSON.parse(JSON.stringify(step.parameters), (_, value) =>
        typeof value === 'string' && value.startsWith('$') ? (names[value.slice(1)] ?? '1') : value,
      ) as Json
      const method = step.method.includes('.') ? step.method : `${INTERFACE_NAME}.${step.method}`
      let bytes = encodeMessage({ method, parameters, more: step.more })
      if (step.bytes) bytes = changeBytes(bytes, step.bytes)
      if (step.part !== undefined) bytes = bytes.subarray(0, Math.ceil(step.part * bytes.length))
      const whole = !step.bytes && step.part === undefined
      if (bytes.length > 0) connection.send(bytes, files, whole ? step.method : undefined)
      if (!connection.fd.closed && whole && !WAITING.includes(step.method)) waitReadable(connection.fd, ANSWER_MS)
      if (!connection.fd.closed) for (const answer of connection.answers(held)) remember(answer, names)
    } catch (error) {
      // luod has ended the connection.
      if (!isLuoError(error, 'EPIPE') && !isLuoError(error, 'ECONNRESET')) throw error
      connection.fd.close()
    } finally {
      closeAll(files)
    }
    if (step.close) connection.fd.close()
  }

  async #serves(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error('luod does not answer')), STATUS_MS)
    })
    const { pid } = await Promise.race([this.#stage.call('Status', {}), late])
    clearTimeout(timer)
    if (pid !== this.#stage.luod.pid) throw new Error(`luod was ${this.#stage.luod.pid}, and is ${pid}`)
    if (this.#stage.log.includes('luod: error')) throw new Error(`luod logged a defect:\n${this.#stage.log}`)
  }

  async settle(): Promise<void> {
    await eventually(
      () => this.#stage.call('Status', {}),
      ({ open_fds, sessions, workloads, files, connections }) =>
        open_fds <= this.#before.open_fds && sessions + workloads + files === 0 && connections === 1,
      'something is left in luod',
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stage[Symbol.asyncDispose]()
  }
}

function openFile(file: Step['files'][number], held: readonly Fd[]): Fd {
  const last = held.at(-1)
  if (file === 'held' && last && !last.closed) return last.dup()
  if (file === 'pidfd') return openPidfd(process.pid)
  if (file === 'directory' || file === 'device') return Fd.adopt(openSync(file === 'device' ? '/dev/zero' : '/', 'r'))
  if (file === 'memory') return createMemfd('fuzz', { size: 1 })
  const [one, other] = socketPair()
  other.close()
  return one
}

/** What luod calls its things, wherever it says so. */
function remember(answer: unknown, names: Record<string, string>): void {
  if (typeof answer !== 'object' || answer === null) return
  for (const [key, value] of Object.entries(answer)) {
    if (typeof value === 'string') names[key] = value
    else remember(value, names)
  }
}

export async function luod(): Promise<LiveTarget> {
  const stage = await Stage.start({ args: ['--backend', 'userspace'] })
  return new Luod(stage, await stage.atRest())
}
