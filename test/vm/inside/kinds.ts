/** One file of each kind that crosses a kexec by value, and memory: made, and looked at after it. */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { appendFileSync, mkdirSync, openSync, readdirSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import type { LiveSession } from '../../../src/client/index.js'
import { createEventfd, eventfdState } from '../../../src/sys/eventfd.js'
import { type Fd, inheritedFd } from '../../../src/sys/fd.js'
import { addSeals, createMemfd, getSeals, position, readAt, setPosition, writeAt } from '../../../src/sys/memfd.js'
import { howOpened } from '../../../src/sys/same-file.js'

const DISK = '/run/disk'
const path = (name: string) => `${DISK}/${name}`
const TCP_PORT = 7001
const UDP_PORT = 7002
/** A path that is there anew after each boot, and an abstract name. */
const UNIX_PATHS = ['/run/kinds.sock', '\0kinds']
const TEXT = 'written before the kexec'
const POSITION = 8
const COUNTER = 1234n
/** At these tokens are files that are no longer what they were. */
const SPOILED = { grown: 20, overwritten: 21, replaced: 22, removed: 23 }
const TOKENS = { file: 1, directory: 2, tcp: 3, udp: 4, unix: 5, abstract: 6, eventfd: 7, memory: 8 }

type Handled = { _handle: { fd: number } }

export async function preserveKinds(session: LiveSession): Promise<void> {
  for (const name of ['file', ...Object.keys(SPOILED)]) writeFileSync(path(name), TEXT)
  mkdirSync(path('directory'))
  const file = openSync(path('file'), 'a+')
  setPosition(inheritedFd(file), POSITION)
  await session.preserve(TOKENS.file, file)
  await session.preserve(TOKENS.directory, openSync(path('directory'), 'r'))
  for (const [name, token] of Object.entries(SPOILED)) await session.preserve(token, openSync(path(name), 'r'))
  const tcp = createServer().listen(TCP_PORT, '127.0.0.1')
  await once(tcp, 'listening')
  await session.preserve(TOKENS.tcp, (tcp as unknown as Handled)._handle.fd)
  const udp = createSocket('udp4').bind(UDP_PORT, '127.0.0.1')
  await once(udp, 'listening')
  await session.preserve(TOKENS.udp, numberOf(udp))
  for (const [index, at] of UNIX_PATHS.entries()) {
    const unix = createServer().listen(at)
    await once(unix, 'listening')
    await session.preserve(TOKENS.unix + index, (unix as unknown as Handled)._handle.fd)
  }
  await session.preserve(TOKENS.eventfd, createEventfd({ counter: COUNTER, semaphore: true }).number)
  const memory = createMemfd('sealed', { size: 4096, overKexec: true })
  writeAt(memory, Buffer.from(TEXT), 0)
  addSeals(memory, ['shrink', 'grow'])
  setPosition(memory, POSITION)
  await session.preserve(TOKENS.memory, memory.number)
}

/** Somebody else does that, while there is no luod. */
export function spoil(): void {
  appendFileSync(path('grown'), '.')
  writeFileSync(path('overwritten'), TEXT.toUpperCase())
  rmSync(path('replaced'))
  writeFileSync(path('replaced'), TEXT)
  rmSync(path('removed'))
}

export async function lookAtKinds(session: LiveSession): Promise<object> {
  const get = async (token: number) => inheritedFd(await session.retrieve(token))
  const file = await get(TOKENS.file)
  const rest = Buffer.alloc(TEXT.length)
  const at = position(file)
  const length = readSync(file.number, rest, 0, rest.length, null)
  const memory = await get(TOKENS.memory)
  const eventfd = await get(TOKENS.eventfd)
  const { counter, semaphore } = eventfdState(eventfd)
  const directory = await get(TOKENS.directory)
  writeFileSync(`/proc/self/fd/${directory.number}/here`, '')
  return {
    tokens: (await session.tokens()).map(Number),
    file: { at, rest: rest.toString('latin1', 0, length), flags: howOpened(file).flags },
    memory: { at: position(memory), text: textOf(memory), seals: [...getSeals(memory)] },
    eventfd: { counter: Number(counter), semaphore },
    tcp: await greeted(await get(TOKENS.tcp), { port: TCP_PORT }),
    unix: await greeted(await get(TOKENS.unix), { path: UNIX_PATHS[0] as string }),
    abstract: await greeted(await get(TOKENS.abstract), { path: UNIX_PATHS[1] as string }),
    udp: await received(await get(TOKENS.udp)),
    entered: readdirSync(path('directory')),
  }
}

export function textOf(memory: Fd): string {
  const bytes = Buffer.alloc(64)
  readAt(memory, bytes, 0)
  return bytes.toString('latin1').replace(/\0.*$/s, '')
}

/** What a client is greeted with by whoever has the listener. */
async function greeted(listener: Fd, where: { port: number } | { path: string }): Promise<string> {
  const server = createServer((socket) => socket.end('hello'))
  server.listen({ fd: listener.number })
  const client = connect(where as { port: number })
  const [data] = await once(client, 'data')
  client.destroy()
  return String(data)
}

async function received(socket: Fd): Promise<string> {
  // It listens at once.
  const udp = createSocket('udp4').bind({ fd: socket.number })
  const sender = createSocket('udp4')
  sender.send('datagram', UDP_PORT, '127.0.0.1')
  const [data] = await once(udp, 'message')
  sender.close()
  udp.close()
  return String(data)
}

function numberOf(socket: ReturnType<typeof createSocket>): number {
  const [state] = Object.getOwnPropertySymbols(socket).filter((symbol) => String(symbol) === 'Symbol(state symbol)')
  return (socket as unknown as Record<symbol, { handle: { fd: number } }>)[state as symbol]?.handle.fd ?? -1
}
