import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { codeOf } from '../../test/code-of.js'
import { decodeFdt, encodeFdt, type FdtNode, fdtNode, MAX_FDT_BYTES } from './fdt.js'

const GOLDEN = new URL('../../test/golden/', import.meta.url)

const hex = (...parts: string[]) => Buffer.from(parts.join('').replaceAll(' ', ''), 'hex')
const value = (...bytes: number[]) => Uint8Array.from(bytes)

/** Structure and strings in hex, with a header that fits them. */
function tree(structure: string, strings = '', header: { version?: number; compatible?: number; more?: number } = {}) {
  const [body, names] = [hex(structure), hex(strings)]
  const words = [
    ...[0xd00dfeed, 56 + body.length + names.length + (header.more ?? 0), 56, 56 + body.length, 40],
    ...[header.version ?? 17, header.compatible ?? 16, 0, names.length, body.length],
  ]
  const bytes = Buffer.alloc(40)
  words.forEach((word, index) => void bytes.writeUInt32BE(word, index * 4))
  return Buffer.concat([bytes, Buffer.alloc(16), body, names])
}

describe('the bytes of a device tree', () => {
  test('are header, reserve map, structure and strings', () => {
    const root = fdtNode([['ab', value(1, 2, 3, 4, 5)]])
    root.children.set('node', fdtNode([['ab', value()]]))
    expect(Buffer.from(encodeFdt(root)).toString('hex')).toBe(
      hex(
        'd00dfeed 0000007b 00000038 00000078 00000028 00000011 00000010 00000000 00000003 00000040',
        '0000000000000000 0000000000000000',
        '00000001 00000000 00000003 00000005 00000000 0102030405000000',
        '00000001 6e6f6465 00000000 00000003 00000000 00000000 00000002',
        '00000002 00000009 616200',
      ).toString('hex'),
    )
  })

  test('written by a kernel are read', () => {
    const root = decodeFdt(readFileSync(new URL('kho-in.bin', GOLDEN)))
    expect([...root.properties.keys()]).toEqual(['compatible', 'preserved-memory-map'])
    expect(Buffer.from(root.properties.get('compatible') ?? []).toString()).toBe('kho-v4\0')
    expect([...root.children.keys()]).toEqual(['LUO', 'kexec-metadata'])
    expect([...(root.children.get('LUO')?.properties ?? [])].map(([name, { length }]) => [name, length])).toEqual([
      ['blob-size', 8],
      ['preserved-data', 8],
    ])
  })

  test('that debugfs cuts off are LUO_RECORDS, and the message says so', () => {
    const cut = readFileSync(new URL('kho-out-cut.bin', GOLDEN))
    expect(codeOf(() => decodeFdt(cut))).toBe('LUO_RECORDS')
    expect(() => decodeFdt(cut)).toThrow('it has 285 bytes, and 233 are there')
  })

  test('may have tokens that mean nothing, and bytes behind the end', () => {
    const root = decodeFdt(Buffer.concat([tree('00000004 00000001 00000000 00000004 00000002 00000009'), value(1)]))
    expect(root).toEqual(fdtNode())
  })
})

const nodes: fc.Arbitrary<FdtNode> = fc.letrec<{ node: FdtNode; children: Map<string, FdtNode> }>((tie) => ({
  node: fc.record({
    properties: fc
      .uniqueArray(fc.tuple(name(), fc.uint8Array({ maxLength: 20 })), { selector: ([key]) => key, maxLength: 5 })
      .map((list) => new Map(list)),
    children: tie('children'),
  }),
  children: fc.oneof(
    { maxDepth: 3 },
    fc.constant(new Map<string, FdtNode>()),
    fc
      .uniqueArray(fc.tuple(name(), tie('node')), { selector: ([key]) => key, maxLength: 3 })
      .map((list) => new Map(list)),
  ),
})).node

function name(): fc.Arbitrary<string> {
  return fc.string({ unit: 'binary', minLength: 1, maxLength: 12 }).filter((text) => !text.includes('\0'))
}

test('a tree is read as it was written', () => {
  fc.assert(
    fc.property(nodes, (root) => {
      const read = decodeFdt(encodeFdt(root))
      expect(plain(read)).toEqual(plain(root))
    }),
  )
})

function plain(node: FdtNode): unknown {
  return {
    properties: [...node.properties].map(([key, bytes]) => [key, Buffer.from(bytes).toString('hex')]),
    children: [...node.children].map(([key, child]) => [key, plain(child)]),
  }
}

function nested(levels: number): FdtNode {
  const root = fdtNode()
  if (levels > 1) root.children.set('a', nested(levels - 1))
  return root
}

describe('limits', () => {
  test('of depth, names and size are EINVAL when a tree is written', () => {
    expect(decodeFdt(encodeFdt(nested(16)))).toEqual(nested(16))
    expect(codeOf(() => encodeFdt(nested(17)))).toBe('EINVAL')
    for (const bad of ['', 'a\0b', 'x'.repeat(256)]) {
      expect(codeOf(() => encodeFdt(fdtNode([[bad, value()]])))).toBe('EINVAL')
      expect(codeOf(() => encodeFdt({ properties: new Map(), children: new Map([[bad, fdtNode()]]) }))).toBe('EINVAL')
    }
    expect(codeOf(() => encodeFdt(fdtNode([['a', new Uint8Array(MAX_FDT_BYTES)]])))).toBe('EINVAL')
  })

  const node = '00000001 61000000'
  test.each([
    ['nothing', Buffer.alloc(0)],
    ['a header alone', tree('')],
    ['another magic', Buffer.alloc(100)],
    ['more bytes than there are', tree('00000001 00000000 00000002 00000009', '', { more: 1 })],
    [
      'more than the most',
      Buffer.concat([tree('00000001 00000000 00000002 00000009', '', { more: MAX_FDT_BYTES })], 2 ** 21),
    ],
    ['no end', tree('00000001 00000000 00000002')],
    ['an open node', tree('00000001 00000000 00000009')],
    ['no node', tree('00000009')],
    ['two roots', tree('00000001 00000000 00000002 00000001 00000000 00000002 00000009')],
    ['a root with a name', tree(`${node} 00000002 00000009`)],
    ['a child without a name', tree('00000001 00000000 00000001 00000000 00000002 00000002 00000009')],
    ['a child twice', tree(`00000001 00000000 ${node} 00000002 ${node} 00000002 00000002 00000009`)],
    ['17 levels', tree(`00000001 00000000 ${node.repeat(16)} ${'00000002'.repeat(17)} 00000009`)],
    ['an end too many', tree('00000001 00000000 00000002 00000002 00000009')],
    ['a property outside of the root', tree('00000003 00000000 00000000 00000009', '6100')],
    ['a property twice', tree(`00000001 00000000 ${'00000003 00000000 00000000'.repeat(2)} 00000002 00000009`, '6100')],
    ['a property without a name', tree('00000001 00000000 00000003 00000000 00000000 00000002 00000009', '00')],
    ['a name outside of the strings', tree('00000001 00000000 00000003 00000000 00000009 00000002 00000009', '6100')],
    ['a name without an end', tree('00000001 00000000 00000003 00000000 00000000 00000002 00000009', '6161')],
    [
      'a name that is too long',
      tree('00000001 00000000 00000003 00000000 00000000 00000002 00000009', '61'.repeat(999)),
    ],
    ['a value of 4 GiB', tree('00000001 00000000 00000003 ffffffff 00000000 00000002 00000009', '6100')],
    ['a token of no meaning', tree('00000001 00000000 00000005 00000002 00000009')],
  ])('%s is LUO_RECORDS', (_what, bytes) => {
    expect(codeOf(() => decodeFdt(bytes))).toBe('LUO_RECORDS')
  })

  test('versions that do not have what is needed are LUO_RECORDS_VERSION', () => {
    const structure = '00000001 00000000 00000002 00000009'
    expect(codeOf(() => decodeFdt(tree(structure, '', { version: 16 })))).toBe('LUO_RECORDS_VERSION')
    expect(codeOf(() => decodeFdt(tree(structure, '', { version: 18, compatible: 18 })))).toBe('LUO_RECORDS_VERSION')
    expect(decodeFdt(tree(structure, '', { version: 18, compatible: 17 }))).toEqual(fdtNode())
  })
})
