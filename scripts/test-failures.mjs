// node scripts/test-failures.mjs REPORT.json
// A line for each test that did not pass in a JSON report of Vitest, and the first lines of why.
import { readFileSync } from 'node:fs'

const LINES = 12

const report = JSON.parse(readFileSync(process.argv[2] ?? '', 'utf8'))
for (const file of report.testResults) {
  const bad = file.assertionResults.filter(({ status }) => status !== 'passed')
  for (const { status, fullName, failureMessages = [] } of bad)
    say(file.name, `${fullName} (${status})`, failureMessages)
  // It could not be loaded, or a hook of all of its tests has failed.
  if (file.message) say(file.name, 'the file', [file.message])
}

/** @param {string} file @param {string} name @param {string[]} messages */
function say(file, name, messages) {
  console.log(`test: ${file.replace(`${process.cwd()}/`, '')}: ${name}`)
  const lines = messages
    .join('\n')
    .split('\n')
    .filter((line) => line && !line.includes('node_modules'))
  for (const line of lines.slice(0, LINES)) console.log(`    ${line}`)
}
