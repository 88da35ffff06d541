/**
 * A luod of its own, and the conformance suite's driver under `luoctl emulate`: it makes the calls that a test says.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { compileDriver } from '../conformance/emulated.js'
import { eventually } from '../daemon/stage.js'
import { PROJECT } from '../project.js'

export const LUOCTL = join(PROJECT, 'dist/cli/main.js')
const LIMIT_MS = 30_000

export class Luoctl {
  readonly process: ChildProcess
  output = ''
  errors = ''

  constructor(socket: string, args: readonly string[], uid?: number) {
    this.process = spawn(process.execPath, [LUOCTL, ...args], {
      ...(uid === undefined ? {} : { uid, gid: uid, cwd: '/' }),
      env: { ...process.env, LUO_SOCKET: socket },
      stdio: ['pipe', 'pipe', 'pipe'],
      timeout: LIMIT_MS,
    })
    this.process.stdout?.on('data', (data) => {
      this.output += data
    })
    this.process.stderr?.on('data', (data) => {
      this.errors += data
    })
    // Whoever does not read it ends before it is written.
    this.process.stdin?.on('error', () => {})
  }

  /** Lines for the driver. */
  tell(...lines: string[]): void {
    this.process.stdin?.write(lines.map((line) => `${line}\n`).join(''))
  }

  says(text: string): Promise<boolean> {
    return eventually(() => this.output.includes(text), Boolean, `it does not say "${text}" but "${this.output}"`)
  }

  /** The answer to a line. */
  async ask(line: string): Promise<string> {
    const before = this.output.length
    this.tell(line)
    const start = `${line} -> `
    const answer = () => {
      const [, found] = this.output.slice(before).split(start)
      return found?.includes('\n') ? found.slice(0, found.indexOf('\n')) : undefined
    }
    return String(await eventually(answer, (found) => found !== undefined, `no answer to "${line}"`))
  }

  /** With its output at an end, too: nothing that stays behind may hold it open. */
  async ended(): Promise<{ code: number | null; output: string; errors: string }> {
    this.process.stdin?.end()
    if (this.process.exitCode === null && this.process.signalCode === null) await once(this.process, 'close')
    return { code: this.process.exitCode, output: this.output, errors: this.errors }
  }
}

export class EmulationStage {
  readonly folder = mkdtempSync(join(tmpdir(), 'luo-emulate-'))
  readonly program = join(this.folder, 'driver')
  readonly socket: string

  /** `socket`: of a luod that is somebody else's. Otherwise it is a private one, which starts and ends by itself. */
  constructor(socket?: string) {
    this.socket = socket ?? join(this.folder, 'luod.sock')
    // Other users have to get there.
    chmodSync(this.folder, 0o755)
    compileDriver(this.program)
  }

  start(...args: string[]): Luoctl {
    return new Luoctl(this.socket, args)
  }

  /** As another user; only root can. */
  startAs(uid: number, ...args: string[]): Luoctl {
    return new Luoctl(this.socket, args, uid)
  }

  run(...args: string[]): ReturnType<Luoctl['ended']> {
    return this.start(...args).ended()
  }

  /** The driver on a machine, for lines as they come. */
  driver(machine: string, ...options: string[]): Luoctl {
    return this.start('emulate', '--machine', machine, ...options, '--', this.program)
  }

  /** A script's part on a machine. */
  async part(machine: string, script: string, part: number, ...options: string[]) {
    const file = join(this.folder, 'script')
    writeFileSync(file, `== script\n${script}`)
    const command = [this.program, file, String(part)]
    const { output, ...rest } = await this.run('emulate', '--machine', machine, ...options, '--', ...command)
    return { ...rest, output: output.replace('== script\n', '') }
  }

  async machines(): Promise<
    { machine: string; programs: boolean; holds_state: boolean; live_update_number: string }[]
  > {
    const { code, output } = await this.run('machines', '--json')
    return code === 0 ? JSON.parse(output).machines : []
  }

  async machineIsGone(name: string): Promise<void> {
    await eventually(
      async () => (await this.machines()).map(({ machine }) => machine),
      (names) => !names.includes(name),
      `the machine ${name} is still there`,
    )
  }

  async luodPid(): Promise<number> {
    return JSON.parse((await this.run('status', '--json')).output).pid
  }

  notifierOf(machine: string): number {
    const found = execFileSync('ps', ['-eo', 'pid,args'], { encoding: 'utf8' })
      .split('\n')
      .find((line) => line.includes('emulate/main.js') && line.includes(this.socket) && line.includes(`"${machine}"`))
    return Number(found?.trim().split(' ')[0])
  }

  /** Ends all machines, and with the last of them a private luod. */
  async dispose(): Promise<void> {
    for (const { machine } of await this.machines()) await this.run('machines', '--end', machine)
    if (this.socket.startsWith(this.folder)) await this.#luodEnds()
    rmSync(this.folder, { recursive: true })
  }

  async #luodEnds(): Promise<void> {
    await eventually(
      () => existsSync(this.socket),
      (there) => !there,
      'luod is still there',
    )
  }
}

/** Of another process, which looking changes by nothing. */
export const openFiles = (pid: number) => readdirSync(`/proc/${pid}/fd`).length
