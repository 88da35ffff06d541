// Writes docs/kinds.md from the table of kinds. Needs a build: npm run generate does both.
import { writeFileSync } from 'node:fs'
import { kindsPage } from '../dist/handlers/kinds-page.js'

writeFileSync(new URL('../docs/kinds.md', import.meta.url), kindsPage())
