/**
 * Handlers and FLBs of a plug-in, guarded: whatever their operations throw becomes a LuoError that names the plug-in
 * and the operation, and whatever they answer is looked at before it is believed. So a plug-in that is wrong costs the
 * request that it was asked for. The kernel's rule for operations that must not fail holds: what they throw is reported
 * as a defect by the orchestrator.
 */
import type { Flb } from '../core/flb.js'
import type { FileHandler } from '../core/handler.js'
import { type ErrnoName, LUO_CODES, LuoError } from '../errors.js'
import type { HeldFile } from '../handlers/held-file.js'
import { Fd } from '../sys/fd.js'

const MAX_U64 = 2n ** 64n - 1n
const ERRNO = /^E[A-Z0-9]{1,31}$/
/** Kept for every preserved file. */
const MAX_ID_LENGTH = 255

/** What an operation must answer, in words, and whether it did. */
interface Answer {
  expected: string
  good(answer: unknown): boolean
}

const isPromise = (answer: unknown) => typeof (answer as { then?: unknown } | null | undefined)?.then === 'function'
const isU64 = (answer: unknown) => typeof answer === 'bigint' && answer >= 0n && answer <= MAX_U64

const NOTHING: Answer = { expected: 'nothing', good: (answer) => !isPromise(answer) }
const BOOLEAN: Answer = { expected: 'true or false', good: (answer) => typeof answer === 'boolean' }
const KEPT: Answer = {
  expected: 'an object with data, a u64 as bigint',
  good: (answer) => isU64((answer as { data?: unknown } | null | undefined)?.data),
}

const HANDLER_ANSWERS: Readonly<Record<Exclude<keyof FileHandler<HeldFile>, 'compatible' | 'adoptsAhead'>, Answer>> = {
  canPreserve: BOOLEAN,
  preserve: KEPT,
  adopt: KEPT,
  unpreserve: NOTHING,
  freeze: {
    expected: 'a u64 as bigint, or undefined',
    good: (answer) => answer === undefined || isU64(answer),
  },
  unfreeze: NOTHING,
  retrieve: {
    expected: 'a file of context.adopt() or context.slots',
    good: (answer) => (answer as { fd?: unknown } | null | undefined)?.fd instanceof Fd,
  },
  canFinish: BOOLEAN,
  finish: NOTHING,
  getId: {
    expected: `a string of up to ${MAX_ID_LENGTH} characters`,
    good: (answer) => typeof answer === 'string' && answer.length <= MAX_ID_LENGTH,
  },
}

const FLB_ANSWERS: Readonly<Record<Exclude<keyof Flb, 'compatible'>, Answer>> = {
  preserve: KEPT,
  unpreserve: NOTHING,
  retrieve: { ...NOTHING, expected: 'the object' },
  finish: NOTHING,
  save: {
    expected: 'an object that JSON takes',
    good: (answer) => typeof answer === 'object' && answer !== null && !isPromise(answer),
  },
  load: KEPT,
}

/** `isOwn`: files that no plug-in may have, because they are luod's own. */
export function guardHandler(
  plugin: string,
  handler: FileHandler<HeldFile>,
  isOwn: (file: HeldFile) => boolean,
): FileHandler<HeldFile> {
  const guarded = guard(`plug-in ${plugin}, handler ${handler.compatible}`, handler, HANDLER_ANSWERS)
  const { canPreserve } = guarded
  if (typeof canPreserve !== 'function') return guarded
  return { ...guarded, canPreserve: (file) => !isOwn(file) && canPreserve(file) }
}

export function guardFlb(plugin: string, flb: Flb): Flb {
  return guard(`plug-in ${plugin}, FLB ${flb.compatible}`, flb, FLB_ANSWERS)
}

/** What is no function is left as it is, for the registry to refuse. */
function guard<T extends { readonly compatible: string }>(
  name: string,
  target: T,
  answers: Readonly<Record<string, Answer>>,
): T {
  const guarded: Record<string, unknown> = { compatible: target.compatible }
  for (const [operation, { expected, good }] of Object.entries(answers)) {
    const original = (target as Record<string, unknown>)[operation]
    if (typeof original !== 'function') {
      guarded[operation] = original
      continue
    }
    guarded[operation] = (...args: unknown[]) => {
      const action = `${name}, ${operation}`
      let answer: unknown
      try {
        answer = original.apply(target, args)
      } catch (error) {
        throw typed(error, action)
      }
      if (good(answer)) return answer
      const what = isPromise(answer) ? 'a promise; operations are synchronous' : typeof answer
      throw new LuoError('EIO', `${action}: it must answer ${expected}, and answered ${what}`)
    }
  }
  return guarded as unknown as T
}

/** With the code that it has, where that is one of ours or an errno name; else EIO. */
function typed(error: unknown, action: string): LuoError {
  const { code, message } = (error ?? {}) as { code?: unknown; message?: unknown }
  const known = typeof code === 'string' && (ERRNO.test(code) || Object.hasOwn(LUO_CODES, code))
  const text = typeof message === 'string' ? message : String(error)
  return new LuoError(known ? (code as ErrnoName) : 'EIO', `${action}: ${text}`, { cause: error })
}
