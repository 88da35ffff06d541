// Version 1 of the key-value service: luoctl run kv --restart -- node examples/kv/server-v1.js
import { run } from './service.js'

await run({ version: 'v1' })
