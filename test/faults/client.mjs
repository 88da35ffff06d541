// A client that always has a request under way, for tests that kill it: it keeps files in a session of its own.
import { openSession } from 'liveupdate'
import { createMemfd } from '../../dist/sys/memfd.js'
import { inheritStdio } from '../../dist/sys/node.js'

const session = await openSession(process.argv[2], { socket: process.argv[3] })
for (let token = 0; ; token++) {
  const fd = createMemfd('client', { size: 4096 })
  await session.preserve(token, inheritStdio(fd))
  fd.close()
  if (token > 3) await session.unpreserve(token - 4)
  // Others want the processor too.
  await new Promise((resolve) => setTimeout(resolve, 3))
}
