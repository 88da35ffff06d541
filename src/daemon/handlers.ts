/** Which kinds of files this luod keeps: what the operator's plug-ins take, and then what it takes itself. */
import type { HandlerRegistry } from '../core/handler.js'
import { standaloneContext } from '../handlers/context.js'
import type { HeldFile } from '../handlers/held-file.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { loadPlugin } from '../plugin/load.js'
import { registerPlugin } from '../plugin/register.js'
import { madeHere } from '../sys/unix.js'

const isOwn = ({ fd, info }: HeldFile) => info.kind === 'unix' && madeHere(fd)

/** LUO_PLUGIN when one of them cannot be loaded, or does not register. In the order in which they are given. */
export async function loadHandlers(plugins: readonly string[]): Promise<HandlerRegistry<HeldFile>> {
  const context = standaloneContext()
  for (const path of plugins) registerPlugin(await loadPlugin(path), context, { isOwn })
  registerReferenceHandlers(context, { isOwn })
  return context.registry
}
