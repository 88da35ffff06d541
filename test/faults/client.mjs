// A client that always has a request under way, for tests that kill it: it keeps files in a session of its own.
import { openSession } from 'liveupdate'
import { createMemfd } from '../../dist/sys/memfd.js'

const session = await openSession(process.argv[2], { socket: process.argv[3] })
const fd = createMemfd('client', { size: 4096 }).release()
for (let token = 0; ; token++) {
  await session.preserve(token, fd)
  if (token > 3) await session.unpreserve(token - 4)
}
