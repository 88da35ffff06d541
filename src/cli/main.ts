#!/usr/bin/env node
/**
 * luoctl (also installed as `liveupdate`): the command line. Only parsing is here; each command is in a file
 * of its own, loaded when it is used. Ends with the codes of `EXIT` in context.ts.
 */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { asLuoError, type ErrnoName, type LuoError } from '../errors.js'
import { argumentsAreText } from '../sys/surroundings.js'
import { CHECK_MODES, type CheckMode, countOf, nameOf, pathOf, splitArguments, usageError } from './arguments.js'
import { type Context, createContext, EXIT, reportError, toStderr } from './context.js'
import { durationOf } from './durations.js'
import { EMULATE_HELP, INSPECT_HELP, OVERVIEW, RUN_HELP, UPDATE_HELP, UPGRADE_HELP } from './help.js'
import { addKexec, addKexecLoad } from './kexec-options.js'

const DEFAULT_MACHINE = 'default'

/** For an option that may be given more than once. */
function collect(value: string, before: string[]): string[] {
  return [...before, value]
}

const collectNames = (value: string, before: string[]) => collect(nameOf('workload')(value), before)

type Action = (context: Context) => Promise<number>

function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}

/**
 * Builds the program; the command that was chosen is handed to `choose` instead of being run while parsing. It says
 * nothing of an error: that is thrown. `quiet`: nor does it show help for one.
 */
function buildProgram(
  command: readonly string[] | undefined,
  quiet: boolean,
  choose: (action: Action) => void,
): Command {
  const program = new Command('luoctl')
    .description('Replace a running service, and lose neither a connection nor a byte.')
    .version(version())
    .option('--socket <path>', 'socket of luod', pathOf('the socket'))
    .option('--json', 'print JSON, one value a line')
    .option(
      '--reconnect <duration>',
      'how long luod may be away, such as for its upgrade (10s)',
      durationOf('--reconnect'),
    )
    .addHelpText('after', OVERVIEW)
    .configureOutput({ outputError: () => {}, ...(quiet ? { writeErr: () => {} } : {}) })
    .configureHelp({ showGlobalOptions: true })
    // commander's own shows all of it for a command that there is not.
    .helpCommand(false)
    .exitOverride()
  /** For commands that start nothing. */
  const chooseAlone = (action: Action) => {
    if (command !== undefined) throw usageError('this command takes no COMMAND after --')
    choose(action)
  }
  /** A command without options, of one workload at the most. */
  const simple = (name: string, description: string, argument: string | undefined, action: SimpleAction) => {
    const sub = program.command(name).description(description)
    if (argument) sub.argument(argument, '', nameOf('workload'))
    sub.action((value: unknown) => {
      chooseAlone((context) => action(context, typeof value === 'string' ? value : undefined))
    })
  }

  program
    .command('run')
    .description('run a service so that it can be updated')
    .argument('<name>', 'name of the workload', nameOf('workload'))
    .usage('NAME [--restart] [--keep DURATION] [--after NAME]... -- COMMAND [ARGUMENT...]')
    .option('--restart', 'start it again when it fails, with the state it had')
    .option(
      '--keep <duration>',
      'how long its state waits for a restart after a crash (with --restart: 60s)',
      durationOf('--keep'),
    )
    .option('--after <name>', 'a workload that it needs (more than once for several)', collectNames, [])
    .addHelpText('after', RUN_HELP)
    .action((name: string, options: { restart?: boolean; keep?: number; after: string[] }) => {
      if (!command?.length) throw usageError(`run ${name}: what shall be run? luoctl run ${name} -- COMMAND`)
      const { restart = false, after, keep: keepMs } = options
      const run = { name, command, restart, after, keepMs }
      choose(async (context) => (await import('./run.js')).runCommand(context, run))
    })

  program
    .command('update')
    .description('replace a running service, or several as one, by their new versions')
    .argument('[names...]', 'names of the workloads', (name: string, before: string[] = []) =>
      collectNames(name, before),
    )
    .usage('NAME... | --all [--check [successor|prepare]] [--deadline DURATION] [-- NEW COMMAND...]')
    .option('--all', 'every workload of this user that runs and has a supervisor')
    .option('--check [how]', 'try it and change nothing (successor or prepare)')
    .option('--deadline <duration>', 'how long each side may take', durationOf('--deadline'))
    .addHelpText('after', UPDATE_HELP)
    .action((names: string[], options: { all?: boolean; check?: string; deadline?: number }) => {
      const [workload = ''] = names
      const { all = false } = options
      const several = all || names.length > 1
      const twice = names.find((name, at) => names.indexOf(name) !== at)
      if (twice !== undefined) throw usageError(`update: ${twice} is named twice`)
      if (all === names.length > 0) throw usageError('update: name the workloads, or --all of them')
      if (several && command) throw usageError('update: a new command is for one workload')
      if (command?.length === 0) throw usageError(`update ${workload}: no command follows the --`)
      const check = options.check === undefined ? undefined : checkMode(options.check)
      const how = { check, deadlineMs: options.deadline }
      choose(async (context) => {
        if (several)
          return (await import('./update-group.js')).updateGroupCommand(context, all ? undefined : names, how)
        return (await import('./update.js')).updateCommand(context, { ...how, workload, command })
      })
    })

  const emulation = () => import('./emulate.js')
  program
    .command('emulate')
    .description('run an unmodified program against an emulated /dev/liveupdate')
    .usage(
      '[--machine NAME] [--handlers kernel|all] [--fail FAULT]... [--trace] [--every-open] -- PROGRAM [ARGUMENT...]',
    )
    .option(
      '--machine <name>',
      'its device, sessions and kexecs are those of this machine',
      nameOf('machine'),
      DEFAULT_MACHINE,
    )
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
  addKexecLoad(kexec, chooseAlone)
  addKexec(kexec, DEFAULT_MACHINE, chooseAlone)
  program
    .command('machines')
    .description('the emulated machines')
    .option('--end <name>', 'end its programs, and let go of everything that it holds', nameOf('machine'))
    .action(({ end }: { end?: string }) => {
      chooseAlone(async (context) =>
        end === undefined
          ? (await emulation()).machinesCommand(context)
          : (await emulation()).endMachineCommand(context, end),
      )
    })

  const list = () => import('./list.js')
  simple('abort', 'end the update of a workload; the old version goes on', '<name>', async (context, name) =>
    (await list()).abortCommand(context, name as string),
  )
  simple('list', 'the workloads', undefined, async (context) => (await list()).listCommand(context))
  simple('show', 'one workload: its process, sessions and files', '<name>', async (context, name) =>
    (await list()).showCommand(context, name as string),
  )
  program
    .command('sessions')
    .description('the sessions of workloads and of programs')
    .option('--kernel', "open sessions of the kernel's device that are not luod's")
    .action(({ kernel }: { kernel?: boolean }) => {
      if (kernel) chooseAlone(async (context) => (await import('./kernel-sessions.js')).kernelSessionsCommand(context))
      else chooseAlone(async (context) => (await import('./sessions.js')).sessionsCommand(context))
    })
  program
    .command('release')
    .description('end a session that waits for nobody, and drop what is in it')
    .argument('<session>', 'its name or id', nameOf('session'))
    .option('--force', 'even if somebody holds it')
    .option('--yes', 'do not ask')
    .action((session: string, options: { force?: boolean; yes?: boolean }) => {
      const release = { session, force: options.force === true, yes: options.yes === true }
      chooseAlone(async (context) => (await import('./sessions.js')).releaseCommand(context, release))
    })
  simple('watch', 'everything that happens, as it happens', '[name]', async (context, name) =>
    (await list()).watchCommand(context, name),
  )
  program
    .command('history')
    .description('what has happened to a workload, or to everything')
    .argument('[name]', 'name of the workload, also of one that has ended', nameOf('workload'))
    .option('--limit <count>', 'only the last ones', countOf('--limit'))
    .action((name: string | undefined, { limit }: { limit?: number }) => {
      chooseAlone(async (context) => (await import('./history.js')).historyCommand(context, name, limit))
    })
  simple('status', 'luod itself: version, counts, limits', undefined, async (context) =>
    (await list()).statusCommand(context),
  )
  program
    .command('upgrade')
    .description('replace luod itself by another build, while it holds everything')
    .option(
      '--to <path>',
      "the package's directory, or luod's main file; without it, luod's own, as it is on disk now",
      pathOf('--to'),
    )
    .addHelpText('after', UPGRADE_HELP)
    .action(({ to }: { to?: string }) => {
      chooseAlone(async (context) => (await import('./upgrade.js')).upgradeCommand(context, to))
    })
  program
    .command('inspect')
    .description("luod's durable records, or a file in one of the formats of docs/formats.md")
    .argument('[file]', '', pathOf('the file'))
    .option('--kernel', 'what the running kernel hands over, and what was handed to it')
    .option('--verify', 'whether all of it is sound, and what a recovery would keep')
    .addHelpText('after', INSPECT_HELP)
    .action((file: string | undefined, options: { kernel?: boolean; verify?: boolean }) => {
      const { kernel, verify } = options
      if (kernel && (verify || file !== undefined)) throw usageError('inspect: --kernel takes no file and no --verify')
      chooseAlone(async (context) => {
        if (kernel) return (await import('./inspect-kernel.js')).inspectKernelCommand(context)
        if (verify) return (await import('./inspect-verify.js')).verifyCommand(context, file)
        return (await import('./inspect.js')).inspectCommand(context, file)
      })
    })
  simple('kinds', 'which kinds of files are kept, and what of them crosses what', undefined, async (context) =>
    (await import('./kinds.js')).kindsCommand(context),
  )
  simple('doctor', 'whether this machine is fit, and what to do', undefined, async (context) =>
    (await import('./doctor.js')).doctorCommand(context),
  )
  program
    .command('help')
    .description('help for a command')
    .argument('[command...]')
    .action((names: string[]) => helped(program, names).help())
  return program
}

function helped(program: Command, names: readonly string[]): Command {
  return names.reduce((within, name) => {
    const found = within.commands.find((command) => command.name() === name)
    if (found) return found
    throw usageError(`unknown command '${name}'`)
  }, program)
}

type SimpleAction = (context: Context, value: string | undefined) => Promise<number>

function checkMode(text: string): CheckMode {
  const mode = CHECK_MODES.find((known) => known === text)
  if (!mode) throw usageError(`--check "${text}": choose ${CHECK_MODES.join(' or ')}`)
  return mode
}

const ARGUMENTS = splitArguments(process.argv.slice(2))
const JSON_WANTED = ARGUMENTS.own.includes('--json')

const complain = (line: string) => toStderr(line, JSON_WANTED)

/** What commander throws, as the usage error that it is; undefined for help and the version, which it has printed. */
function usageErrorOf({ exitCode, code, message }: CommanderError): LuoError | undefined {
  if (exitCode === 0) return undefined
  if (code === 'commander.help') return usageError('no command is given: luoctl --help lists them')
  const what = message.replace(/^error: /, '').replaceAll('\n', ' ')
  const dashes = /^too many arguments for '(run|emulate)'/.test(what) ? ' The command follows behind --' : ''
  return usageError(`${what}${dashes}`)
}

/** Runs luoctl and answers its exit code. */
async function main(): Promise<number> {
  const { own, command } = ARGUMENTS
  const chosen: Action[] = []
  try {
    if (!argumentsAreText()) throw usageError('an argument is not UTF-8, and Node.js would make another one of it')
    const program = buildProgram(command, JSON_WANTED, (action) => chosen.push(action))
    program.parse(own, { from: 'user' })
    const context = createContext(program.opts())
    const action = chosen[0]
    return action ? await action(context) : EXIT.USAGE
  } catch (error) {
    const known = error instanceof CommanderError ? usageErrorOf(error) : error
    return known === undefined ? EXIT.OK : reportError(known, JSON_WANTED, complain)
  }
}

// Whoever read what is said beside: a supervisor, or an update, does not end with it.
process.stderr.on('error', () => {})
// A reader that went away (luoctl watch | head) is a normal end.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.OK)
  reportError(asLuoError(error, (error.code ?? 'EIO') as ErrnoName, 'write what was asked for'), JSON_WANTED, complain)
  process.stderr.write('', () => process.exit(EXIT.FAILED))
})
void main().then((code) => {
  // A socket, as Node gives to its children, is written to later; an exit would cut off what is still to go.
  process.stdout.write('', (error) => {
    if (!error) process.stderr.write('', () => process.exit(code))
  })
})
