// A bad version: it restores everything and never says that it is ready.
import { run } from './service.js'

await run({ version: 'hang', beforeReady: () => new Promise(() => setInterval(() => {}, 60_000)) })
