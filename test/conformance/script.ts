/**
 * The scripts of the conformance suite as data: what is in `cases/`, what Linux answers to it (`expected/`), and what
 * the driver printed. README.md describes the language.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const CASES = fileURLToPath(new URL('./cases/', import.meta.url))
export const EXPECTED = fileURLToPath(new URL('./expected/', import.meta.url))
const KEXEC = 'kexec'

export interface Step {
  readonly text: string
  /** Where the emulated device answers something else on purpose: what, and the row of docs/deviations.md. */
  readonly emulated?: { readonly answer: string; readonly row: string }
}

export interface Script {
  readonly name: string
  /** A kexec is between two. */
  readonly parts: readonly (readonly Step[])[]
}

export interface Subject {
  /** Of the file in `cases/`, without its end. */
  readonly name: string
  readonly scripts: readonly Script[]
}

export interface Answered {
  readonly text: string
  readonly answer: string
}

/** What was answered to a script, part by part. A part that was not run is not there. */
export type Answers = readonly (readonly Answered[])[]

export function subjects(): Subject[] {
  const files = readdirSync(CASES).filter((file) => file.endsWith('.txt'))
  return files.sort().map((file) => ({
    name: file.slice(0, -'.txt'.length),
    scripts: parseScripts(readFileSync(`${CASES}${file}`, 'utf8')),
  }))
}

export function parseScripts(text: string): Script[] {
  const scripts: { name: string; parts: Step[][] }[] = []
  for (const line of text.split('\n')) {
    const script = scripts.at(-1)
    const part = script?.parts.at(-1)
    if (line === '' || line.startsWith('#')) continue
    if (line.startsWith('== ')) scripts.push({ name: line.slice(3), parts: [[]] })
    else if (!script || !part) throw new Error(`"${line}" is in no script`)
    else if (line === KEXEC) script.parts.push([])
    else if (line.startsWith('@')) part.push({ ...(part.pop() as Step), emulated: parseNote(line) })
    else part.push({ text: line })
  }
  return scripts
}

function parseNote(line: string): { answer: string; row: string } {
  const [, answer, row] = /^@emulated (.*?): (.*)$/.exec(line) ?? []
  if (answer === undefined || row === undefined) throw new Error(`"${line}" is no note of what is emulated`)
  return { answer, row }
}

/** As the driver reads them. */
export function formatScripts(scripts: readonly Script[]): string {
  const lines = scripts.flatMap(({ name, parts }) => [
    `== ${name}`,
    ...parts.flatMap((part, index) => [...(index === 0 ? [] : [KEXEC]), ...part.map(({ text }) => text)]),
  ])
  return `${lines.join('\n')}\n`
}

/** What the driver printed, one text for each part: the answers of each script by its name. */
export function parseOutputs(outputs: readonly string[]): Map<string, Answers> {
  const found = new Map<string, Answered[][]>()
  outputs.forEach((output, part) => {
    let lines: Answered[] | undefined
    for (const line of output.split('\n')) {
      if (line === '') continue
      if (line.startsWith('== ') && !line.startsWith('== it ended')) {
        const name = line.slice(3)
        const parts = found.get(name) ?? []
        found.set(name, parts)
        lines = []
        parts[part] = lines
        continue
      }
      const [text = '', answer = ''] = line.split(' -> ')
      lines?.push({ text, answer })
    }
  })
  return found
}

export function formatAnswers(answers: Answers): string {
  return answers.map((part) => part.map(({ text, answer }) => `${text} -> ${answer}\n`).join('')).join(`${KEXEC}\n`)
}

/** What Linux answered, from `expected/`. */
export function readExpected(subject: string): Map<string, Answers> {
  const found = new Map<string, Answered[][]>()
  let parts: Answered[][] = []
  for (const line of readFileSync(`${EXPECTED}${subject}.txt`, 'utf8').split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    if (line.startsWith('== ')) {
      parts = [[]]
      found.set(line.slice(3), parts)
    } else if (line === KEXEC) parts.push([])
    else {
      const [text = '', answer = ''] = line.split(' -> ')
      parts.at(-1)?.push({ text, answer })
    }
  }
  return found
}

/** What the emulated device is to answer where Linux answers this. */
export function withDeviations({ parts }: Script, kernel: Answers): Answers {
  return kernel.map((part, at) =>
    part.map((answered, index) => {
      const note = parts[at]?.[index]?.emulated
      return note ? { ...answered, answer: note.answer } : answered
    }),
  )
}
