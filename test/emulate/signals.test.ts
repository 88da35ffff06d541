/** Signals to the notifier in the middle of its answers: a program gets the descriptor that it opened, and no other. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'

const LUOCTL = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
const LIMIT_MS = 60_000
/**
 * A child sends its grandparent, the notifier, a signal that it ignores, for as long as the parent opens and closes.
 */
const PROGRAM = `
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

int main(void) {
  pid_t notifier = getppid(), child = fork();
  if (child == 0)
    for (;;) {
      kill(notifier, SIGHUP);
      usleep(50);
    }
  int wrong = 0;
  for (int count = 0; count < 1000 && !wrong; count++) {
    int fd = open("/dev/liveupdate", O_RDWR);
    wrong = fd < 3 || close(fd) != 0;
  }
  kill(child, SIGKILL);
  puts(wrong ? "wrong" : "right");
  return wrong;
}
`

test('an open answers the descriptor that was added, whatever signals the notifier gets meanwhile', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luo-emulate-signals-'))
  try {
    const program = join(folder, 'program')
    writeFileSync(`${program}.c`, PROGRAM)
    execFileSync('cc', ['-o', program, `${program}.c`])
    const env = { ...process.env, LUO_SOCKET: join(folder, 'luod.sock') }
    const options = { env, encoding: 'utf8', timeout: LIMIT_MS } as const
    expect(execFileSync(process.execPath, [LUOCTL, 'emulate', '--', program], options)).toBe('right\n')
  } finally {
    rmSync(folder, { recursive: true })
  }
})
