/**
 * A client of the key-value service. Writes key after key, each until it is acknowledged. Its journal, which is on a
 * disk, says which it has begun and which were acknowledged. Started again, it looks first for every acknowledged one.
 * Whatever happens to its connections, it connects again.
 */
import { appendFileSync, existsSync, readFileSync } from 'node:fs'
import { setTimeout } from 'node:timers/promises'
import { JOURNAL, KEXEC_ASKED, say } from './kit.js'

const BEGUN = 'begun '
const ACKNOWLEDGED = 'acknowledged '
const RETRY_MS = 50
const [, , service = '', writes = ''] = process.argv

async function ask(key: string, init: RequestInit = {}): Promise<Response> {
  for (;;) {
    const answer = await fetch(`${service}/kv/${key}`, init).catch(() => undefined)
    if (answer) return answer
    await setTimeout(RETRY_MS)
  }
}

const journal = existsSync(JOURNAL) ? readFileSync(JOURNAL, 'latin1').split('\n').filter(Boolean) : []
const named = (word: string, lines = journal) =>
  lines.filter((line) => line.startsWith(word)).map((line) => line.slice(word.length))
const acknowledged = named(ACKNOWLEDGED)
const missing: string[] = []
for (const key of acknowledged) {
  if ((await (await ask(key)).text()) !== `value of ${key}`) missing.push(key)
}
const sinceAsked = named(ACKNOWLEDGED, journal.slice(journal.lastIndexOf(KEXEC_ASKED) + 1)).length
// It wrote until the machine went down if it was still waiting for its last one.
const waitedFor = journal.at(-1)?.startsWith(BEGUN) === true
say({ acknowledged: acknowledged.length, missing, sinceAsked, waitedFor })
for (let count = 0; count < Number(writes); count++) {
  const key = `key ${acknowledged.length + count}`
  appendFileSync(JOURNAL, `${BEGUN}${key}\n`)
  const { status } = await ask(key, { method: 'PUT', body: `value of ${key}` })
  if (status === 204) appendFileSync(JOURNAL, `${ACKNOWLEDGED}${key}\n`)
}
