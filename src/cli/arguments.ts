/**
 * The command line before commander sees it. Everything after the first `--` is another program's command and is never
 * read as options of luoctl; an optional value (`--check [prepare]`) must not swallow the name that follows it. Pure.
 */

export interface SplitArguments {
  own: string[]
  /** What followed `--`; undefined when there was none. */
  command: string[] | undefined
}

export const CHECK_MODES = ['successor', 'prepare'] as const
export type CheckMode = (typeof CHECK_MODES)[number]

export function splitArguments(args: readonly string[]): SplitArguments {
  const dashes = args.indexOf('--')
  const own = dashes < 0 ? [...args] : args.slice(0, dashes)
  return { own: bindCheck(own), command: dashes < 0 ? undefined : args.slice(dashes + 1) }
}

/** `--check NAME` becomes `--check=successor NAME`; `--check prepare` becomes `--check=prepare`. */
function bindCheck(args: readonly string[]): string[] {
  const bound: string[] = []
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] as string
    if (arg !== '--check') {
      bound.push(arg)
      continue
    }
    const next = args[i + 1]
    const given = CHECK_MODES.find((mode) => mode === next)
    bound.push(`--check=${given ?? 'successor'}`)
    if (given) i++
  }
  return bound
}
