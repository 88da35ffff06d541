/**
 * Storing and retrieving descriptors: luod beside s6-fdholder-daemon, in turn, the same files, each through a client in
 * this process that keeps its connection. One file a call, and as many as either takes at once: luod 253 in a message,
 * which it checks and records; s6-fdholder-daemon one in a message with several messages under way, and 253 in its
 * `setdump`, which is there to bring back a whole state.
 */
import { createMemfd } from '../dist/sys/memfd.js'
import { Luod, MAX_FDS, preserve } from './tools/luod.mjs'
import { FdHolder } from './tools/s6.mjs'
import { summary } from './tools/stats.mjs'

const UNDER_WAY = 32

export async function measureFdHolder({ quick, say }) {
  if (!FdHolder.available()) return { skipped: 's6-fdholder-daemon is not there: apt-get install s6' }
  const files = quick ? 300 : 2_000
  const rounds = quick ? 2 : 7
  const fds = Array.from({ length: files }, (_, index) => createMemfd(`bench-${index}`, { size: 4096 }))
  const names = fds.map((_, index) => index)
  const rates = {}
  const timed = async (side, what, run) => {
    const startedAt = performance.now()
    await run()
    rates[side] ??= {}
    rates[side][what] ??= []
    rates[side][what].push((files / (performance.now() - startedAt)) * 1000)
  }
  const luod = await Luod.start()
  const holder = await FdHolder.start(files + 10)
  try {
    const { client, session } = await luod.join('bench')
    const tokens = names.map((index) => String(1 + index))
    const unpreserve = (id) => client.call('Unpreserve', { id, session, tokens })
    const removeAll = async (name) => {
      for (const index of names) await holder.remove(`${name}-${index}`)
    }
    for (let round = 0; round <= rounds; round++) {
      await timed('liveupdate', 'store_one', () => preserve(client, session, fds, 1, 1))
      await timed('liveupdate', 'retrieve_one', async () => {
        for (const token of tokens) {
          const { fds: got } = await client.call('Retrieve', { session, tokens: [token] })
          for (const fd of got) fd.close()
        }
      })
      await unpreserve(`one-${round}`)
      await timed('s6_fdholder', 'store_one', () => holder.store(fds, 'one', 4))
      await timed('s6_fdholder', 'retrieve_one', async () => {
        for (const index of names) (await holder.retrieve(`one-${index}`)).close()
      })
      await removeAll('one')
      await timed('liveupdate', 'store', () => preserve(client, session, fds, 1, MAX_FDS))
      await unpreserve(`many-${round}`)
      await timed('s6_fdholder', 'store', () => holder.store(fds, 'many', UNDER_WAY))
      await removeAll('many')
      await timed('s6_fdholder', 'setdump', () => holder.setDump(fds, 'dump', MAX_FDS))
      await removeAll('dump')
      // The first round warms up.
      if (round === 0)
        for (const side of Object.values(rates)) for (const values of Object.values(side)) values.length = 0
      say(`round ${round} of ${rounds}`)
    }
  } finally {
    for (const fd of fds) fd.close()
    await holder.close()
    await luod.close()
  }
  const summaries = (side) =>
    Object.fromEntries(Object.entries(rates[side]).map(([what, values]) => [`${what}_per_s`, summary(values)]))
  return { liveupdate: summaries('liveupdate'), s6_fdholder: summaries('s6_fdholder') }
}
