/**
 * The daemon's one logger: lines on standard error, with the priority that a service manager reads (`<4>`) when it is
 * one that reads them. What users want to see is an event of the protocol; here is what only an operator of luod needs.
 */
import { writeLog } from '../sys/surroundings.js'

const PRIORITIES = { error: 3, warning: 4, info: 6 } as const
export type Level = keyof typeof PRIORITIES

export type Logger = (level: Level, message: string) => void

export function logger(verbose: boolean, env: NodeJS.ProcessEnv = process.env): Logger {
  const journal = env.JOURNAL_STREAM !== undefined
  return (level, message) => {
    if (level === 'info' && !verbose) return
    // A client chose some of the words: no line of a log may be made up by it.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is taken out
    const line = message.replace(/[\u0000-\u001f\u007f]/g, ' ')
    writeLog(journal ? `<${PRIORITIES[level]}>${line}` : `luod: ${level}: ${line}`)
  }
}
