/** Compiles programs of the C client as its README says, with the sanitizers: a leak or an overflow ends a program. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { PROJECT } from '../project.js'

export const CLIENTS = join(PROJECT, 'clients')
export const HERE = join(PROJECT, 'test/clients')

const WARNINGS = ['-std=c99', '-pedantic', '-Wall', '-Wextra', '-Werror']
const SANITIZERS = ['-g', '-fsanitize=address,undefined', '-fno-sanitize-recover=all']

/** Answers the program, made of `source` and the client. */
export function compile(source: string, folder: string, name: string): string {
  const program = join(folder, name)
  const sources = [source, join(CLIENTS, 'c/liveupdate.c')]
  execFileSync('cc', [...WARNINGS, ...SANITIZERS, `-I${join(CLIENTS, 'c')}`, '-o', program, ...sources], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  return program
}
