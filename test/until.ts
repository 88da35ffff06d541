/** For tests: waits for what will be so, and fails with `what` when it is not. */
const LIMIT_MS = 20_000
const PAUSE_MS = 1

export async function until(condition: () => boolean, what: string): Promise<void> {
  for (const deadline = performance.now() + LIMIT_MS; !condition(); ) {
    if (performance.now() > deadline) throw new Error(`waited in vain: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS))
  }
}
