/**
 * What a device is to its opener, and a session's descriptor to its holder, whoever answers: the userspace orchestrator
 * (generation.ts) or the kernel (kernel.ts). Failures are a LuoError with the kernel's errno as its code; the suite in
 * test/conformance holds both to the same answers.
 */
import type { Fd } from '../sys/fd.js'

/** Open: the only way to sessions. Closing it leaves them as they are. */
export interface LiveDevice extends Disposable {
  createSession(name: string): LiveSession
  retrieveSession(name: string): LiveSession
  close(): void
}

/** `close` closes this descriptor; with the last copy the session is released. */
export interface LiveSession extends Disposable {
  readonly name: string
  readonly direction: 'outgoing' | 'incoming'
  /**
   * `token`: a u64 in decimal. `fd` stays the caller's; without it, it is EBADF, once all that comes before is right.
   */
  preserve(token: string, fd: Fd | undefined): void
  /** Owned by the caller; the same open file each time. */
  retrieve(token: string): Fd
  finish(): void
  /** Of one that is a descriptor: a copy, owned by the caller, which keeps the session too. */
  descriptor?(): Fd
  close(): void
}
