/** The commands that look and change nothing: `list`, `show`, `status`, `watch`; and `abort`. */
import { randomUUID } from 'node:crypto'
import { type Context, EXIT, withClient } from './context.js'
import { clean, protectionLines, type SessionContent, usageLines, workloadDetails, workloadRows } from './format.js'
import { filesOf } from './sessions.js'

export async function listCommand(context: Context): Promise<number> {
  const { workloads } = await withClient(context, async (client) => (await client.call('List', {})).parameters)
  if (context.json) context.out(JSON.stringify({ workloads }))
  else for (const line of workloadRows(workloads)) context.out(line)
  return EXIT.OK
}

export async function showCommand(context: Context, name: string): Promise<number> {
  await withClient(context, async (client) => {
    const { workload, sessions } = (await client.call('Show', { workload: name })).parameters
    const contents: SessionContent[] = []
    for (const session of sessions) contents.push({ session, files: await filesOf(client, session) })
    if (context.json) {
      context.out(
        JSON.stringify({ ...workload, sessions: contents.map(({ session, files }) => ({ ...session, files })) }),
      )
    } else for (const line of workloadDetails(workload, contents)) context.out(line)
  })
  return EXIT.OK
}

export async function abortCommand(context: Context, name: string): Promise<number> {
  const { update } = await withClient(
    context,
    async (client) => (await client.call('Abort', { id: randomUUID(), workload: name })).parameters,
  )
  context.out(context.json ? JSON.stringify({ workload: name, update }) : `${clean(name)}: update ${update} aborted`)
  return EXIT.OK
}

export async function statusCommand(context: Context): Promise<number> {
  const status = await withClient(context, async (_client, status) => status)
  if (context.json) {
    context.out(JSON.stringify(status))
    return EXIT.OK
  }
  context.out(`luod ${clean(status.version)}, pid ${status.pid}, user ${status.uid}, at ${context.socket}`)
  context.out(`  workloads ${status.workloads}, sessions ${status.sessions}, files ${status.files}`)
  context.out(`  connections ${status.connections}, open files ${status.open_fds} of ${status.nofile}`)
  const kernel = 'the device of the kernel: what is preserved crosses a kexec too'
  context.out(
    `  backend ${status.backend === 'kernel' ? kernel : 'userspace: what is preserved ends with this kernel'}`,
  )
  for (const line of protectionLines(status)) context.out(line)
  for (const line of usageLines(status)) context.out(line)
  return EXIT.OK
}

/** Every event until the reader ends, or luod for good. What happened while luod was away is not told. */
export async function watchCommand(context: Context, name: string | undefined): Promise<number> {
  await withClient(context, async (client) => {
    const again = () => context.err('luoctl: the connection to luod was lost; what happened meanwhile is missing here')
    for await (const { parameters: event } of client.stream('Watch', { workload: name }, again)) {
      if (context.json) {
        context.out(JSON.stringify(event))
        continue
      }
      const parts = [event.at ?? new Date().toISOString(), event.workload ?? '-', event.event]
      if (event.update) parts.push(`update ${event.update}`)
      if (event.group) parts.push(`group ${event.group}`)
      if (event.pid) parts.push(`pid ${event.pid}`)
      if (event.detail) parts.push(event.detail)
      context.out(parts.map((part) => clean(String(part))).join('  '))
    }
  })
  return EXIT.OK
}
