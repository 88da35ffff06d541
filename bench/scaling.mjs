/**
 * What one call through luod costs when it holds few files or sessions, and when it holds many: two luods, asked in
 * turn, in blocks of calls.
 */
import { randomUUID } from 'node:crypto'
import { closeAll } from '../dist/sys/fd.js'
import { raiseNofile } from '../dist/sys/limits.js'
import { createMemfd } from '../dist/sys/memfd.js'
import { Luod, MAX_FDS, preserve } from './tools/luod.mjs'
import { median, ratio, round } from './tools/stats.mjs'

const FEW = 1_000
const MANY = 15_000
const CALLS = 50
/** Open files beside those that are held: connections, libraries. */
const ROOM = 500

async function measure({ quick, say, name, fill, call }) {
  const { soft } = raiseNofile()
  const many = Math.min(MANY, soft - ROOM * 2)
  const luods = []
  try {
    const sides = []
    for (const count of [FEW, many]) {
      const luod = await Luod.start(['--limit', `files=${many + ROOM}`, '--limit', `sessions=${many + ROOM}`])
      luods.push(luod)
      const joined = await luod.join('bench')
      sides.push({ joined, held: await fill(joined, count), costs: [] })
      say(`${count} ${name} are held`)
    }
    const blocks = quick ? 5 : 25
    // The first two blocks warm up.
    for (let block = 0; block < blocks + 2; block++) {
      for (const { joined, costs } of block % 2 ? sides.toReversed() : sides) {
        const startedAt = performance.now()
        for (let count = 0; count < CALLS; count++) await call(joined)
        if (block >= 2) costs.push(((performance.now() - startedAt) * 1000) / CALLS)
      }
    }
    for (const { held } of sides) closeAll(held)
    const [few, lots] = sides.map(({ costs }) => costs)
    return {
      [`${name}_scaling_ratio`]: { ...ratio(few, lots), of: `${many} over ${FEW}` },
      [`${name}_scaling_us`]: { few: round(median(few)), many: round(median(lots)), n: blocks * CALLS },
    }
  } finally {
    for (const luod of luods) await luod.close()
  }
}

/** One call here: a file preserved and no longer preserved. */
export async function measureFilesScaling({ quick, say }) {
  const file = createMemfd('bench', { size: 4096 })
  let token = 1_000_000
  try {
    return await measure({
      quick,
      say,
      name: 'files',
      async fill({ client, session }, count) {
        for (let at = 0; at < count; at += MAX_FDS) {
          const fds = Array.from({ length: Math.min(MAX_FDS, count - at) }, () => createMemfd('bench', { size: 4096 }))
          await preserve(client, session, fds, 1 + at)
          closeAll(fds)
        }
        return []
      },
      async call({ client, session }) {
        // Each is another one, as they are in life.
        token += 1
        await preserve(client, session, [file], token)
        await client.call('Unpreserve', { id: randomUUID(), session, tokens: [String(token)] })
      },
    })
  } finally {
    file.close()
  }
}

/** One call here: a session made, and ended by closing its descriptor. */
export async function measureSessionsScaling({ quick, say }) {
  // Of no workload: one may have a few hundred.
  const create = async ({ client }, name) => {
    const { fds } = await client.call('CreateSession', { id: randomUUID(), name })
    return fds[0]
  }
  let made = 0
  return measure({
    quick,
    say,
    name: 'sessions',
    async fill(joined, count) {
      const held = []
      for (let index = 0; index < count; index++) held.push(await create(joined, `session-${index}`))
      return held
    },
    async call(joined) {
      const fd = await create(joined, `another-${made++}`)
      fd.close()
    },
  })
}
