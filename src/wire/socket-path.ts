/**
 * Where luod's socket is, and a directory for it that nobody else can interfere with. A path that is too long, a
 * directory that is a link, belongs to another user or is open to one: each is an error that says so, and nothing is
 * changed.
 */
import { chmodSync, lstatSync, mkdirSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { LuoError } from '../errors.js'
import { MAX_SOCKET_PATH_BYTES } from '../sys/unix.js'

/** What `open` means for others: write access. */
const WRITABLE_BY_OTHERS = 0o022
const STICKY = 0o1000

/** `option`, else `$LUO_SOCKET`, else the place that fits the user; always absolute. */
export function socketPath(
  option: string | undefined,
  env: NodeJS.ProcessEnv = process.env,
  uid: number = process.getuid?.() ?? 0,
): string {
  // A variable that is not set, in a script: any other socket would be somebody else's.
  if (option === '') throw new LuoError('LUO_INVALID_PARAMETER', 'the path of the socket is empty')
  const path = resolve(option ?? (env.LUO_SOCKET || defaultSocketPath(env, uid)))
  const bytes = Buffer.byteLength(path)
  if (bytes > MAX_SOCKET_PATH_BYTES) {
    throw new LuoError(
      'ENAMETOOLONG',
      `the socket path ${path} has ${bytes} bytes, and a Unix socket takes ${MAX_SOCKET_PATH_BYTES}: ` +
        'choose a shorter --socket',
    )
  }
  return path
}

function defaultSocketPath(env: NodeJS.ProcessEnv, uid: number): string {
  if (uid === 0) return '/run/luod/liveupdate.sock'
  return env.XDG_RUNTIME_DIR ? `${env.XDG_RUNTIME_DIR}/luod/liveupdate.sock` : `/tmp/luod-${uid}/liveupdate.sock`
}

/**
 * Makes the directory of `path` (mode 0755 for root, whose socket others may connect to, else 0700), or checks the one
 * that is there: a real directory, of this user or root, in which nobody else can put or replace a file.
 */
export function prepareSocketDirectory(path: string, uid: number = process.getuid?.() ?? 0): void {
  const directory = dirname(path)
  const mode = uid === 0 ? 0o755 : 0o700
  try {
    mkdirSync(directory, { mode })
    // mkdir's mode goes through the umask.
    chmodSync(directory, mode)
    return
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code !== 'EEXIST') {
      throw new LuoError((code ?? 'EIO') as 'EIO', `make the directory ${directory} for luod's socket: ${code}`, {
        cause: error,
      })
    }
  }
  const stat = lstatSync(directory)
  const refuse = (why: string) => new LuoError('EPERM', `${directory}, the directory of luod's socket, ${why}`)
  if (stat.isSymbolicLink()) throw refuse('is a link: give the real path with --socket')
  if (!stat.isDirectory()) throw refuse('is no directory')
  if (stat.uid !== uid && stat.uid !== 0) throw refuse(`belongs to uid ${stat.uid}, and this is uid ${uid}`)
  const shared = (stat.mode & WRITABLE_BY_OTHERS) !== 0
  // In a sticky directory such as /tmp others can add files and cannot replace ours.
  if (shared && (stat.mode & STICKY) === 0) throw refuse('can be written by other users: chmod go-w it')
}
