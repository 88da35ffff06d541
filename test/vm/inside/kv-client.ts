/**
 * A client of the key-value service. Writes key after key, each until it is acknowledged, and then into its journal, which is on
 * a disk. Started again, it looks first for every write in there. Whatever happens to its connections, it connects again.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { say } from './kit.js'

const JOURNAL = '/run/disk/journal'
const RETRY_MS = 50
const [, , service = '', writes = ''] = process.argv

async function ask(key: string, init: RequestInit = {}): Promise<Response> {
  for (;;) {
    const answer = await fetch(`${service}/kv/${key}`, init).catch(() => undefined)
    if (answer) return answer
    await setTimeout(RETRY_MS)
  }
}

const acknowledged = existsSync(JOURNAL) ? readFileSync(JOURNAL, 'latin1').split('\n').filter(Boolean) : []
const missing: string[] = []
for (const key of acknowledged) {
  if ((await (await ask(key)).text()) !== `value of ${key}`) missing.push(key)
}
say({ acknowledged: acknowledged.length, missing })
for (let count = 0; count < Number(writes); count++) {
  const key = `key ${acknowledged.length + count}`
  const { status } = await ask(key, { method: 'PUT', body: `value of ${key}` })
  if (status === 204) appendFileSync(JOURNAL, `${key}\n`)
}
