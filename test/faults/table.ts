/**
 * The faults that an update is tested with: who is killed, or stands still, at which point, and what must be true
 * afterwards. `faults.test.ts` goes through all of them; docs/update.md refers to their numbers.
 *
 * A point is a call to luod by one of the versions, before it is sent or after it is answered, so that together they
 * stand for every transition of the update. `serving` is who answers afterwards: `old` and `new` on the connections
 * that were open before, `restarted` on a new one, with the state that was there.
 */
import { INTERFACE_NAME } from '../../src/protocol/interface.js'
import type { FaultPoint } from '../../src/testing/index.js'

export interface FaultRow {
  number: number
  /** The version in which it happens. */
  in: 'old' | 'new'
  point: FaultPoint
  outcome: 'committed' | 'rolledBack' | 'orphaned'
  code?: string
  serving: 'old' | 'new' | 'restarted'
}

function row(
  number: number,
  at: FaultRow['in'],
  text: string,
  rest: Pick<FaultRow, 'outcome' | 'code' | 'serving'>,
): FaultRow {
  const [action, victim, when, call] = text.split(' ') as [
    FaultPoint['action'],
    FaultPoint['victim'],
    FaultPoint['when'],
    FaultPoint['call'],
  ]
  return { number, in: at, point: { action, victim, when, call }, ...rest }
}

const rolledBack = { outcome: 'rolledBack', code: 'LUO_GONE', serving: 'old' } as const
const tooLate = { outcome: 'rolledBack', code: 'LUO_DEADLINE', serving: 'old' } as const
const unsupervised = { outcome: 'rolledBack', code: 'LUO_NO_SUPERVISOR', serving: 'old' } as const
const committed = { outcome: 'committed', serving: 'new' } as const
const oldDied = { outcome: 'orphaned', code: 'LUO_GONE', serving: 'restarted' } as const

export const FAULTS: readonly FaultRow[] = [
  row(1, 'new', 'kill self before Join', rolledBack),
  row(2, 'new', 'kill self after Join', rolledBack),
  row(3, 'new', 'kill self before Claim', rolledBack),
  row(4, 'new', 'kill self after Claim', rolledBack),
  row(5, 'new', 'kill self before Commit', rolledBack),
  row(6, 'new', 'kill self after Commit', { outcome: 'committed', serving: 'restarted' }),
  row(7, 'new', 'hang self before Join', tooLate),
  row(8, 'new', 'hang self before Claim', tooLate),
  row(9, 'new', 'hang self before Commit', tooLate),
  row(10, 'new', 'kill old before Join', oldDied),
  row(11, 'new', 'kill old before Claim', oldDied),
  row(12, 'new', 'kill old after Claim', committed),
  row(13, 'new', 'kill old before Commit', committed),
  row(14, 'old', 'kill self before Ready', oldDied),
  row(15, 'old', 'kill self after Ready', committed),
  row(16, 'old', 'kill self before Released', committed),
  row(17, 'old', 'kill self after Released', committed),
  row(18, 'old', 'hang self before Ready', tooLate),
  row(19, 'old', 'hang self before Released', committed),
  row(20, 'new', 'kill supervisor before Join', unsupervised),
  row(21, 'new', 'kill supervisor before Claim', unsupervised),
  row(22, 'old', 'kill supervisor before Ready', unsupervised),
  row(23, 'new', 'kill supervisor before Commit', unsupervised),
  row(24, 'old', 'kill supervisor before Released', committed),
  row(25, 'old', 'kill supervisor after Released', committed),
]

/** Messages that break the rules, as their bytes. `daemon/abuse.test.ts` goes through them. */
export interface MessageFault {
  number: number
  title: string
  parts: (string | Buffer)[]
}

const METHOD = INTERFACE_NAME

export const MESSAGE_FAULTS: readonly MessageFault[] = [
  { number: 26, title: 'no JSON', parts: ['this is not JSON\0'] },
  { number: 27, title: 'JSON that is no object', parts: ['[1,2,3]\0'] },
  { number: 28, title: 'a request without a method', parts: ['{"parameters":{}}\0'] },
  { number: 29, title: 'parameters that are a list', parts: [`{"method":"${METHOD}.List","parameters":[]}\0`] },
  {
    number: 30,
    title: 'files declared and not sent',
    parts: [`{"method":"${METHOD}.Preserve","parameters":{"fds":3}}\0`],
  },
  {
    number: 31,
    title: 'a negative number of files',
    parts: [`{"method":"${METHOD}.Preserve","parameters":{"fds":-1}}\0`],
  },
  { number: 32, title: 'bytes that are no text', parts: [Buffer.from([0xff, 0xfe, 0x80, 0x01, 0])] },
  { number: 33, title: 'an endless message', parts: Array(40).fill('x'.repeat(64 * 1024)) },
  {
    number: 34,
    title: 'nesting without end',
    parts: [`{"method":"${METHOD}.List","parameters":${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}}\0`],
  },
]
