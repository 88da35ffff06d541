/**
 * The backend of the kernel's device, on an emulated one: it answers as on a real kernel, for which test/vm has a
 * machine.
 */
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { answers, CHECKS, translateScripts } from '../vm/scripts.js'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const LIMIT_MS = 60_000
type Json = Record<string, unknown>

test(
  'the device of an emulated machine answers as the contract says',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'luo-device-'))
    try {
      translateScripts(folder)
      const args = [LUOCTL, 'emulate', '--', process.execPath, join(folder, 'device.js')]
      const env = { ...process.env, LUO_SOCKET: join(folder, 'luod.sock') }
      const { stdout } = await promisify(execFile)(process.execPath, args, { env, timeout: LIMIT_MS })
      const json = stdout
        .split('\n')
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Json)
      expect(answers(json)).toEqual(CHECKS)
      expect(json.at(-1)).toEqual({ leaked: 0 })
    } finally {
      rmSync(folder, { recursive: true })
    }
  },
  LIMIT_MS,
)
