#!/usr/bin/env node
/**
 * luoctl (also installed as `liveupdate`): the command line. Only parsing and help are here; each command is in a file
 * of its own, loaded when it is used. Ends with the codes of `EXIT` in context.ts.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { LuoError } from '../errors.js'
import { argumentsAreText } from '../sys/surroundings.js'
import { CHECK_MODES, type CheckMode, splitArguments } from './arguments.js'
import { type Context, createContext, EXIT, reportError } from './context.js'
import { parseDuration } from './durations.js'
import { addKexec, addKexecLoad } from './kexec-options.js'

const OVERVIEW = `
Examples:
  luoctl run web --restart -- node server.js    start a service that can be updated
  luoctl update web                             replace it by what its command starts now
  luoctl update web --check                     only see whether the new version would start
  luoctl update web -- node server-v2.js        replace it by another command
  luoctl update web db cache                    replace several as one: all of them or none
  luoctl list                                   what runs
  luoctl history web                            what has happened to it, and who did it
  luoctl doctor                                 whether this machine is fit, and what to do

Durations are written with a unit: 500ms, 10s, 2m.
The socket of luod is --socket, else $LUO_SOCKET, else /run/luod/liveupdate.sock for root,
else $XDG_RUNTIME_DIR/luod/liveupdate.sock, else /tmp/luod-$UID/liveupdate.sock.

Exit codes:
  0  done     1  failed     2  wrong usage     4  luod cannot be reached
  3  the update did not commit: rolled back (the old version goes on), or orphaned
  5  inspect --verify: damaged
  run: the code of the command, or 128 + the signal that ended it; 126 and 127 when it cannot be started`

const RUN_HELP = `
Runs COMMAND in the foreground and starts its new version when an update is asked for. The same command is run
again, from the working directory as you see it: if you stand in a symbolic link ("current"), where it points then.
A private luod is started when none runs; it ends with its last workload.

Signals: SIGHUP starts an update. SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH go to the service.
Under systemd (NOTIFY_SOCKET) it reports ready, reloading and stopping: use Type=notify-reload, NotifyAccess=main.

Examples:
  luoctl run web -- node server.js
  luoctl run web --restart --keep 5m -- node server.js     restarted after a crash, with its state
  luoctl run web --after db --after cache -- node server.js    it needs these: the order of an update of all

Exit codes: that of the command, or 128 + signal; 126 not executable, 127 not found, 2 wrong usage, 4 no luod`

const UPDATE_HELP = `
The new version is started first, and must accept the state. Then the old one lets go, the new one takes over, and
both are told. Whatever goes wrong before that, the old version goes on as it was.

Several names, or --all, are updated as one. Those that need others (run --after) let go before them and commit after
them. Each has its own commit. Until the first commit all of them roll back when one fails; after it, those that need
what did not commit.

  --check            start the new version, see that it joins and accepts the state, and end it again
  --check prepare    also let the old version prepare, and then go on

Examples:
  luoctl update web --deadline 30s
  luoctl update web db
  luoctl update --all --deadline 30s
  luoctl update web --json | tail -1        {"update":…,"outcome":"committed","blackout_ms":4.1,"timeline":[…]}

Exit codes: 0 committed or checked (every one), 3 rolled back or orphaned, 4 no luod, 2 wrong usage, 1 anything else`

const UPGRADE_HELP = `
The other luod is started first, gets a copy of everything, and verifies it. Only then does luod stop answering, for
some milliseconds, and the other one goes on, at the same socket. Services and their clients notice nothing. Whatever goes
wrong before that, luod goes on as it was.

Examples:
  luoctl upgrade                                   after its package was replaced
  luoctl upgrade --to /opt/liveupdate-1.1
  luoctl upgrade --json | tail -1                  {"old_pid":…,"new_pid":…,"old_version":…,"new_version":…,"pause_ms":…}

Exit codes: 0 the other one serves, 1 luod goes on as it was, 4 no luod, 2 wrong usage`

const INSPECT_HELP = `
--verify reads everything and changes nothing: checksums, each record and its fields, what records name, names that are
there twice; of a running luod also whether it counts what is recorded. The descriptors that luod holds are not seen.

Examples:
  luoctl inspect --verify                          of the luod that runs
  luoctl inspect --verify /proc/PID/fd/N           of any luod, or of a copy
  luoctl inspect --verify --json                   {"format":…,"sound":true,"findings":[],"kept":{…},…}

Exit codes: 0 sound, 5 damaged, 1 it cannot be read or is of another version, 4 no luod, 2 wrong usage`

const DEFAULT_MACHINE = 'default'

const EMULATE_HELP = `
Opens of /dev/liveupdate, its ioctls, and kexec are answered by luod; everything else is done by the kernel. No
privileges are needed, and no kernel that has live update.

Examples:
  luoctl emulate -- ./program
  luoctl emulate --trace --fail preserve:ENOMEM@3 -- ./program
  luoctl kexec --emulated

Exit codes: that of the program, or 128 + signal; 126 not executable, 127 not found, 2 wrong usage, 4 no luod`

/** For an option that may be given more than once. */
function collect(value: string, before: string[]): string[] {
  return [...before, value]
}

type Action = (context: Context) => Promise<number>

function usageError(message: string): LuoError {
  return new LuoError('LUO_INVALID_PARAMETER', message, { params: { usage: true } })
}

function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/** Builds the program; the command that was chosen is handed to `choose` instead of being run while parsing. */
function buildProgram(command: readonly string[] | undefined, choose: (action: Action) => void): Command {
  const program = new Command('luoctl')
    .description('Replace a running service, and lose neither a connection nor a byte.')
    .version(version())
    .option('--socket <path>', 'socket of luod')
    .option('--json', 'print JSON, one value a line')
    .option('--reconnect <duration>', 'how long luod may be away, such as for its upgrade (10s)')
    .addHelpText('after', OVERVIEW)
    .showHelpAfterError('(luoctl --help shows examples)')
    .configureHelp({ showGlobalOptions: true })
    .exitOverride()
  const noCommand = () => {
    if (command !== undefined) throw usageError('this command takes no COMMAND after --')
  }
  const look = (name: string, description: string, argument: string | undefined, action: LookAction) => {
    const sub = program.command(name).description(description)
    if (argument) sub.argument(argument)
    sub.action((value: unknown) => {
      noCommand()
      choose((context) => action(context, typeof value === 'string' ? value : undefined))
    })
  }

  program
    .command('run')
    .description('run a service so that it can be updated')
    .argument('<name>', 'name of the workload')
    .usage('NAME [--restart] [--keep DURATION] [--after NAME]... -- COMMAND [ARGUMENT...]')
    .option('--restart', 'start it again when it fails, with the state it had')
    .option('--keep <duration>', 'how long its state waits for a restart after a crash (with --restart: 60s)')
    .option('--after <name>', 'a workload that it needs (more than once for several)', collect, [])
    .addHelpText('after', RUN_HELP)
    .action((name: string, options: { restart?: boolean; keep?: string; after: string[] }) => {
      if (!command?.length) throw usageError(`run ${name}: what shall be run? luoctl run ${name} -- COMMAND`)
      const keepMs = options.keep === undefined ? undefined : parseDuration(options.keep)
      const { restart = false, after } = options
      const run = { name, command, restart, after, ...(keepMs === undefined ? {} : { keepMs }) }
      choose(async (context) => (await import('./run.js')).runCommand(context, run))
    })

  program
    .command('update')
    .description('replace a running service, or several as one, by their new versions')
    .argument('[names...]', 'names of the workloads')
    .usage('NAME... | --all [--check [successor|prepare]] [--deadline DURATION] [-- NEW COMMAND...]')
    .option('--all', 'every workload of this user that runs and has a supervisor')
    .option('--check [how]', 'try it and change nothing (successor or prepare)')
    .option('--deadline <duration>', 'how long each side may take')
    .addHelpText('after', UPDATE_HELP)
    .action((names: string[], options: { all?: boolean; check?: string; deadline?: string }) => {
      const [workload = ''] = names
      const { all = false } = options
      const several = all || names.length > 1
      if (all === names.length > 0) throw usageError('update: name the workloads, or --all of them')
      if (several && command) throw usageError('update: a new command is for one workload')
      if (command?.length === 0) throw usageError(`update ${workload}: no command follows the --`)
      const check = options.check === undefined ? undefined : checkMode(options.check)
      const deadlineMs = options.deadline === undefined ? undefined : parseDuration(options.deadline)
      const how = {
        ...(check === undefined ? {} : { check }),
        ...(deadlineMs === undefined ? {} : { deadlineMs }),
      }
      choose(async (context) => {
        if (several)
          return (await import('./update-group.js')).updateGroupCommand(context, all ? undefined : names, how)
        const request = { ...how, workload, ...(command === undefined ? {} : { command }) }
        return (await import('./update.js')).updateCommand(context, request)
      })
    })

  const emulation = () => import('./emulate.js')
  program
    .command('emulate')
    .description('run an unmodified program against an emulated /dev/liveupdate')
    .usage(
      '[--machine NAME] [--handlers kernel|all] [--fail FAULT]... [--trace] [--every-open] -- PROGRAM [ARGUMENT...]',
    )
    .option('--machine <name>', 'its device, sessions and kexecs are those of this machine', DEFAULT_MACHINE)
    .option('--handlers <which>', 'what can be preserved: what a kernel takes (kernel), or all kinds (all)')
    .option('--fail <fault>', 'an operation that fails, such as preserve:ENOMEM@3', collect, [])
    .option('--trace', 'show each intercepted call')
    .option('--every-open', 'also find the device opened for reading alone with O_CLOEXEC, or O_NOCTTY: slower')
    .addHelpText('after', EMULATE_HELP)
    .action((options: { machine: string; handlers?: string; fail: string[]; trace?: true; everyOpen?: true }) => {
      if (!command?.length) throw usageError('emulate: which program? luoctl emulate -- PROGRAM')
      const { machine, fail, trace = false, everyOpen = false } = options
      const handlers = (['kernel', 'all'] as const).find((known) => known === options.handlers)
      if (options.handlers !== undefined && !handlers)
        throw usageError(`--handlers "${options.handlers}": choose kernel or all`)
      const request = { machine, handlers, fail, command, trace, everyOpen }
      choose(async (context) => (await emulation()).emulateCommand(context, request))
    })
  const kexec = program.command('kexec')
  addKexecLoad(kexec, (action) => {
    noCommand()
    choose(action)
  })
  addKexec(kexec, DEFAULT_MACHINE, (action) => {
    noCommand()
    choose(action)
  })
  program
    .command('machines')
    .description('the emulated machines')
    .option('--end <name>', 'end its programs, and let go of everything that it holds')
    .action((options: { end?: string }) => {
      noCommand()
      const { end } = options
      choose(async (context) =>
        end === undefined
          ? (await emulation()).machinesCommand(context)
          : (await emulation()).endMachineCommand(context, end),
      )
    })

  const looks = () => import('./list.js')
  look('abort', 'end the update of a workload; the old version goes on', '<name>', async (context, name) =>
    (await looks()).abortCommand(context, name as string),
  )
  look('list', 'the workloads', undefined, async (context) => (await looks()).listCommand(context))
  look('show', 'one workload: its process, sessions and files', '<name>', async (context, name) =>
    (await looks()).showCommand(context, name as string),
  )
  program
    .command('sessions')
    .description('the sessions of workloads and of programs')
    .option('--kernel', "open sessions of the kernel's device that are not luod's")
    .action(({ kernel }: { kernel?: boolean }) => {
      noCommand()
      if (kernel) choose(async (context) => (await import('./kernel-sessions.js')).kernelSessionsCommand(context))
      else choose(async (context) => (await import('./sessions.js')).sessionsCommand(context))
    })
  program
    .command('release')
    .description('end a session that waits for nobody, and drop what is in it')
    .argument('<session>', 'its name or id')
    .option('--force', 'even if somebody holds it')
    .option('--yes', 'do not ask')
    .action((session: string, options: { force?: boolean; yes?: boolean }) => {
      noCommand()
      const release = { session, force: options.force === true, yes: options.yes === true }
      choose(async (context) => (await import('./sessions.js')).releaseCommand(context, release))
    })
  look('watch', 'everything that happens, as it happens', '[name]', async (context, name) =>
    (await looks()).watchCommand(context, name),
  )
  program
    .command('history')
    .description('what has happened to a workload, or to everything')
    .argument('[name]', 'name of the workload, also of one that has ended')
    .option('--limit <count>', 'only the last ones')
    .action((name: string | undefined, options: { limit?: string }) => {
      noCommand()
      const limit = options.limit === undefined ? undefined : Number(options.limit)
      if (limit !== undefined && !/^[1-9]\d{0,8}$/.test(options.limit ?? '')) {
        throw usageError(`--limit "${options.limit}": a whole number, 1 or more`)
      }
      choose(async (context) => (await import('./history.js')).historyCommand(context, name, limit))
    })
  look('status', 'luod itself: version, counts, limits', undefined, async (context) =>
    (await looks()).statusCommand(context),
  )
  program
    .command('upgrade')
    .description('replace luod itself by another build, while it holds everything')
    .option('--to <path>', "the package's directory, or luod's main file; without it, luod's own, as it is on disk now")
    .addHelpText('after', UPGRADE_HELP)
    .action((options: { to?: string }) => {
      noCommand()
      choose(async (context) => (await import('./upgrade.js')).upgradeCommand(context, options.to))
    })
  program
    .command('inspect')
    .description("luod's durable records, or a file in one of the formats of docs/formats.md")
    .argument('[file]')
    .option('--kernel', 'what the running kernel hands over, and what was handed to it')
    .option('--verify', 'whether all of it is sound, and what a recovery would keep')
    .addHelpText('after', INSPECT_HELP)
    .action((file: string | undefined, options: { kernel?: boolean; verify?: boolean }) => {
      noCommand()
      const { kernel, verify } = options
      if (kernel && (verify || file !== undefined)) throw usageError('inspect: --kernel takes no file and no --verify')
      choose(async (context) => {
        if (kernel) return (await import('./inspect-kernel.js')).inspectKernelCommand(context)
        if (verify) return (await import('./inspect-verify.js')).verifyCommand(context, file)
        return (await import('./inspect.js')).inspectCommand(context, file)
      })
    })
  look('kinds', 'which kinds of files are kept, and what of them crosses what', undefined, async (context) =>
    (await import('./kinds.js')).kindsCommand(context),
  )
  look('doctor', 'whether this machine is fit, and what to do', undefined, async (context) =>
    (await import('./doctor.js')).doctorCommand(context),
  )
  return program
}

type LookAction = (context: Context, value: string | undefined) => Promise<number>

function checkMode(text: string): CheckMode {
  const mode = CHECK_MODES.find((known) => known === text)
  if (!mode) throw usageError(`--check "${text}": choose ${CHECK_MODES.join(' or ')}`)
  return mode
}

/** Runs luoctl with these arguments and answers its exit code. */
export async function main(args: readonly string[]): Promise<number> {
  const { own, command } = splitArguments(args)
  const json = own.includes('--json')
  const chosen: Action[] = []
  try {
    if (!argumentsAreText()) throw usageError('an argument is not UTF-8, and Node.js would make another one of it')
    const program = buildProgram(command, (action) => chosen.push(action))
    program.parse(own, { from: 'user' })
    const { reconnect, ...options } = program.opts<{ socket?: string; json?: boolean; reconnect?: string }>()
    const reconnectMs = reconnect === undefined ? {} : { reconnectMs: parseDuration(reconnect) }
    const context = createContext({ ...options, ...reconnectMs })
    const action = chosen[0]
    return action ? await action(context) : EXIT.USAGE
  } catch (error) {
    // commander has printed its own message, and uses code 0 for --help and --version.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.OK : EXIT.USAGE
    return reportError(error, json, (line) => void process.stderr.write(`${line}\n`))
  }
}

// A reader that went away (luoctl watch | head) is a normal end.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.OK)
  process.stderr.write(`luoctl: write what was asked for: ${error.message}\n`, () => process.exit(EXIT.FAILED))
})
void main(process.argv.slice(2)).then((code) => {
  // A socket, as Node gives to its children, is written to later; an exit would cut off what is still to go.
  process.stdout.write('', (error) => {
    if (!error) process.stderr.write('', () => process.exit(code))
  })
})
