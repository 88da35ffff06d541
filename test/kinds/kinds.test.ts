/**
 * Goes through the table of kinds: every property of every kind has a proof, and each is run over every crossing. Needs
 * root, for huge pages and for the refused kinds that only root may open.
 */
import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { KEPT_KINDS, type KeptFileKind, REFUSED_KINDS } from '../../src/handlers/kinds.js'
import { referenceHandlers } from '../../src/handlers/reference.js'
import { countOpenFds, type Fd } from '../../src/sys/fd.js'
import { fileInfo, sameOpenFile } from '../../src/sys/file-info.js'
import { CROSSINGS, type Cross, fileToPreserve, orchestratorOf } from './crossing.js'
import { failsWith, Kit, O_CLOEXEC } from './kit.js'
import { MAKERS, PROOFS, REFUSED_MAKERS } from './proofs.js'

const KINDS = Object.keys(KEPT_KINDS) as KeptFileKind[]
const PROPERTIES = KINDS.flatMap((kind) => Object.keys(KEPT_KINDS[kind].properties).map((id) => [kind, id] as const))

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

function closesOnExec(fd: Fd): boolean {
  const [, flags = ''] = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'utf8')) ?? []
  return (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0
}

test('every property has a proof, and every proof a property', () => {
  const proofs = Object.entries(PROOFS).flatMap(([kind, ofKind]) => Object.keys(ofKind).map((id) => `${kind}: ${id}`))
  expect(proofs.toSorted()).toEqual(PROPERTIES.map(([kind, id]) => `${kind}: ${id}`).toSorted())
})

describe.each(CROSSINGS)('over %s', (_, cross, beside) => {
  test.each(PROPERTIES)('%s: %s', (kind, id) => {
    const prove = PROOFS[kind]?.[id]
    if (!prove) throw new Error(`there is no proof for ${kind}: ${id}`)
    let crossed = 0
    const checkedCross = ((files, meanwhile) => {
      crossed += 1
      const numbers = files.length
      const back = cross(files, meanwhile)
      // Whoever had them has closed them, and luod has let go of them: what is open is what came back.
      expect(files.every((fd) => fd.closed)).toBe(true)
      for (const fd of back as Fd[]) kit.own(fd)
      expect(back).toHaveLength(numbers)
      expect((back as Fd[]).map(closesOnExec)).toEqual(files.map(() => true))
      expect(fileInfo(back[0] as Fd).kind).toBe(kind)
      return back
    }) as Cross
    prove(kit, checkedCross)
    expect(crossed).toBeGreaterThan(0)
  })

  test.each(KINDS)('%s: comes back as the same open file, and costs one descriptor until it does', (kind) => {
    const fd = MAKERS[kind](kit)
    const witness = kit.own(fd.dup())
    const open = countOpenFds()
    const [back] = cross([fd], () => expect(countOpenFds()).toBe(open + beside))
    expect(sameOpenFile(kit.own(back), witness)).toBe(true)
    expect(countOpenFds()).toBe(open)
  })
})

test.each(KINDS)('%s: preserved again, in any session, is EBUSY, and another one is not', (kind) => {
  const orchestrator = orchestratorOf(referenceHandlers())
  const [session, other] = [orchestrator.createSession('0', 'web'), orchestrator.createSession('1', 'other')]
  const fd = MAKERS[kind](kit)
  orchestrator.preserve(session, [fileToPreserve('0', fd)])
  for (const where of [session, other]) {
    const again = fileToPreserve('1', fd)
    kit.own(again.file.fd)
    expect(failsWith(() => orchestrator.preserve(where, [again]))).toBe('EBUSY')
    // On failure it stays the caller's.
    expect(again.file.fd.closed).toBe(false)
  }
  using another = new Kit()
  orchestrator.preserve(other, [fileToPreserve('1', MAKERS[kind](another))])
  orchestrator.unpreserve(session, ['0'])
  orchestrator.preserve(other, [fileToPreserve('2', fd)])
  orchestrator.end({ handedOver: false })
})

describe('refused with ENOENT, and the reason in the message', () => {
  const refused = Object.keys(REFUSED_KINDS).filter((kind) => kind !== 'luod')

  test('is every kind that is not kept', () => {
    expect(Object.keys(REFUSED_MAKERS).toSorted()).toEqual(refused.toSorted())
  })

  test.each(refused)('%s', (kind) => {
    const fd = REFUSED_MAKERS[kind]?.(kit) as Fd
    expect(fileInfo(fd).kind).toBe(kind)
    const orchestrator = orchestratorOf(referenceHandlers())
    const session = orchestrator.createSession('0', 'web')
    const file = fileToPreserve('0', fd)
    kit.own(file.file.fd)
    const preserve = () => orchestrator.preserve(session, [file])
    expect(failsWith(preserve)).toBe('ENOENT')
    expect(preserve).toThrow(REFUSED_KINDS[kind as keyof typeof REFUSED_KINDS].reason)
  })
})
