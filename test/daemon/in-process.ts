/** luod in the test's own process, so that its calls of libc can fail. */
import { Daemon, type DaemonOptions } from '../../src/daemon/daemon.js'
import { loadHandlers } from '../../src/daemon/handlers.js'
import { userLimits } from '../../src/daemon/user-limits.js'
import { listenUnix } from '../../src/sys/unix.js'
import { Stage } from './stage.js'

type Log = DaemonOptions['log']

/** Of a luod that nothing protects; the rest depends on the test. */
export function optionsOfOurOwn(log: Log = () => {}): Omit<DaemonOptions, 'listener' | 'registry'> {
  return {
    version: '1',
    nofile: 20_000,
    limits: userLimits({}, { nofile: 20_000, shared: true, memory: 2 ** 30 }),
    replacement: {
      protection: { kind: 'none', ready: false, lost: 0 },
      settled: () => undefined,
      upgrade: () => Promise.reject(new Error()),
    },
    log,
  }
}

export async function luodOfOurOwn(log?: Log): Promise<{ stage: Stage; daemon: Daemon }> {
  const registry = await loadHandlers([])
  let daemon: Daemon | undefined
  const stage = await Stage.around((socket) => {
    daemon = Daemon.begin({ ...optionsOfOurOwn(log), registry, listener: listenUnix(socket, 0o666) })
  })
  if (!daemon) throw new Error('there is no luod')
  return { stage, daemon }
}
