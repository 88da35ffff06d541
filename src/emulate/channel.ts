/**
 * The notifier's side of its machine's channel: one question, one answer, and the notifier waits for it: a program
 * waits too, and nothing else is to be done meanwhile. When luod is gone, or does not answer in time, it is ENODEV.
 */

import { availableParallelism } from 'node:os'
import {
  decodeMachineAnswer,
  encodeMachineRequest,
  type MachineAnswer,
  type MachineOperation,
  type MachineRequest,
} from '../abi/machine.js'
import { LuoError } from '../errors.js'
import { closeAll, type Fd } from '../sys/fd.js'
import { errnoName } from '../sys/ffi.js'
import { waitReadable } from '../sys/poller.js'
import { receive, send } from '../sys/unix.js'

/** luod answers in microseconds. */
const ANSWER_LIMIT_MS = 10_000
/**
 * So long it is looked for awake, where luod has a processor of its own: falling asleep and being woken take as long.
 */
const AWAKE_MS = availableParallelism() > 1 ? 0.1 : 0

export class MachineChannel {
  readonly #fd: Fd

  /** Owns `fd`. */
  constructor(fd: Fd) {
    this.#fd = fd
  }

  /** Throws with the errno that luod answers. The file of an answer is the caller's; `file` stays the caller's. */
  ask(
    operation: MachineOperation,
    values: Partial<Omit<MachineRequest, 'operation'>> = {},
    file?: Fd,
  ): MachineAnswer & { file: Fd | undefined } {
    const request = { operation, flags: 0, inode: 0n, token: 0n, name: '', ...values }
    let received: ReturnType<typeof receive>
    try {
      if (send(this.#fd, encodeMachineRequest(request), file ? [file] : []) > 0) received = this.#receive()
    } catch (error) {
      throw gone(operation, error)
    }
    if (!received || received.bytes.length === 0 || received.truncated) {
      closeAll(received?.fds ?? [])
      this.close()
      throw gone(operation)
    }
    const [first, ...more] = received.fds
    closeAll(more)
    const answer = decodeMachineAnswer(received.bytes)
    if (answer.errno === 0) return { ...answer, file: first }
    first?.close()
    throw new LuoError(errnoName(answer.errno), `${operation}: ${errnoName(answer.errno)}`)
  }

  close(): void {
    this.#fd.close()
  }

  #receive(): ReturnType<typeof receive> {
    const asleep = performance.now() + AWAKE_MS
    while (performance.now() < asleep) {
      const received = receive(this.#fd)
      if (received) return received
    }
    return waitReadable(this.#fd, ANSWER_LIMIT_MS) ? receive(this.#fd) : undefined
  }
}

function gone(operation: string, cause?: unknown): LuoError {
  return new LuoError('ENODEV', `${operation}: luod is gone, or does not answer`, { cause })
}
