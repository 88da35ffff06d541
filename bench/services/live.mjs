/** The app under liveupdate. */
import { join } from '../../dist/client/index.js'
import { createApp, port } from './app.mjs'

const live = await join()
process.once('SIGTERM', () => live.leave().finally(() => process.exit(0)))
await live.serve(createApp(), { host: '127.0.0.1', port })
await live.ready()
