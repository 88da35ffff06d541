/** What luod has and leaves behind, seen from outside: descriptors, memory, records, processes. */
import { readdirSync, readFileSync } from 'node:fs'
import { decodeRecords } from '../../src/abi/records.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { fileSize, readAt } from '../../src/sys/memfd.js'
import { VarlinkClient } from '../../src/wire/client.js'

const KIB = 1024
const LIMIT_MS = 10_000
const POLL_MS = 20

export interface Sample {
  fds: number
  rssBytes: number
  /** Of what counts in them; their file goes up and down, by as much again and more. */
  recordsBytes: number
  /** Of the soak test, besides itself and luod. */
  processes: number
}

/** Waits until luod has no session, no workload and no connection but ours, then looks. */
export async function measure(socket: string, luod: number): Promise<Sample> {
  const client = await VarlinkClient.connect(socket)
  try {
    const end = performance.now() + LIMIT_MS
    let processes = processesOf(socket, luod)
    for (; performance.now() < end; processes = processesOf(socket, luod)) {
      const { workloads, sessions, files, connections } = (await client.call('Status', {})).parameters
      if (workloads + sessions + files + processes === 0 && connections === 1) break
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
    const { fds } = await client.call('Inspect', {})
    const recordsBytes = fds[0] ? liveBytes(fds[0]) : Number.NaN
    closeAll(fds)
    // One more request, so that luod has closed what it sent.
    await client.call('Status', {})
    const rss = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${luod}/status`, 'utf8'))?.[1]
    return { fds: readdirSync(`/proc/${luod}/fd`).length, rssBytes: Number(rss) * KIB, recordsBytes, processes }
  } finally {
    client.close()
  }
}

function liveBytes(records: Fd): number {
  const bytes = new Uint8Array(fileSize(records))
  readAt(records, bytes, 0)
  const { entries } = decodeRecords(bytes)
  const values = [...entries.values()].flatMap((ofType) => [...ofType.values()])
  return values.reduce((sum, value) => sum + JSON.stringify(value).length, 0)
}

/** How many have this luod's socket in their environment. */
function processesOf(socket: string, luod: number): number {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && ![process.pid, luod].includes(Number(name)))
  return pids.filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/environ`, 'latin1').includes(`LUO_SOCKET=${socket}\0`)
    } catch {
      // It has ended.
      return false
    }
  }).length
}

/** From the second quarter of the run to the last; the first one is for warming up. */
export function growth(values: readonly number[]): number {
  const quarter = Math.max(1, Math.floor(values.length / 4))
  const early = values.length >= 4 ? values.slice(quarter, 2 * quarter) : values.slice(0, 1)
  return median(values.slice(-quarter)) - median(early)
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}
