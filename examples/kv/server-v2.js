// Version 2 of the key-value service: luoctl update kv -- node examples/kv/server-v2.js
import { run } from './service.js'

await run({ version: 'v2' })
