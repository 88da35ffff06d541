/** Which kinds of files this luod keeps: what the operator's plug-ins take, and then what it takes itself. */
import type { HandlerRegistry } from '../core/handler.js'
import { standaloneContext } from '../handlers/context.js'
import type { HeldFile } from '../handlers/held-file.js'
import { registerReferenceHandlers } from '../handlers/reference.js'
import { loadPlugin } from '../plugin/load.js'
import { registerPlugin } from '../plugin/register.js'
import type { Fd } from '../sys/fd.js'
import { madeHere } from '../sys/unix.js'

/**
 * LUO_PLUGIN when one of them cannot be loaded, or does not register. In the order in which they are given.
 * `madeBefore`: whether a Unix socket is of a luod before this one, and still in use; of this one's own the kernel says
 * so.
 */
export async function loadHandlers(
  plugins: readonly string[],
  madeBefore: (file: Fd) => boolean = () => false,
): Promise<HandlerRegistry<HeldFile>> {
  const isOwn = ({ fd, info }: HeldFile) => info.kind === 'unix' && (madeHere(fd) || madeBefore(fd))
  const context = standaloneContext()
  for (const path of plugins) registerPlugin(await loadPlugin(path), context, { isOwn })
  registerReferenceHandlers(context, { isOwn })
  return context.registry
}
