/**
 * `luoctl inspect --kernel`: what the running kernel hands over at a kexec, and what was handed to it, from the debugfs
 * of KHO. It only reads. Not all there is what it seems: `out/fdt` is shown without its end, and not at all by a kernel
 * that was started by a kexec itself; `in/sub_fdts` shows memory that is freed once it was read, with something else in
 * it. This is said, and is no error. The records behind the addresses cannot be read from user space.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { completeKernelTree, decodeKho, KHO_COMPATIBLE } from '../abi/kho.js'
import { decodeLuoSer, LUO_COMPATIBLE, LUO_SER_BYTES } from '../abi/luo.js'
import { asLuoError, type ErrnoName, LuoError } from '../errors.js'
import { FileReader } from '../sys/file-reader.js'
import { type Context, EXIT } from './context.js'
import { addTable, clean } from './format.js'

const KHO_DEBUGFS = '/sys/kernel/debug/kho'
/** How a luo_ser begins, whatever its version. */
const LUO_ANY_VERSION = 'luo-v'
/** Far more than a tree of KHO has. */
const MAX_BYTES = 2 ** 20

export interface KernelSide {
  /** Undefined when it is not shown, or in part and cannot be completed. */
  tree: { memory_map: string; subtrees: { name: string; address: string; size: string }[] } | undefined
  /** Subtrees by their files, and how many bytes each shows. */
  shown: { name: string; bytes: number }[]
  /** LUO's own; undefined when there is none, or its memory holds something else by now. */
  luo: { liveupdate_number: string; sessions: string; flbs: string } | undefined
}

export interface KernelHandover {
  /** What the next kernel gets. */
  out: KernelSide
  /** What this kernel got; undefined when it was not started by a kexec with a handover. */
  in: KernelSide | undefined
  /** Memory in which the next kernel starts: `address` and `bytes`, in decimal. */
  scratch: { address: string; bytes: string }[]
}

export async function inspectKernelCommand(context: Context): Promise<number> {
  const handover = readKernelHandover()
  if (context.json) {
    const json = { format: KHO_COMPATIBLE, luo: LUO_COMPATIBLE, ...handover, in: handover.in ?? null }
    context.out(JSON.stringify(json))
  } else for (const line of linesOf(handover)) context.out(line)
  return EXIT.OK
}

/** ENOENT without KHO, or where debugfs is not mounted; EACCES for others than root. */
export function readKernelHandover(folder = KHO_DEBUGFS): KernelHandover {
  try {
    readdirSync(folder)
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code as ErrnoName
    const advice = code === 'EACCES' ? 'only root may look' : 'is debugfs mounted, and KHO on (kho=on)?'
    throw new LuoError(code, `look at ${folder}: ${advice}`, { cause: error })
  }
  const incoming = join(folder, 'in')
  return {
    out: sideOf(join(folder, 'out')),
    in: existsSync(join(incoming, 'fdt')) ? sideOf(incoming) : undefined,
    scratch: scratchOf(join(folder, 'out')),
  }
}

function sideOf(folder: string): KernelSide {
  const shown = listed(join(folder, 'sub_fdts')).map((name) => ({
    name,
    bytes: bytesOf(join(folder, 'sub_fdts', name)).length,
  }))
  const path = join(folder, 'fdt')
  const whole = existsSync(path) ? completeKernelTree(bytesOf(path)) : undefined
  const kho = whole && decodeKho(whole)
  const tree = kho && {
    memory_map: String(kho.memoryMap),
    subtrees: [...kho.subtrees].map(([name, { address, size }]) => ({
      name,
      address: String(address),
      size: String(size),
    })),
  }
  return { tree, shown, luo: luoOf(join(folder, 'sub_fdts', 'LUO')) }
}

function luoOf(path: string): KernelSide['luo'] {
  if (!existsSync(path)) return undefined
  const bytes = bytesOf(path).subarray(0, LUO_SER_BYTES)
  // Else it is memory that was freed.
  if (!Buffer.from(bytes).toString('latin1').startsWith(LUO_ANY_VERSION)) return undefined
  const { liveupdateNumber, sessions, flbs } = decodeLuoSer(bytes)
  return { liveupdate_number: String(liveupdateNumber), sessions: String(sessions), flbs: String(flbs) }
}

function scratchOf(folder: string): KernelHandover['scratch'] {
  const addresses = numbersIn(join(folder, 'scratch_phys'))
  const lengths = numbersIn(join(folder, 'scratch_len'))
  // One for each memory node, and some are empty.
  return addresses.map((address, i) => ({ address, bytes: lengths[i] ?? '0' })).filter(({ bytes }) => bytes !== '0')
}

/** Numbers of a file of text, hexadecimal ones too, in decimal. */
function numbersIn(path: string): string[] {
  if (!existsSync(path)) return []
  const text = readFileSync(path, 'latin1')
  return [...text.matchAll(/0x[0-9a-f]+|\d+/gi)].map(([number]) => String(BigInt(number)))
}

function listed(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).sort() : []
}

function bytesOf(path: string): Uint8Array {
  try {
    using reader = FileReader.open(path)
    return reader.read(0, MAX_BYTES)
  } catch (error) {
    throw asLuoError(error, 'EIO', `read ${path}`)
  }
}

function linesOf(handover: KernelHandover): string[] {
  const lines = sideLines('handed over at the next kexec', handover.out)
  lines.push(
    '',
    ...(handover.in ? sideLines('handed to this kernel', handover.in) : ['handed to this kernel: nothing']),
  )
  const rows = handover.scratch.map(({ address, bytes }) => [address, bytes])
  if (rows.length === 0) return lines
  lines.push('', 'scratch memory')
  addTable(lines, ['ADDRESS', 'BYTES'], rows)
  return lines
}

function sideLines(title: string, { tree, shown, luo }: KernelSide): string[] {
  const lines = [`${title}: KHO tree ${KHO_COMPATIBLE}${tree ? `, memory map at ${tree.memory_map}` : ''}`]
  if (tree) {
    const rows = tree.subtrees.map(({ name, address, size }) => [clean(name), address, size])
    addTable(lines, ['SUBTREE', 'ADDRESS', 'BYTES'], rows)
  } else {
    lines.push('  (debugfs does not show the tree; these are the subtrees that it has files of)')
    const rows = shown.map(({ name, bytes }) => [clean(name), String(bytes)])
    addTable(lines, ['SUBTREE', 'BYTES'], rows)
  }
  const at = (address: string) => (address === '0' ? 'none' : `at ${address}`)
  if (luo) {
    lines.push(`  ${LUO_COMPATIBLE}: live update ${luo.liveupdate_number}`)
    lines.push(`    sessions  ${at(luo.sessions)}`, `    FLBs      ${at(luo.flbs)}`)
  } else if (shown.some(({ name }) => name === 'LUO')) {
    lines.push('  LUO: its memory was freed after it was read, and holds something else')
  }
  return lines
}
