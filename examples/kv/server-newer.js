// A bad version: it cannot read the state as it is. It is turned away before the old version is asked for anything.
import { run } from './service.js'

await run({ version: 'newer', accepts: ['store/2'] })
