/** What luoctl asks for each of its commands, and what a luod answers that means well. */
import { Records } from '../../src/abi/records.js'
import { MemoryStorage } from '../../src/abi/records-memory.js'
import { type Message, reply } from './scripts.js'

/** More than these records have. */
const RECORDS_BYTES = 512

type Conversation = readonly (readonly Message[])[]

const AT = '2026-02-01T13:05:09.120Z'
const session = {
  ...{ session: '2', name: 'w', uid: 0, workload: 'w', custody: 'held', files: 1, bytes: '1' },
  ...{ keep_ms: 5, age_ms: 1, pid: 1, expires_ms: 7 },
}
const file = { token: '1', kind: 'memfd', compatible: 'memfd/1', format: 'f/1', bytes: '1', until: 'update' }
const workload = {
  ...{ name: 'w', uid: process.getuid?.() ?? 0, state: 'running', pid: 1, supervised: true, generation: 1, keep_ms: 5 },
  ...{ formats: ['f/1'], sessions: 1, files: 1, bytes: '1', update: '3', after: ['v'] },
}
const phases = [
  { phase: 'starting', at_ms: 0 },
  { phase: 'joined', at_ms: 1, who: 7 },
  { phase: 'rolledBack', at_ms: 2.5, who: 7, reason: 'not yet', code: 'LUO_REFUSED' },
]
const event = {
  ...{ event: 'updated', at: AT, workload: 'w', session: 's', uid: 0, by_uid: 0, pid: 1, method: 'Update' },
  ...{ update: '3', group: '4', outcome: 'rolledBack', code: 'LUO_REFUSED', detail: 'not yet', blackout_ms: 1.5 },
  ...{ duration_ms: 2, old_pid: 1, new_pid: 2, times: 2, last_at: AT, spans: { letGo: 1 } },
}
/** `more` of them follow. */
const stream = (...all: Record<string, unknown>[]): Message[] =>
  all.map((parameters, index) => ({ parameters, files: [], ...(index < all.length - 1 ? { continues: true } : {}) }))
const endless = (...all: Record<string, unknown>[]): Message[] =>
  all.map((parameters) => ({ parameters, files: [], continues: true }))

const status = reply({
  ...{ pid: 1, version: '1.2.3', uid: 0, workloads: 1, sessions: 1, files: 1, connections: 1, nofile: 1_024 },
  ...{ open_fds: 10, limits: { files: 100, bytes: 4_096, together: 3 }, backend: 'kernel' },
  usage: [{ uid: 0, connections: 1, workloads: 1, sessions: 1, files: 1, bytes: 1, watchers: 1 }],
  protection: { kind: 'standby', ready: true, pid: 5, lost: 1 },
  takeover: { how: 'crash', at: AT, from_pid: 4, from_version: '1.2.2', pause_ms: 1.5, findings: 1 },
})
const successor = reply({ ...status[0]?.parameters, pid: 9 })
const sessions = reply({ sessions: [session, { ...session, session: '5', name: 's' }], total: 2 })
const files = reply({ files: [file, { ...file, token: '2' }], total: 2 })
const nothing = reply({})
const shown = reply({ workload, sessions: [session] })
const grouped = { workload: 'w', update: '3', outcome: 'rolledBack', blackout_ms: 1.5, timeline: phases }
const updating = phases.map((phase) => ({ update: '3', phase }))
const update = stream(...updating, { update: '3', outcome: 'rolledBack', blackout_ms: 1.5, timeline: phases })
const group = stream(...phases.map((phase) => ({ group: '4', workload: 'w', update: '3', phase })), {
  ...{ group: '4', outcomes: [grouped, { ...grouped, workload: 'v' }] },
})
const kexec = stream(
  { kexec: '6', step: 'asking', at_ms: 0 },
  { kexec: '6', at_ms: 1, workload: 'w', update: '3', phase: { phase: 'preparing', at_ms: 1, who: 1 } },
  { kexec: '6', step: 'preserved', at_ms: 2, sessions: 1, files: 1, bytes: '1', warnings: ['one is left'] },
  { kexec: '6', step: 'undone', at_ms: 3 },
)

function records(): Message[] {
  const storage = new MemoryStorage()
  Records.create(storage).transaction([
    { type: 'workload', key: '1', value: { name: 'w', uid: 0 } },
    { type: 'session', key: '2', value: { name: 'w', uid: 0, workload: 'w' } },
    { type: 'file', key: '3', value: { session: '2', token: '1', kind: 'memfd' } },
  ])
  // The rest of it is zero.
  const text = Buffer.from(storage.bytes.subarray(0, RECORDS_BYTES)).toString('latin1')
  return reply({ fds: 1, records_fd: 0 }, { text })
}

/** By command line; its first word but options, or two, are what docs/exit-codes.md calls it. */
export const COMMANDS = {
  list: [status, reply({ workloads: [workload, { ...workload, name: 'v' }] })],
  'show w': [status, shown, files],
  status: [status],
  sessions: [status, sessions],
  'sessions --kernel': [
    status,
    reply({ sessions: [{ name: 'k', direction: 'incoming', pid: 1, command: 'vmm' }], complete: false }),
  ],
  'release s --yes': [status, sessions, reply({ files: 1 })],
  'watch w': [status, endless({ event: 'subscribed' }, event)],
  history: [status, reply({ events: [event, event], dropped: 3 })],
  'history w': [status, reply({ events: [event], dropped: 0 })],
  machines: [
    status,
    reply({ machines: [{ machine: 'm', uid: 0, programs: true, holds_state: false, live_update_number: '1' }] }),
  ],
  'machines --end m': [status, nothing],
  inspect: [status, records()],
  'inspect --verify': [status, records(), status, reply({ machines: [] }), records()],
  doctor: [status],
  'abort w': [status, reply({ update: '3' })],
  'update w': [status, update],
  'update w v': [status, group],
  'update --all': [status, reply({ workloads: [workload, { ...workload, name: 'v' }] }), status, group],
  upgrade: [status, status, stream({ phase: 'starting', pid: 9 }, { phase: 'ready', pid: 9, version: '1' }), successor],
  'kexec --dry-run': [status, kexec],
  'kexec --emulated': [status, reply({ live_update_number: '1' })],
  'kexec abort': [status, reply({ kexec: '6' })],
  'run w -- sleep 0.1': [
    status,
    endless({ event: 'supervising' }, { event: 'ended', update: '3', outcome: 'rolledBack', reason: 'not yet' }),
    nothing,
    nothing,
  ],
  'emulate -- true': [
    status,
    [{ parameters: { event: 'attached', fds: 1, channel_fd: 0 }, continues: true, files: ['socket'] }],
  ],
} as const satisfies Record<string, Conversation>
