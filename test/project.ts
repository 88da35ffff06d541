/** The folder of this project, also for tests that were compiled into its `build`. */
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

function above(folder: string): string {
  return existsSync(join(folder, 'package.json')) ? folder : above(dirname(folder))
}

export const PROJECT = above(dirname(fileURLToPath(import.meta.url)))
