/**
 * The life of a process that stands by, until it is luod: it takes what comes over the line, verifies it, builds what
 * it can of it ahead, and waits for the word, or for luod's death. Only when luod is known to be dead does the end of
 * the line mean that this one is next: it may also mean that luod gave this one up. And only when luod has said that
 * this one is its heir.
 *
 * In an upgrade there are two heirs for a moment, the standby and the successor, so that there never is none. Both have
 * the same eventfd, which this luod made, with one token in it. Whoever takes that goes on, and the other one ends
 * without a trace. It is no lock: nothing has to be given back by the dead, whose files the kernel closes late, and
 * what was taken stays taken. The next luod makes another one for those that stand by for it.
 *
 * A process that is killed gives its memory back before it closes its files, which takes longer than to take over. So
 * the end of the line is not waited for. The kernel sends ENDING to the children of a thread that ends. Anybody may
 * send that, so it is only a reason to look: luod is taken for dead when the kernel has marked its main thread as
 * exiting. Such a thread never runs code of the process again, and no other thread of luod speaks to clients or over
 * the line. So nothing more can come of luod, and what it has sent is in the queue: all of it is taken first. The kill
 * is for threads that are left, should the main thread alone have ended; they give its memory back when nobody else
 * needs the processor. A luod that is stopped, hangs, or has closed the line is not marked, and is waited for as ever.
 */
import { asLuoError, isLuoError, LuoError } from '../errors.js'
import { takeFromEventfd } from '../sys/eventfd.js'
import type { Fd } from '../sys/fd.js'
import { killProcess, openPidfd, seemsEnding, signalAtEndOfParent, standBack } from '../sys/pidfd.js'
import { Poller, waitReadable } from '../sys/poller.js'
import { peerCredentials, peerPidfd } from '../sys/unix.js'
import { ConnectionCopies } from './connection-copies.js'
import { MirrorReceiver } from './mirror.js'
import { Preparing } from './preparing.js'
import type { Replica } from './replica.js'
import { step } from './steps.js'

/** From the end of its line to luod's death; one that only gave this process up kills it in this time. */
const DEATH_LIMIT_MS = 2_000
const DEATH_LOOK_MS = 5
/** Nobody uses it, and whoever does not know it ignores it. */
const ENDING = 'SIGURG'
const VERIFY_ATTEMPTS = 20
const VERIFY_RETRY_MS = 50

export interface TakeoverOptions {
  /** The line, owned from here on. */
  line: Fd
  version: string
  /** Versions of the records that this build reads. */
  records: readonly number[]
  /** The same of the state of emulated machines. */
  machines: readonly number[]
  /** Gets what comes. It stays the caller's. */
  replica: Replica
  /** Throws when what has come cannot be taken over. */
  verify(): void
  /** All is there and verified. `isOver`: this process is luod, or not needed any more. */
  onReady?(isOver: () => boolean): void
}

export interface Takeover {
  how: 'upgrade' | 'crash'
  /** Since when nobody is served, of the monotonic clock in nanoseconds. */
  pausedAt: bigint
  /** This process is luod: said to the one before, which ends then. Throws when that is not to be reached any more. */
  serve(): void
  /** Resolves when the one before has ended, or takes too long for it. */
  gone(): Promise<void>
  /** It cannot be: the one before goes on. */
  fail(error: LuoError): void
}

/** Resolves when this process is to be luod, with undefined when it is not needed any more. */
export function waitForTakeover(options: TakeoverOptions): Promise<Takeover | undefined> {
  const { line, replica } = options
  let primary: Fd | undefined
  try {
    // Known before luod can end, so that it never is another process of the same number.
    primary = pidfdOfPeer(line)
  } catch (error) {
    line.close()
    return Promise.reject(error)
  }
  const preparing = new Preparing(replica)
  const connections = new ConnectionCopies()
  let heir: { claim: Fd | undefined } | undefined
  Poller.shared().ref()
  return new Promise<Takeover | undefined>((resolve) => {
    const finish = (how: Takeover['how'], pausedAt: bigint) => {
      const close = () => receiver.close()
      process.off(ENDING, look)
      heir?.claim?.close()
      // So that clients come back while this one gets ready. In an upgrade luod itself ends them.
      if (how === 'crash') connections.end()
      else connections.close()
      step(how === 'upgrade' ? 'takeover.go' : 'takeover.noticed')
      preparing.stop()
      resolve({
        how,
        pausedAt,
        serve: () => {
          step('takeover.serve')
          try {
            if (how === 'upgrade') receiver.tell({ serving: true })
          } catch (error) {
            // Alive, it has given this one up, and goes on. Dead, it cannot be told.
            if (primary && !waitReadable(primary, DEATH_LIMIT_MS)) throw error
          } finally {
            close()
          }
        },
        gone: () => ended(primary),
        fail: (error) => {
          tellFailure(receiver, error)
          primary?.close()
          close()
        },
      })
    }
    const look = () => {
      if (receiver.closed || !primary || !seemsEnding(primary)) return
      const endedAt = process.hrtime.bigint()
      killProcess(primary)
      standBack(primary)
      receiver.drain()
      // It may have said or shown its end in what came last. Who is not the heir sees the end of the line.
      if (receiver.closed || !heir) return
      receiver.close()
      goOn(endedAt)
    }
    /** luod is dead, and this is an heir. */
    const goOn = (endedAt: bigint) => {
      step('takeover.claim')
      // An older luod gives nothing to claim, and has one heir only.
      if (!heir?.claim || takeFromEventfd(heir.claim)) return finish('crash', endedAt)
      step('takeover.yield')
      end()
    }
    const end = () => {
      process.off(ENDING, look)
      heir?.claim?.close()
      preparing.stop()
      connections.close()
      primary?.close()
      receiver.close()
      resolve(undefined)
    }
    // luod goes on meanwhile: what it has recorded may be under way still.
    const verify = (attempts: number) => {
      preparing.now((unread) => {
        try {
          if (unread) throw unread
          options.verify()
          step('next.ready')
          receiver.tell({ ready: { entries: replica.size } })
          options.onReady?.(() => receiver.closed)
        } catch (error) {
          if (attempts > 1) return void setTimeout(() => receiver.closed || verify(attempts - 1), VERIFY_RETRY_MS)
          tellFailure(receiver, asLuoError(error, 'EIO', 'verify what luod holds'))
          end()
        }
      })
    }
    const receiver: MirrorReceiver = new MirrorReceiver(line, {
      into: replica,
      onChange: () => {
        step('next.receive')
        preparing.changed()
      },
      onHeir: (claim) => {
        heir?.claim?.close()
        heir = { claim }
      },
      onSynced: (count) => {
        step('next.verify')
        if (replica.size === count) return verify(VERIFY_ATTEMPTS)
        tellFailure(receiver, new LuoError('LUO_RECORDS', `take over ${count} files of luod: ${replica.size} came`))
        end()
      },
      onConnections: (fds, cutOff) => connections.add(fds, cutOff),
      onGo: ({ pausedAt }) => finish('upgrade', BigInt(pausedAt)),
      onClosed: (error) => {
        const closedAt = process.hrtime.bigint()
        // What broke off in the middle is nothing to go on with; neither is a luod that lives.
        const dead = heir && !error && (!primary || waitReadable(primary, DEATH_LIMIT_MS))
        if (dead) goOn(closedAt)
        else end()
      },
    })
    process.on(ENDING, look)
    signalAtEndOfParent(ENDING)
    try {
      step('next.hello')
      const { version, records, machines } = options
      const reads = { records: [...records], machines: [...machines] }
      receiver.tell({ hello: { version, pid: process.pid, ...reads, connections: true, claims: true } })
    } catch (error) {
      if (!isLuoError(error)) throw error
      end()
    }
  })
    .catch((error) => {
      preparing.stop()
      primary?.close()
      line.close()
      throw error
    })
    .finally(() => Poller.shared().unref())
}

/** Looks again and again: that needs nothing which it might not get. */
async function ended(pidfd: Fd | undefined): Promise<void> {
  if (!pidfd) return
  const end = performance.now() + DEATH_LIMIT_MS
  while (!waitReadable(pidfd, 0) && performance.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, DEATH_LOOK_MS))
  }
  pidfd.close()
}

/** undefined when it is dead already. */
function pidfdOfPeer(line: Fd): Fd | undefined {
  const pidfd = peerPidfd(line)
  if (pidfd) return pidfd
  try {
    // Before Linux 6.5.
    return openPidfd(peerCredentials(line).pid)
  } catch (error) {
    if (isLuoError(error, 'ESRCH')) return undefined
    throw error
  }
}

function tellFailure(receiver: MirrorReceiver, { code, message }: LuoError): void {
  try {
    receiver.tell({ failed: { code, message } })
  } catch {
    // It is gone; there is nobody to tell.
  }
}
