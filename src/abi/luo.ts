/** What crosses a transition, as values. */
export interface LuoState {
  liveupdateNumber: bigint
  sessions: { name: string; files: { compatible: string; data: bigint; token: string }[] }[]
  flbs: { compatible: string; data: bigint; count: bigint }[]
}
