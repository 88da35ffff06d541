/**
 * Goes through what the table of kinds says of a kexec by value: every property of it has a proof. A file is described
 * and closed, the description goes through JSON, and what is made of it is looked at.
 */
import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { describe as describeFile, recreate } from '../../src/handlers/by-value.js'
import { KEPT_KINDS, type KeptFileKind, type KeptKind } from '../../src/handlers/kinds.js'
import { countOpenFds, type Fd } from '../../src/sys/fd.js'
import { fileInfo } from '../../src/sys/file-info.js'
import { BY_VALUE_PROOFS } from './by-value-proofs.js'
import { type Again, Kit, O_CLOEXEC } from './kit.js'

const PROPERTIES = (Object.keys(KEPT_KINDS) as KeptFileKind[]).flatMap((kind) => {
  const { byValue = {} }: KeptKind = KEPT_KINDS[kind]
  return Object.keys(byValue).map((id) => [kind, id] as const)
})

let kit: Kit
let openBefore: number
beforeEach(() => {
  openBefore = countOpenFds()
  kit = new Kit()
})
afterEach(() => {
  kit[Symbol.dispose]()
  expect(countOpenFds()).toBe(openBefore)
})

/** Also looks whether making it leaves anything open that was not there, and closes on exec. */
const again: Again = (fd, meanwhile = () => {}) => {
  const description = JSON.stringify(describeFile({ fd, info: fileInfo(fd) }))
  const { kind } = fileInfo(fd)
  fd.close()
  const open = countOpenFds()
  meanwhile()
  const back = kit.own(recreate(JSON.parse(description)))
  expect(countOpenFds()).toBe(open + 1)
  expect(closesOnExec(back)).toBe(true)
  expect(fileInfo(back).kind).toBe(kind)
  // What came back crosses the next kexec as well, as the same: nothing is lost bit by bit.
  expect(describeFile({ fd: back, info: fileInfo(back) })).toEqual(JSON.parse(description))
  return back
}

function closesOnExec(fd: Fd): boolean {
  const [, flags = ''] = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'utf8')) ?? []
  return (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0
}

test('every property has a proof, and every proof a property', () => {
  const proofs = Object.entries(BY_VALUE_PROOFS).flatMap(([kind, of]) => Object.keys(of).map((id) => `${kind}: ${id}`))
  expect(proofs.toSorted()).toEqual(PROPERTIES.map(([kind, id]) => `${kind}: ${id}`).toSorted())
})

test.each(PROPERTIES)('%s: %s', (kind, id) => {
  const prove = BY_VALUE_PROOFS[kind]?.[id]
  if (!prove) throw new Error(`there is no proof for ${kind}: ${id}`)
  let crossed = 0
  prove(kit, (fd, meanwhile) => {
    crossed += 1
    return again(fd, meanwhile)
  })
  expect(crossed).toBeGreaterThan(0)
})
