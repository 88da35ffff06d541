/** Inputs that failed before, or were of interest: files whose names begin with their target's. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PROJECT } from '../project.js'

const FOLDER = join(PROJECT, 'test/fuzz/corpus')

export const targetOf = (name: string) => name.split('-')[0] ?? ''

export function corpus(): { name: string; input: Uint8Array }[] {
  return readdirSync(FOLDER).map((name) => ({ name, input: new Uint8Array(readFileSync(join(FOLDER, name))) }))
}

/** Answers the file. */
export function keep(target: string, seed: number, input: Uint8Array): string {
  mkdirSync(FOLDER, { recursive: true })
  const file = join(FOLDER, `${target}-seed-${seed}.bin`)
  writeFileSync(file, input)
  return file
}
