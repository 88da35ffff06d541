/**
 * Files that the service manager has started this process with, sd_listen_fds(3): sockets that it listens at for a
 * service, and files that the process before has left in its store.
 */
import { LuoError } from '../errors.js'
import { closeAll, type Fd, inheritedFd } from './fd.js'

const FIRST_FD = 3
/** More than any kernel lets a process have unless told otherwise (fs.nr_open). */
const MAX_FILES = 2 ** 20

export interface InheritedFile {
  /** "unknown" when the manager gave none. */
  name: string
  fd: Fd
}

type Environment = Record<string, string | undefined>

/**
 * Once: the variables are taken out of `env`, so that no child takes the files for its own. Empty when there are none,
 * or they are another process's. EINVAL when the variables make no sense, EBADF when a file is not there.
 */
export function inheritedFiles(env: Environment = process.env): InheritedFile[] {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = env
  for (const name of ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete env[name]
  if (LISTEN_FDS === undefined || Number(LISTEN_PID) !== process.pid) return []
  const count = Number(LISTEN_FDS)
  const names = LISTEN_FDNAMES?.split(':')
  if (!/^\d+$/.test(LISTEN_FDS) || count > MAX_FILES || (count > 0 && names && names.length !== count)) {
    throw new LuoError('EINVAL', `LISTEN_FDS is "${LISTEN_FDS}", with ${names?.length ?? 'no'} names`)
  }
  const files: InheritedFile[] = []
  try {
    for (let index = 0; index < count; index++) {
      files.push({ name: names?.[index] || 'unknown', fd: inheritedFd(FIRST_FD + index) })
    }
    return files
  } catch (error) {
    closeAll(files.map(({ fd }) => fd))
    throw error
  }
}
