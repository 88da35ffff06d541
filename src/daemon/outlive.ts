/**
 * What does not end a luod that has other people's state: a defect, which costs the request in which it shows, and a
 * terminal or a supervisor that goes away. SIGTERM and SIGINT are for whoever calls this.
 */
import type { Logger } from './log.js'

/** Answers how to end it. */
export function outlive(log: Logger): () => void {
  const onError = (error: Error) => log('error', `defect: ${error.stack ?? error.message}`)
  const onRejection = (reason: unknown) => log('error', `defect: ${String(reason)}`)
  const onHangUp = () => {}
  process.on('uncaughtException', onError)
  process.on('unhandledRejection', onRejection)
  process.on('SIGHUP', onHangUp)
  return () => {
    process.off('uncaughtException', onError)
    process.off('unhandledRejection', onRejection)
    process.off('SIGHUP', onHangUp)
  }
}
