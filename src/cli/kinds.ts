/** `luoctl kinds`: which kinds of files are kept, and what of them crosses what. It needs no luod. */
import { type Crossing, kindRows } from '../handlers/kinds.js'
import { type Context, EXIT } from './context.js'
import { table } from './format.js'

const HOW = { kernel: 'by the kernel', value: 'by value', nothing: 'refused' } as const

function overKexec(crosses: Crossing | undefined): string {
  if (!crosses) return ''
  const { by, what } = crosses.kexec
  // The reason for a refusal is a sentence: --json has it, and docs/kinds.md.
  return by === 'nothing' ? HOW[by] : `${HOW[by]}: ${what}`
}

export async function kindsCommand(context: Context): Promise<number> {
  const rows = kindRows()
  if (context.json) {
    context.out(JSON.stringify({ kinds: rows }))
    return EXIT.OK
  }
  const kept = rows.filter((row) => row.kept)
  const lines = [
    ...table(
      ['KEPT', 'WHAT IT IS', 'OVER A KEXEC', 'PROPERTIES'],
      kept.map(({ kind, what, crosses, properties }) => [
        kind,
        what,
        overKexec(crosses),
        Object.keys(properties ?? {}).join(', '),
      ]),
    ),
    '',
    ...table(
      ['REFUSED', 'WHY'],
      rows.filter((row) => !row.kept).map(({ kind, reason }) => [kind, reason ?? '']),
    ),
  ]
  for (const line of lines) context.out(line)
  return EXIT.OK
}
