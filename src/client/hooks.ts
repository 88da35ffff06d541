/** The application's hooks. */
import { LuoError } from '../errors.js'
import type { HookName, Hooks } from './types.js'

export class HookList {
  readonly #hooks: { [N in HookName]: Hooks[N][] } = { prepare: [], freeze: [], resume: [], released: [] }

  add<N extends HookName>(name: N, hook: Hooks[N]): void {
    if (!Object.hasOwn(this.#hooks, name) || typeof hook !== 'function') {
      const names = Object.keys(this.#hooks).join(', ')
      const what = `on ${String(name)}: a hook is a function, for one of ${names}`
      throw new LuoError('LUO_INVALID_PARAMETER', what, { params: { parameter: 'event' } })
    }
    this.#hooks[name].push(hook)
  }

  /** One after the other; the first that throws, or answers an error, ends it. */
  async run<N extends HookName>(name: N, ...args: Parameters<Hooks[N]>): Promise<void> {
    for (const hook of this.#hooks[name]) {
      const answer = await (hook as (...args: unknown[]) => unknown)(...args)
      if (answer instanceof Error) throw answer
    }
  }

  /** All of them; what one throws is a warning, because nothing can be refused any more. */
  async runAll<N extends HookName>(name: N, ...args: Parameters<Hooks[N]>): Promise<void> {
    for (const hook of this.#hooks[name]) {
      try {
        await (hook as (...args: unknown[]) => unknown)(...args)
      } catch (error) {
        process.emitWarning(`a ${name} hook failed: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
  }
}
