// A good version that takes its time: whole 300 ms before it says so. Long enough to kill the old one meanwhile.
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from './service.js'

await run({ version: 'slow', beforeReady: () => sleep(300) })
