/** What is fuzzed while it runs: each target's name, and how it is begun. `targets.ts` has the others. */
import { cClient, pythonClient, typeScriptClient } from './clients.js'
import { ioctls } from './ioctls.js'
import { luoctl } from './luoctl.js'
import { luod } from './luod.js'
import type { LiveTarget } from './target.js'

export const LIVE_TARGETS = {
  luod,
  ioctls,
  luoctl,
  typescript: typeScriptClient,
  c: cClient,
  python: pythonClient,
} satisfies Readonly<Record<string, () => Promise<LiveTarget>>>
