/**
 * The Varlink interface of luod, as text: the only source of what a message may hold. The daemon validates every
 * request against it and answers `GetInterfaceDescription` with it; `idl.ts` parses it.
 *
 * Conventions: u64 values (tokens) travel as decimal strings. A message that carries files says how many in the
 * parameter `fds`; `fd` members are indices into them. `id` makes a request safe to repeat: the same id again, from the
 * same user, gets the same answer and does nothing twice. Methods without an id only look, or are streams, which begin
 * anew.
 */
export const INTERFACE_NAME = 'org.liveupdate.Orchestrator'

/** Most files in one message: the kernel's SCM_MAX_FD. */
export const MAX_FDS = 253

/** Most files that one answer of `Files` describes: with the longest formats they just fit into a message. */
export const MAX_FILES_PAGE = 1_000

/** Most sessions that one answer of `Sessions` describes. */
export const MAX_SESSIONS_PAGE = 256

export const INTERFACE_TEXT = `# Custody of files, memory and connections across a change of code.
interface org.liveupdate.Orchestrator

# One preserved file. format: the version of the state in it ("store/1"), checked before an update asks anybody. until
# update: it is for updates only, and a kexec leaves it behind.
type File (token: string, kind: string, compatible: string, format: ?string, bytes: ?string, until: ?(update))

# A luod that has the kernel's device refuses a file that cannot cross a kexec (ENOENT), unless it is until update.
type FileIn (token: string, fd: int, format: ?string, until: ?(update))

type FileOut (token: string, fd: int, kind: string, format: ?string)

# custody: held (by its holders), frozen (by luod, in an update), orphaned (no holder; adoptable until it expires).
# workload: whose it is, if it belongs to one. files, bytes: how many, and how much memory and file is in them.
# keep_ms: how long it waits when its last holder is gone. pid: who got its descriptor last.
type Session (
  session: string,
  name: string,
  uid: int,
  workload: ?string,
  custody: (held, frozen, orphaned),
  files: int,
  bytes: string,
  keep_ms: int,
  age_ms: int,
  pid: ?int,
  expires_ms: ?int
)

# sessions, files, bytes: of all its sessions.
type Workload (
  name: string,
  uid: int,
  state: (starting, running, updating, orphaned, stopped),
  pid: ?int,
  supervised: bool,
  generation: int,
  keep_ms: int,
  formats: []string,
  sessions: int,
  files: int,
  bytes: string,
  update: ?string,
  after: ?[]string
)

# One step of an update as it happens. at_ms counts from the request. who: pid of the side that acted.
type Phase (
  phase: (starting, joined, preparing, restoring, committing, aborting, committed, rolledBack, orphaned, checked),
  at_ms: float,
  who: ?int,
  reason: ?string,
  code: ?string
)

# What a user has of what is limited. bytes: of memory files, as they were when they were preserved.
type Usage (uid: int, connections: int, workloads: int, sessions: int, files: int, bytes: int, watchers: int)

# What has happened. uid: whose workload; by_uid and pid: who did it. A refusal that is repeated within an hour is one
# event: times, at the first and last_at the last, and the words of the last. spans: the parts of a long event, in ms.
type HistoryEvent (
  event: string,
  at: string,
  workload: ?string,
  session: ?string,
  uid: int,
  by_uid: ?int,
  pid: ?int,
  method: ?string,
  update: ?string,
  group: ?string,
  outcome: ?string,
  code: ?string,
  detail: ?string,
  blackout_ms: ?float,
  duration_ms: ?float,
  old_pid: ?int,
  new_pid: ?int,
  times: ?int,
  last_at: ?string,
  spans: ?[string]float
)

# How one update of a group ended.
type GroupOutcome (
  workload: string,
  update: string,
  outcome: (committed, rolledBack, orphaned, checked),
  blackout_ms: ?float,
  timeline: []Phase
)

# --- a workload -------------------------------------------------------------------------------------------------

# Become the running instance of a workload, or with a ticket (one fd) the successor in its update, or the claimant of
# what a dead instance left (origin crash). session_fd is a lifetime: when its last copy is closed, the session ends.
# after: workloads that this one needs, besides those that its supervisor names. The same request again answers with
# another descriptor, in place of the one before; so do CreateSession and AdoptSession.
method Join(id: string, workload: string, accepts: []string, keep_ms: ?int, after: ?[]string, fds: ?int) -> (
  member: string, session: string, origin: (new, update, crash), update: ?string, fds: int, session_fd: int)

# Events for a member, one streaming reply each: prepare (deadline_ms, purpose), resume (reason), release. purpose: what
# comes is another version, or, with kexec, another kernel, which ends every process and every connection: then nothing
# is handed over but what the workload has preserved, and release never comes.
# Call it on a connection of its own; it ends with the member. After a lost connection it is called again: subscribed
# names the update that asks this member to let go, if one does, and the event that is due is said once more.
method Subscribe(member: string) -> (
  event: (subscribed, prepare, resume, release), update: ?string, deadline_ms: ?int, purpose: ?(update, kexec),
  reason: ?string)

# Successor or claimant: waits until the old version let its state be frozen, then says what there is. session: the
# workload's own; its first files come with it, in the order in which they were preserved, and total says how many it
# has: the others are retrieved. sessions: all of the workload, its own first; the others are adopted, by name.
method Claim(id: string, member: string) -> (
  session: string, files: []File, total: int, sessions: []Session, fds: int)

# The old version's answer to prepare: it has let go of writing, and nothing is to be preserved but these files.
# held_ms: how long ago it began to hold requests back.
method Ready(id: string, member: string, update: string, files: ?[]FileIn, held_ms: ?float, fds: ?int) -> ()

method Refuse(id: string, member: string, update: string, reason: string, held_ms: ?float) -> ()

# The successor's word that it is whole. Answered when the old version has let go, or is dead.
method Commit(id: string, member: string) -> (released: (word, death, none))

# The old version's word, after the event release, that it touches nothing of the session any more.
method Released(id: string, member: string, update: string) -> ()

# --- sessions ---------------------------------------------------------------------------------------------------

# Another session, by a name that no other session of the user has; a workload's own session has the workload's name.
# With member it belongs to the member's workload, whose updates hand it over, and ends with it at the latest. keep_ms:
# how long it waits, orphaned, when its last holder is gone and it has files. session_fd is a lifetime, as in Join.
method CreateSession(id: string, name: string, member: ?string, keep_ms: ?int) -> (
  session: Session, fds: int, session_fd: int)

# One of three. A file: which session is this a descriptor of? The answer has no file. session or name: take over an
# orphaned session, and get a descriptor of it. With member too: get a descriptor of a session that an update handed
# over to this member's workload; from then on its lifetime is that descriptor's.
method AdoptSession(id: string, session: ?string, name: ?string, member: ?string, fds: ?int) -> (
  session: Session, fds: ?int, session_fd: ?int)

# Ends an orphaned session; one that is held only with force, one in an update never. files: how many were let go of.
method ReleaseSession(id: string, session: ?string, name: ?string, force: ?bool) -> (files: int)

# All or none. Files are held by luod from the answer on.
method Preserve(id: string, session: string, files: []FileIn, fds: int) -> ()

# All or none.
method Unpreserve(id: string, session: string, tokens: []string) -> ()

# The files of these tokens, or in the order in which they were preserved from an offset on; 253 at most.
# total: how many the session has.
method Retrieve(session: string, tokens: ?[]string, offset: ?int) -> (files: []FileOut, total: int, fds: int)

# What is in a session, in the order in which it was preserved: limit of them from offset on; without, the first 1,000.
method Files(session: string, offset: ?int, limit: ?int) -> (files: []File, total: int)

# The sessions that this user may see, in the order of their creation: limit of them from offset on; without, the first
# 256.
method Sessions(offset: ?int, limit: ?int) -> (sessions: []Session, total: int)

# --- a supervisor -----------------------------------------------------------------------------------------------

# Keeps this workload's processes. Streaming: start (with the ticket as one fd; command if another one was asked for),
# ended (of an update). The supervisor starts the successor, says Spawned, and reports nothing else: luod sees deaths
# itself. Call it on a connection of its own. A supervisor that loses it has a second to call again, with the same id:
# supervising names the update under way, and start is said once more if nothing was Spawned for it yet.
method Supervise(id: string, workload: string, keep_ms: ?int, after: ?[]string) -> (
  event: (supervising, start, ended), update: ?string, command: ?[]string, outcome: ?string, reason: ?string, fds: ?int)

# fds: one pidfd of the process started for this update.
method Spawned(id: string, workload: string, update: string, pid: int, fds: int) -> ()

# The supervisor could not start the successor.
method SpawnFailed(id: string, workload: string, update: string, reason: string) -> ()

# --- an emulated machine ----------------------------------------------------------------------------------------

# A /dev/liveupdate of its own, for unmodified programs of one user. live_update_number: its transitions so far.
type Machine (machine: string, uid: int, programs: bool, holds_state: bool, live_update_number: string)

# A notifier joins the machine, which is made if there is none. Streaming: attached (with the channel as one fd, on which
# intercepted calls are asked about), endPrograms (a kexec: end all programs, then this connection). handlers: kernel
# (what a kernel takes), all. fail: which handler operations fail, as "preserve:ENOMEM@3". again: luod was replaced; with
# the same id the same process comes back to its channel, which goes on, and nothing is made.
method Emulate(id: string, machine: string, handlers: ?(kernel, all), fail: ?[]string, again: ?bool) -> (
  event: (attached, endPrograms), fds: ?int, channel_fd: ?int)

# An emulated kexec: freezes, ends every program of the machine, and begins its next generation.
method KexecMachine(id: string, machine: string) -> (live_update_number: string)

method Machines() -> (machines: []Machine)

# Ends its programs, and lets go of everything that it holds.
method EndMachine(id: string, machine: string) -> ()

# --- an operator ------------------------------------------------------------------------------------------------

# Streaming (more): each phase; the last reply carries outcome and timeline. check: stop after the successor waits
# (successor) or after a prepare that is resumed (prepare).
method Update(id: string, workload: string, deadline_ms: ?int, check: ?(successor, prepare), command: ?[]string) -> (
  update: string, phase: ?Phase, outcome: ?(committed, rolledBack, orphaned, checked), blackout_ms: ?float,
  timeline: ?[]Phase)

# Several workloads, each with its own commit, in the order of what they need. Streaming (more): each phase; the last
# reply carries the outcomes. One that does not commit before the first commit rolls all of them back.
method UpdateGroup(id: string, workloads: []string, deadline_ms: ?int, check: ?(successor, prepare)) -> (
  group: string, workload: ?string, update: ?string, phase: ?Phase, outcomes: ?[]GroupOutcome)

# An update in a group ends with the whole group, if none of it has begun to commit.
method Abort(id: string, workload: string) -> (update: string)

method List() -> (workloads: []Workload)

# sessions: all of the workload, its own first.
method Show(workload: string) -> (workload: Workload, sessions: []Session)

# Streaming: everything that happens to this user's workloads and sessions. session: the name of one.
method Watch(workload: ?string) -> (
  event: string, at: ?string, workload: ?string, session: ?string, uid: ?int, by_uid: ?int, pid: ?int, method: ?string,
  update: ?string, group: ?string, outcome: ?string, code: ?string, detail: ?string, blackout_ms: ?float,
  duration_ms: ?float, old_pid: ?int, new_pid: ?int)

# The last events of a workload, also of one that has ended; without a name of everything of this user (for root, of
# all users), with what belongs to no workload. Oldest first. dropped: so many older ones are forgotten.
method History(workload: ?string, limit: ?int) -> (events: []HistoryEvent, dropped: int)

# luod itself is replaced by another process: of the build at \`to\` (its package's directory, or luod's main file), else of
# its own. For luod's own user and root. Streaming (more): starting, then ready, when the other one has everything and has
# verified it. After that this connection ends, and luod with it: who answers at the socket then is the other one. An
# error says why it is not, and luod goes on as it was.
method Upgrade(id: string, to: ?string) -> (phase: (starting, ready), pid: int, version: ?string)

# The next kernel, which is loaded (luoctl kexec load), is started, and finds everything that workloads have preserved.
# For root, of a luod that has the kernel's device. Streaming (more): each phase of each workload, and each step, with its
# time since the request: asking (the workloads let go), preserving, preserved (all of it is in sessions of the kernel),
# stopping, rebooting; dry_run undoes it instead of stopping (undone). An error says who or what refused, and everybody
# goes on. how: direct, luod ends the workloads, writes out what is not written, and reboots; systemd, the service manager
# is asked for the kexec, and ends the workloads. drop: names of the kernel's incoming sessions that nobody has finished,
# which would be lost: without them it is refused. warnings: what could not be made read-only.
method Kexec(id: string, deadline_ms: ?int, dry_run: ?bool, how: ?(direct, systemd), drop: ?[]string) -> (
  kexec: string, step: ?(asking, preserving, preserved, stopping, rebooting, undone), at_ms: ?float,
  workload: ?string, update: ?string, phase: ?Phase,
  sessions: ?int, files: ?int, bytes: ?string, warnings: ?[]string)

# Undoes a kexec that is under way, until the reboot call: everybody goes on.
method AbortKexec(id: string) -> (kexec: string)

# Open sessions of the kernel's device that are not luod's, as far as luod sees them. direction: unless the kernel does not
# say. complete: every process was looked at. For root.
type KernelSession (name: string, direction: ?(outgoing, incoming), pid: int, command: string)
method KernelSessions() -> (sessions: []KernelSession, complete: bool)

# A session of the kernel's device, which luod has open, for a program that makes the ioctls itself. luod keeps no copy: it
# is released with the last one. For root. Names that begin with luod are luod's own, and with systemd systemd's (EPERM).
method OpenKernelSession(id: string, name: string, direction: (outgoing, incoming)) -> (fds: int, session_fd: int)

# luod's durable records as they are now: a copy, as one read-only file.
method Inspect() -> (fds: int, records_fd: int)

# How this luod took the place of the one before: told to, because that one had ended (crash), or over a kexec. pause_ms:
# for so long nobody was served. findings: how much was damaged, or did not come over.
type Takeover (how: (upgrade, crash, kexec), at: string, from_pid: int, from_version: string, pause_ms: float, findings: int)

# What a crash of luod would cost. none: everything that it holds. standby: nothing while it is ready; another process has
# a copy of everything. store: nothing; the service manager has. lost: standbys that were lost.
type Protection (kind: (none, standby, store), ready: bool, pid: ?int, lost: int)

# limits: of one user, and of one message. usage: what this user has of them; for root, everybody's.
method Status() -> (pid: int, version: string, uid: int, workloads: int, sessions: int, files: int, connections: int,
  nofile: int, open_fds: int, limits: [string]int, usage: []Usage,
  protection: Protection, takeover: ?Takeover, backend: (kernel, userspace))

# code: the stable code of docs/errors.md; message says what was attempted, with which value, and what to do.
error Failed (code: string, message: string)
`
