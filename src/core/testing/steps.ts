/** What the property test does to the orchestrator and to the model of it, as data. */

export type Side = 'outgoing' | 'incoming'

export type Step =
  | { do: 'create' | 'retrieveSession'; name: string }
  /** `session` counts those that are known; `file` is the name of one of FILES, `place` counts tokens. */
  | { do: 'preserve'; session: number; files: { token: string; file: string }[] }
  | { do: 'unpreserve' | 'reference'; session: number; places: number[] }
  | { do: 'retrieve'; session: number; place: number }
  | { do: 'finish' | 'release'; session: number }
  | { do: 'orphan' | 'claim'; session: number }
  | { do: 'freeze' | 'unfreeze' | 'commit'; sessions: number[] }
  | { do: 'freezeAll' | 'unfreezeAll' | 'serialize' }
  /** All the way to a next generation, in which handler `a` has another name, or is not there. */
  | { do: 'transition'; a: string | undefined }
  | { do: 'end' }
  | { do: 'get' | 'put'; side: Side; flb: string }
  /** The `nth` next call of an operation fails, with ENOMEM or with what is no LuoError. */
  | { do: 'fail'; operation: string; nth: number; code: 'ENOMEM' | 'EIO' }
  /** Handler `a` refuses to be finished so many times. */
  | { do: 'refuse'; times: number }

/** Each is one open file. Those of one inode are one file for handler `a`, and several for `b`; nobody takes `c0`. */
export const FILES: readonly { name: string; inode: string }[] = [
  { name: 'a0', inode: 'i0' },
  { name: 'a1', inode: 'i0' },
  { name: 'a2', inode: 'i2' },
  { name: 'a3', inode: 'i3' },
  { name: 'b0', inode: 'i4' },
  { name: 'b1', inode: 'i4' },
  { name: 'b2', inode: 'i4' },
  { name: 'b3', inode: 'i4' },
  { name: 'b4', inode: 'i5' },
  { name: 'c0', inode: 'i6' },
]
