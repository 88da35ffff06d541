/** Started by the fake manager: says what it was given, as JSON, and that no variable is left for its children. */
import { readFileSync } from 'node:fs'
import { receivedFiles } from '../../dist/daemon/fd-store.js'
import { inheritedFiles } from '../../dist/sys/listen-fds.js'

const { entries, others, outdated } = receivedFiles(inheritedFiles())
const text = ({ fd }) => readFileSync(`/proc/self/fd/${fd.number}`, 'utf8')
console.log(
  JSON.stringify({
    entries: Object.fromEntries([...entries].map(([key, file]) => [key, text(file)])),
    others: others.map(({ name }) => name),
    outdated,
    again: inheritedFiles().length,
    variables: Object.keys(process.env).filter((name) => name.startsWith('LISTEN_')),
  }),
)
