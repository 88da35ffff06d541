/** docs/formats.md has every format with the version that the code writes, and every ioctl as the code has it. */
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { CROSSING_VERSION } from '../src/abi/crossing.js'
import { IMAGE_MAGIC, IMAGE_VERSION, KHO_COMPATIBLE } from '../src/abi/kho.js'
import { LUO_COMPATIBLE, MAX_BLOCKS, MAX_FILES_PER_SESSION, MAX_FLBS, MAX_SESSIONS } from '../src/abi/luo.js'
import { MEMFD_COMPATIBLE } from '../src/abi/memfd.js'
import { RECORDS_VERSION } from '../src/abi/records.js'
import { IOCTLS } from '../src/abi/uapi.js'
import { MANIFEST_FORMAT_VERSION } from '../src/client/manifest.js'
import { MACHINES_VERSION } from '../src/daemon/machines-state.js'

const TEXT = readFileSync(new URL('../docs/formats.md', import.meta.url), 'utf8')

test('every format is in the table, with its version and a source that is there', () => {
  const formats = [...TEXT.matchAll(/^\| (\S+|.+?) \| [^|]+ \| [^|]+ \| `(src\/\S+)` \|$/gm)]
  expect(formats.map(([, name]) => name?.replaceAll('`', ''))).toEqual([
    `luod-records/${RECORDS_VERSION}`,
    `luod-crossing/${CROSSING_VERSION}`,
    `luod-machines/${MACHINES_VERSION}`,
    `${IMAGE_MAGIC} ${IMAGE_VERSION}`,
    KHO_COMPATIBLE,
    'device tree 17',
    LUO_COMPATIBLE,
    MEMFD_COMPATIBLE,
    `luo-manifest/${MANIFEST_FORMAT_VERSION}`,
    'ioctl type 0xBA',
  ])
  for (const [, , source = ''] of formats) {
    expect(readFileSync(new URL(`../${source}`, import.meta.url), 'utf8').length).toBeGreaterThan(0)
  }
})

test('the limits are those of the code', () => {
  for (const limit of [MAX_BLOCKS, MAX_SESSIONS, MAX_FILES_PER_SESSION]) {
    expect(TEXT).toContain(limit.toLocaleString('en'))
  }
  expect(TEXT).toContain(`There are ${MAX_FLBS} FLBs at most`)
})

test('every ioctl is there, with its number, size, place and fields', () => {
  const rows = [...TEXT.matchAll(/^\| (0x\w\w) \| ([\w ]+), (\d+) bytes \| ([\w ]+) \| (.+) \|$/gm)]
  const written = rows.map(([, number, name, bytes, on, layout = '']) => ({
    number,
    name: name?.replaceAll(/ (\w)/g, (_all, letter: string) => letter.toUpperCase()),
    bytes,
    on,
    fields: layout.split(' · ').map((field) => field.split(' ')[1]?.replace(/\[\d+\]$/, '')),
  }))
  expect(written).toEqual(
    Object.values(IOCTLS).map(({ command, name, bytes, target, direction, fields }) => ({
      number: `0x${(command & 0xff).toString(16).padStart(2, '0')}`,
      name,
      bytes: String(bytes),
      on: direction === undefined ? target : `${direction} ${target}`,
      fields,
    })),
  )
})
