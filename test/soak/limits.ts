/** How long the soak test waits for what has to happen, and between two looks. */

export const WAIT_LIMIT_MS = 30_000
export const WAIT_MS = 10
