/** What preserving and retrieving files through luod costs: one file a call, and as many as go into one message. */
import { createMemfd } from '../dist/sys/memfd.js'
import { Luod, MAX_FDS, preserve } from './tools/luod.mjs'
import { distribution, summary } from './tools/stats.mjs'

const TOKEN = 1
/** Until the code is compiled, here and in luod. */
const WARM_ROUNDS = 5

export async function measurePreserve({ quick, say }) {
  const files = quick ? 500 : 4_000
  const rounds = quick ? 3 : 9
  const luod = await Luod.start()
  const fds = Array.from({ length: files }, (_, index) => createMemfd(`bench-${index}`, { size: 4096 }))
  const tokens = fds.map((_, index) => String(TOKEN + index))
  try {
    const { client, session } = await luod.join('bench')
    const batchPerSecond = []
    for (let round = 0; round < rounds + WARM_ROUNDS; round++) {
      const startedAt = performance.now()
      await preserve(client, session, fds, TOKEN)
      if (round >= WARM_ROUNDS) batchPerSecond.push((files / (performance.now() - startedAt)) * 1000)
      await client.call('Unpreserve', { id: `un-${round}`, session, tokens })
    }
    say(`in messages of ${MAX_FDS}: ${summary(batchPerSecond).median} files a second`)
    const preserveUs = []
    for (const [index, fd] of fds.entries()) {
      const startedAt = performance.now()
      await preserve(client, session, [fd], TOKEN + index, 1)
      preserveUs.push((performance.now() - startedAt) * 1000)
    }
    const retrieveUs = []
    for (const token of tokens) {
      const startedAt = performance.now()
      const { fds: got } = await client.call('Retrieve', { session, tokens: [token] })
      retrieveUs.push((performance.now() - startedAt) * 1000)
      for (const fd of got) fd.close()
    }
    const retrievePerSecond = []
    for (let round = 0; round < rounds; round++) {
      const startedAt = performance.now()
      for (let at = 0; at < files; at += MAX_FDS) {
        const { fds: got } = await client.call('Retrieve', { session, tokens: tokens.slice(at, at + MAX_FDS) })
        for (const fd of got) fd.close()
      }
      retrievePerSecond.push((files / (performance.now() - startedAt)) * 1000)
    }
    return {
      preserve_us: distribution(preserveUs),
      preserve_batch_per_s: summary(batchPerSecond),
      retrieve_us: distribution(retrieveUs),
      retrieve_batch_per_s: summary(retrievePerSecond),
    }
  } finally {
    for (const fd of fds) fd.close()
    await luod.close()
  }
}
