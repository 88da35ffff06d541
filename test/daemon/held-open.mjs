// Loaded into luod before its own code: told to by SIGUSR2, it has another process hold copies of all of its sockets.
// What luod had open stays open then, whatever becomes of luod.
import { spawn } from 'node:child_process'
import { readdirSync, readlinkSync } from 'node:fs'

const LASTS_S = 600

process.on('SIGUSR2', () => {
  const sockets = readdirSync('/proc/self/fd').map(Number).filter(isSocket)
  const { pid } = spawn('sleep', [String(LASTS_S)], { stdio: ['ignore', 'ignore', 'ignore', ...sockets] })
  console.error(`held open by ${pid}`)
})

function isSocket(fd) {
  try {
    return fd > 2 && readlinkSync(`/proc/self/fd/${fd}`).startsWith('socket:')
  } catch {
    return false
  }
}
