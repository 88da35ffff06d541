/** `luoctl kinds`: which kinds of files are kept, and what of them crosses what. It needs no luod. */
import { kindRows } from '../handlers/kinds.js'
import { type Context, EXIT } from './context.js'
import { table } from './format.js'

export async function kindsCommand(context: Context): Promise<number> {
  const rows = kindRows()
  if (context.json) {
    context.out(JSON.stringify({ kinds: rows }))
    return EXIT.OK
  }
  const kept = rows.filter((row) => row.kept)
  const lines = [
    ...table(
      ['KEPT', 'WHAT IT IS', 'OVER A KEXEC BY THE KERNEL', 'PROPERTIES'],
      kept.map(({ kind, what, crosses, properties }) => [
        kind,
        what,
        crosses?.kexec.replace(/:.*/, '') ?? '',
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
