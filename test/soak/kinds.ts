/** The program of the versions (`version.c`), and the kinds of files that it can make. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'

/** The versions, with $CFLAGS. Answers the program. */
export function compile(project: string, folder: string): string {
  const program = join(folder, 'version')
  const sources = ['test/soak/version.c', 'test/soak/kinds.c', 'clients/c/liveupdate.c'].map((file) =>
    join(project, file),
  )
  const flags = [
    '-std=c99',
    '-pedantic',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-O2',
    ...(process.env.CFLAGS?.split(' ') ?? []),
  ]
  execFileSync('cc', [...flags, '-o', program, ...sources], { stdio: 'inherit' })
  return program
}

/** Those that this machine has: not every one has huge pages. */
export function kindsOf(program: string, folder: string): string[] {
  const lines = execFileSync(program, ['kinds'], { cwd: folder, encoding: 'utf8' }).trim().split('\n')
  return lines.filter((line) => line.endsWith(' yes')).map((line) => line.slice(0, -' yes'.length))
}
