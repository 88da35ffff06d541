/**
 * A kernel's command line, as far as live update is concerned. Words are separated by spaces that are not within
 * double quotes; of a word that is given twice the last counts. What follows `--` is for init.
 */

/** Words of the boot loader about the kernel that it started: wrong for another one. */
const LOADER_WORDS = ['BOOT_IMAGE=']
const ON = new Set(['1', 'y', 'Y', 't', 'T', 'on', 'On', 'ON', 'oN'])

export function commandLineWords(line: string): string[] {
  return line.match(/(?:[^\s"]|"[^"]*"?)+/g) ?? []
}

/** Whether the word switches something on or off; undefined when it is not there. */
export function switchOf(line: string, name: string): boolean | undefined {
  const words = commandLineWords(line)
  const end = words.indexOf('--')
  const own = end < 0 ? words : words.slice(0, end)
  const word = own.filter((each) => each.startsWith(`${name}=`)).at(-1)
  return word === undefined ? undefined : ON.has(word.slice(name.length + 1).replaceAll('"', ''))
}

/** What of the running kernel's line is right for the next one, with `more` behind it. */
export function reusedCommandLine(running: string, more = ''): string {
  const kept = commandLineWords(running).filter((word) => !LOADER_WORDS.some((loader) => word.startsWith(loader)))
  return [...kept, ...(more === '' ? [] : [more])].join(' ')
}
