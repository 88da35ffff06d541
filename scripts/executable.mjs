// After the compiler: the files behind the package's commands must be executable, also in a checkout.
import { chmodSync, readFileSync } from 'node:fs'

const { bin } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
for (const path of new Set(Object.values(bin))) chmodSync(new URL(`../${path}`, import.meta.url), 0o755)
