// A service for tests that has one memory in luod, and nothing to do.
import { join } from 'liveupdate'

const live = await join({ socket: process.argv[2] })
await live.memory('held', { size: 4096 })
await live.ready()
setInterval(() => {}, 60_000)
