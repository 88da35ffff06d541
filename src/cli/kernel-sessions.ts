/** `luoctl sessions --kernel`: open sessions of the kernel's device that are not luod's. */
import { type Context, EXIT, withClient } from './context.js'
import { clean, table } from './format.js'

export async function kernelSessionsCommand(context: Context): Promise<number> {
  const found = await withClient(context, async (client) => (await client.call('KernelSessions', {})).parameters)
  if (context.json) {
    context.out(JSON.stringify(found))
    return EXIT.OK
  }
  const rows = found.sessions.map(({ name, direction, pid, command }) => [
    clean(name),
    direction ?? '-',
    String(pid),
    clean(command),
  ])
  for (const line of table(['SESSION', 'DIRECTION', 'PID', 'COMMAND'], rows)) context.out(line)
  if (!found.complete) context.err('luoctl: not every process could be looked at: there may be more')
  return EXIT.OK
}
