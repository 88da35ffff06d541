/**
 * What a hostile luod says to a client, as a script in JSON: what the client is to do, and an answer to each of its
 * requests (`HostileLuod`). Scripts begin as conversations with a luod that means well; then fields are changed, bytes,
 * files, and the order.
 */
import { crc32 } from 'node:zlib'
import fc from 'fast-check'
import type { Answer, HostileFile, Part } from '../hostile-luod.js'
import { type ByteChange, badValue, byteChange, changeBytes, changeField, share } from './target.js'

export interface Script {
  /** For the client. */
  what: string
  answers: Answer[]
}

type Json = Record<string, unknown>
/** `to`: the connection, when it is no answer to the one that asks. */
export interface Message {
  parameters: Json
  continues?: boolean
  files: (HostileFile | { manifest: unknown })[]
  to?: number
}

const CONTROL = 0
const EVENTS = 1
const MAX_REPEATS = 300
const LONG_BYTES = 1_100_000
/** A stream that nobody would wait for the end of. */
const FLOOD = 20_000
const FLOOD_BYTES = 2 ** 25
/** As much as fits into a message. */
const CROWD_BYTES = 900_000

export const reply = (parameters: Json, ...files: Message['files']): Message[] => [{ parameters, files }]
const event = (name: string, more: Json = {}): Message => ({
  parameters: { event: name, ...more },
  continues: true,
  files: [],
  to: EVENTS,
})
const joined = (origin: string) =>
  reply({ member: '1', session: '2', origin, update: '3', fds: 1, session_fd: 0 }, 'socket')
const subscribed = [event('subscribed')]
const prepare = (purpose: string) => event('prepare', { update: '3', deadline_ms: 1_000, purpose })
const session = (name: string, id: string) => ({
  ...{ session: id, name, uid: 0, workload: 'w', custody: 'held', files: 1, bytes: '1' },
  ...{ keep_ms: 0, age_ms: 1, pid: 1 },
})
const file = (token: string) => ({ token, kind: 'memfd', compatible: 'memfd/1', format: 'f/1', bytes: '1' })
const resources = {
  version: 1,
  resources: [
    { name: 'm', token: '1', kind: 'memory', max: 4_096 },
    { name: 'f', token: '2', kind: 'file' },
    { name: 'tcp *:0', token: '3', kind: 'listener' },
    { name: 'connection 4', token: '4', kind: 'connection', of: 'tcp *:0' },
  ],
}
const claimed = reply(
  {
    ...{ session: '2', files: ['0', '1', '2', '3', '4'].map(file), total: 5 },
    ...{ sessions: [session('w', '2'), session('s', '5')], fds: 5 },
  },
  { manifest: resources },
  { text: 'x'.repeat(4_096) },
  'memory',
  'socket',
  'socket',
)
const opened = reply({ session: session('s', '5'), fds: 1, session_fd: 0 }, 'socket')
const files = reply({ files: ['1', '2'].map(file), total: 2 })
const retrieved = reply({ files: [{ token: '1', fd: 0, kind: 'memfd' }], total: 1, fds: 1 }, 'memory')
const nothing = reply({})
const committed = reply({ released: 'none' })
const shown = reply({ workload: { name: 'w', uid: 0 }, sessions: [session('w', '2'), session('s', '5')] })

/** What luod says, answer by answer, when all is well. */
export const CONVERSATIONS = {
  call: [reply({ workloads: [] }), nothing, retrieved],
  stream: [[event('subscribed'), event('begun'), event('ended')].map(({ to: _, ...message }) => message)],
  reconnecting: [nothing, retrieved, files],
  session: [opened, nothing, files, retrieved, nothing],
  adopt: [reply({ session: session('s', '5') }), files, retrieved],
  join: [joined('new'), subscribed],
  claim: [joined('update'), subscribed, claimed, files],
  events: [joined('update'), [...subscribed, prepare('update'), event('release')]],
  first: [joined('new'), subscribed, nothing, [...committed, prepare('update')], nothing, opened, shown, nothing],
  kexec: [joined('new'), subscribed, nothing, [...committed, prepare('kexec')], nothing, [event('resume')], shown],
  successor: [joined('update'), subscribed, claimed, committed, opened, nothing, shown, nothing, nothing],
} as const satisfies Record<string, readonly (readonly Message[])[]>
export type What = keyof typeof CONVERSATIONS

type Of<A> = A extends fc.Arbitrary<infer T> ? T : never
const hostileFile = fc.constantFrom<HostileFile>('memory', 'socket', 'directory', 'device', { text: 'x' })
const anyChange = fc.oneof(
  { weight: 8, arbitrary: fc.record({ field: share, to: fc.option(badValue, { nil: undefined }) }) },
  { weight: 3, arbitrary: fc.record({ manifest: share, to: fc.option(badValue, { nil: undefined }) }) },
  { weight: 2, arbitrary: fc.record({ files: fc.array(hostileFile, { maxLength: 4 }) }) },
  { weight: 2, arbitrary: fc.record({ fileCount: fc.constantFrom(0, 1, 2, 252, 253), declared: fc.boolean() }) },
  { weight: 3, arbitrary: fc.record({ bytes: byteChange }) },
  { weight: 2, arbitrary: fc.record({ pieces: share }) },
  { weight: 1, arbitrary: fc.record({ repeats: fc.nat(MAX_REPEATS) }) },
  { weight: 1, arbitrary: fc.record({ error: fc.constantFrom('', 'a.B', 'org.liveupdate.Orchestrator.Failed') }) },
  { weight: 2, arbitrary: fc.constantFrom('drop', 'close', 'silent', 'last', 'events', 'long') },
)

/** What drives a terminal, ends a line, or turns text round. */
export const CONTROLS = '\x1b]0;t\x07\x1b[2J\r\n\x00\x7f\u009b31m\u2028\u202e\u2066'
/** To whoever shows what it is told. */
const shownChange = fc.oneof(
  { weight: 6, arbitrary: fc.record({ controls: fc.constantFrom('all', 'one'), field: share }) },
  { weight: 3, arbitrary: fc.record({ name: share, value: fc.constantFrom<unknown>(1, CONTROLS, {}) }) },
  { weight: 3, arbitrary: fc.record({ crowd: share, wide: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ text: byteChange }) },
  { weight: 2, arbitrary: fc.constantFrom('flood', 'forever') },
)
/** `how: shown`: of such that show what they are told. */
const changeOf = (shown: boolean) =>
  fc.record({
    /** Which of the messages. */
    at: share,
    how: shown
      ? fc.oneof({ weight: 3, arbitrary: anyChange }, { weight: 2, arbitrary: shownChange })
      : (anyChange as fc.Arbitrary<Of<typeof anyChange> | Of<typeof shownChange>>),
  })
type Change = Of<ReturnType<typeof changeOf>>

/** A message on its way to becoming parts. */
interface Draft {
  message: Json
  files: Message['files']
  to: number | undefined
  changes: Exclude<Change['how'], string>[]
  repeats: number
  flood: boolean
  close: boolean
  forever: boolean
}

export function scripts(...whats: What[]): fc.Arbitrary<Uint8Array> {
  return scriptsOf(CONVERSATIONS, whats, false)
}

/** `shown`: whoever is told it shows it. */
export function scriptsOf<W extends string>(
  conversations: Readonly<Record<W, readonly (readonly Message[])[]>>,
  whats: readonly W[],
  shown: boolean,
): fc.Arbitrary<Uint8Array> {
  return fc
    .tuple(fc.constantFrom(...whats), fc.array(changeOf(shown), { maxLength: 4 }))
    .map(([what, changes]) => encodeScript({ what, answers: changed(conversations[what], changes) }))
}

/** Without any change. */
export function wellMeant(what: What): Script {
  return decodeScript(encodeScript({ what, answers: changed(CONVERSATIONS[what], []) }))
}

function changed(conversation: readonly (readonly Message[])[], changes: readonly Change[]): Answer[] {
  const answers = conversation.map((messages) => messages.map(draftOf))
  for (const { at, how } of changes) {
    const all = answers.flat()
    const draft = all[Math.floor(at * all.length)]
    const answer = answers.find((drafts) => draft !== undefined && drafts.includes(draft))
    if (!draft || !answer) continue
    if (how === 'drop') answer.splice(answer.indexOf(draft), 1)
    else if (how === 'silent') answer.splice(0)
    else if (how === 'close') draft.close = true
    else if (how === 'last') answers.splice(answers.indexOf(answer) + 1)
    else if (how === 'events') draft.to = draft.to === undefined ? EVENTS : CONTROL
    else if (how === 'long') draft.message.parameters = { a: 'b'.repeat(LONG_BYTES) }
    else if (how === 'flood') draft.flood = true
    else if (how === 'forever') beForever(draft)
    else if ('repeats' in how) draft.repeats = how.repeats
    else draft.changes.push(how)
  }
  return answers.map((drafts) => {
    const parts = drafts.flatMap(partsOf)
    const bytes = parts.reduce((sum, [text]) => sum + text.length, 1)
    return {
      parts,
      close: drafts.some(({ close }) => close),
      times: drafts.some(({ flood }) => flood) ? Math.min(FLOOD, Math.ceil(FLOOD_BYTES / bytes)) : 1,
      forever: drafts.some(({ forever }) => forever),
    }
  })
}

/** And there is always more. */
function beForever(draft: Draft): void {
  draft.forever = true
  const { parameters } = draft.message
  draft.message.parameters = { ...Object(parameters), total: Number.MAX_SAFE_INTEGER }
}

function draftOf({ files, to, ...message }: Message): Draft {
  return {
    message: structuredClone(message),
    files,
    to,
    changes: [],
    repeats: 1,
    flood: false,
    close: false,
    forever: false,
  }
}

function partsOf({ message, files, to, changes, repeats }: Draft): Part[] {
  let fields: unknown = message
  let sent: Message['files'] = files
  for (const how of changes) {
    if ('to' in how && 'field' in how) fields = changeField(fields, how.field, how.to)
    else if ('error' in how) fields = { ...(fields as Json), error: how.error }
    else if ('files' in how) sent = how.files
    else if ('fileCount' in how) {
      sent = Array.from({ length: how.fileCount }, () => 'memory')
      if (how.declared) fields = declaring(fields, sent.length)
    } else if ('manifest' in how) sent = sent.map((one) => changeManifest(one, how.manifest, how.to))
    else if ('controls' in how) fields = withControls(fields, how.controls === 'one' ? how.field : undefined)
    else if ('name' in how) fields = withName(fields, how.name, how.value)
    else if ('text' in how) sent = sent.map((one) => changeText(one, how.text))
    else if ('crowd' in how) fields = withCrowd(fields, how.crowd, how.wide)
  }
  let bytes: Uint8Array = Buffer.from(`${JSON.stringify(fields)}\0`)
  for (const how of changes) if ('bytes' in how) bytes = changeBytes(bytes, how.bytes)
  const cut = changes.find((how) => 'pieces' in how)
  const text = Buffer.from(bytes).toString('latin1')
  const middle = cut ? Math.floor(cut.pieces * text.length) : text.length
  const pieces = [text.slice(0, middle), text.slice(middle)].filter((piece) => piece !== '')
  const once = pieces.map((piece, index): Part => [piece, index === 0 ? sent.map(fileOf) : [], to])
  return Array.from({ length: repeats }, () => once).flat()
}

type Places = [within: Json, key: string][]

/** Every member of a message at whatever depth, and what it is in. */
function placesIn(value: unknown, places: Places = []): Places {
  if (typeof value !== 'object' || value === null) return places
  for (const key of Object.keys(value)) {
    places.push([value as Json, key])
    placesIn((value as Json)[key], places)
  }
  return places
}

const oneOf = <T>(all: readonly T[], at: number) => all[Math.floor(at * all.length)]

/** In each text, or in one of them. */
function withControls(fields: unknown, at: number | undefined): unknown {
  const copy = structuredClone(fields)
  const texts = placesIn(copy).filter(([within, key]) => typeof within[key] === 'string')
  const chosen = at === undefined ? texts : [oneOf(texts, at) ?? []].filter((place) => place.length > 0)
  for (const [within, key] of chosen as Places) within[key] = `${within[key]}${CONTROLS}`
  return copy
}

/** One member more, of which no interface knows. */
function withName(fields: unknown, at: number, value: unknown): unknown {
  const copy = structuredClone(fields)
  const objects = placesIn(copy).flatMap(([within, key]) => (isPlain(within[key]) ? [within[key]] : []))
  const chosen = oneOf(objects, at)
  if (chosen) chosen[CONTROLS] = value
  return copy
}

const isPlain = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)

/** One of its lists with as many as there is room for, of which one is wide. */
function withCrowd(fields: unknown, at: number, wide: boolean): unknown {
  const copy = structuredClone(fields)
  const lists = placesIn(copy).flatMap(([within, key]) => (Array.isArray(within[key]) ? [within[key]] : []))
  const list = oneOf(
    lists.filter((one) => one.length > 0),
    at,
  )
  if (!list) return copy
  const first = structuredClone(list[0])
  const [within, key] = placesIn(first).find(([object, name]) => typeof object[name] === 'string') ?? []
  const room = CROWD_BYTES / (wide ? 2 : 1)
  const count = Math.floor(room / (JSON.stringify(first).length + 1))
  for (let added = 0; added < count; added++) list.push(structuredClone(first))
  if (wide && within && key !== undefined) within[key] = 'x'.repeat(room)
  if (wide) list.push(first)
  return copy
}

function declaring(fields: unknown, fds: number): Json {
  const { parameters, ...rest } = Object(fields) as Json
  return { ...rest, parameters: { ...Object(parameters), fds } }
}

function changeManifest(one: Message['files'][number], at: number, to: unknown): Message['files'][number] {
  if (typeof one === 'string' || !('manifest' in one)) return one
  return { manifest: changeField(one.manifest, at, to) }
}

function changeText(one: Message['files'][number], change: ByteChange): Message['files'][number] {
  if (typeof one === 'string' || !('text' in one)) return one
  return { text: Buffer.from(changeBytes(Buffer.from(one.text, 'latin1'), change)).toString('latin1') }
}

/** luo-manifest/1: one slot, of which the other one is not there. */
function fileOf(one: Message['files'][number]): HostileFile {
  if (typeof one === 'string' || !('manifest' in one)) return one
  const json = Buffer.from(JSON.stringify(one.manifest) ?? '')
  const header = Buffer.alloc(16)
  header.writeUInt32LE(1, 0)
  header.writeUInt32LE(json.length, 4)
  header.writeUInt32LE(crc32(json), 8)
  return { text: Buffer.concat([header, json]).toString('latin1') }
}

function encodeScript(script: Script): Uint8Array {
  return new Uint8Array(Buffer.from(JSON.stringify(script)))
}

export function decodeScript(input: Uint8Array): Script {
  const { what, answers } = JSON.parse(Buffer.from(input).toString()) as Script
  const bytes = (text: Part[0]) => Buffer.from(String(text), 'latin1')
  return {
    what,
    answers: answers.map(({ parts, ...rest }) => ({
      parts: parts.map(([text, files, to]): Part => (to == null ? [bytes(text), files] : [bytes(text), files, to])),
      ...rest,
    })),
  }
}
