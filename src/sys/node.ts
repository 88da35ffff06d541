/**
 * Between our files and Node's own streams and servers. `_handle` is Node's internal handle of a socket or server: its
 * `fd` is the only way to the descriptor. It is read here and nowhere else.
 */
import { type Server, Socket } from 'node:net'
import { LuoError } from '../errors.js'
import { Fd } from './fd.js'
import { fileInfo } from './file-info.js'

interface Handle {
  fd?: number
  reading?: boolean
  readStart?(): void
  readStop?(): void
  close(callback?: () => void): void
}

function handleOf(object: Server | Socket): Handle | null {
  return (object as unknown as { _handle: Handle | null })._handle ?? null
}

/** A copy of the descriptor under a listening server or a connected socket; EBADF when it has none (any more). */
export function dupHandle(object: Server | Socket): Fd {
  const number = handleOf(object)?.fd
  if (number === undefined || number < 0) {
    throw new LuoError('EBADF', 'take the descriptor of a socket that is closed, or never was open')
  }
  // Not owned: duplicated and let go of again.
  const borrowed = Fd.adopt(number)
  try {
    return borrowed.dup()
  } finally {
    borrowed.release()
  }
}

/**
 * A connected socket over `fd`, which it owns from here on. Nothing is read before somebody asks: listens for data,
 * resumes it or starts reading. Until then what comes stays in the kernel, for whoever else has the connection.
 */
export function adoptSocket(fd: Fd, options: { allowHalfOpen: boolean }): Socket {
  const number = fd.release()
  try {
    // Without manualStart, which Node's types do not know, it would read at once.
    const all = { fd: number, readable: true, writable: true, manualStart: true, ...options }
    return new Socket(all)
  } catch (error) {
    Fd.adopt(number).close()
    throw error
  }
}

/** Lets `server` accept on the listening socket `fd`, which it owns from here on. */
export async function listenOn(server: Server, fd: Fd): Promise<void> {
  // Node leaves the descriptor open when it refuses for one of these reasons.
  if (server.listening || !fileInfo(fd).listening) {
    fd.close()
    const reason = server.listening ? 'the server listens already' : 'it is no listening socket'
    throw new LuoError('EINVAL', `listen on a socket that was handed over: ${reason}`)
  }
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ fd: fd.release() }, () => {
      server.off('error', reject)
      resolve()
    })
  })
}

/**
 * Stops accepting without `server.close()`, which would also end idle connections and keep the server from listening
 * again. The listening socket itself stays open in whoever has another descriptor of it.
 */
export function stopListening(server: Server): void {
  handleOf(server)?.close()
  ;(server as unknown as { _handle: Handle | null })._handle = null
}

/** The number under which a child inherits `fd`, for the `stdio` of spawn. */
export function inheritStdio(fd: Fd): number {
  return fd.number
}

/**
 * Stops reading `socket`, also where an HTTP parser reads the handle itself and the stream knows nothing of it. What
 * the other side sends waits in the kernel.
 */
export function stopReading(socket: Socket): void {
  socket.pause()
  const handle = handleOf(socket)
  if (handle?.reading) {
    handle.reading = false
    handle.readStop?.()
  }
}

export function startReading(socket: Socket): void {
  const handle = handleOf(socket)
  socket.resume()
  if (handle && !handle.reading) {
    handle.reading = true
    handle.readStart?.()
  }
}

/** Whether there is a descriptor under it. */
export function hasHandle(object: Server | Socket): boolean {
  return (handleOf(object)?.fd ?? -1) >= 0
}

/** A copy of a descriptor that the application owns, given as the number that Node's own functions take. */
export function duplicateNumber(number: number): Fd {
  const borrowed = Fd.adopt(number)
  try {
    return borrowed.dup()
  } finally {
    borrowed.release()
  }
}
