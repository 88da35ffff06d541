/**
 * Which files may not be preserved now, and who has them: those in an outgoing session, and those that were retrieved
 * and are not finished. One file can be both, when it was preserved again before it was retrieved; it is free when the
 * last of its holders lets go.
 */
import type { FileHandler } from './handler.js'
import { type FileAccess, FileIdentities } from './identity.js'

export interface Holder<F> {
  readonly session: string
  readonly token: string
  readonly file: F
  /** The handler's own identity of the file. Undefined: the open file is its identity. */
  readonly id: string | undefined
}

export function holderOf<F>(session: string, token: string, handler: FileHandler<F>, file: F): Holder<F> {
  // A compatible string has no NUL.
  const id = handler.getId && `${handler.compatible}\0${handler.getId(file)}`
  return { session, token, file, id }
}

export class HeldFiles<F> {
  readonly #openFiles: FileIdentities<F, Holder<F>[]>
  readonly #ids = new Map<string, Holder<F>[]>()

  constructor(access: FileAccess<F>) {
    this.#openFiles = new FileIdentities(access)
  }

  /** Everybody who has the same file, longest first. */
  get({ id, file }: Holder<F>): readonly Holder<F>[] {
    return this.#list({ id, file }) ?? []
  }

  add(holder: Holder<F>): void {
    const holders = this.#list(holder)
    if (holders) holders.push(holder)
    else if (holder.id === undefined) this.#openFiles.add(holder.file, [holder])
    else this.#ids.set(holder.id, [holder])
  }

  /** Does nothing when it was not added. */
  remove(holder: Holder<F>): void {
    const holders = this.#list(holder) ?? []
    const index = holders.indexOf(holder)
    if (index < 0) return
    holders.splice(index, 1)
    const [first] = holders
    if (holder.id !== undefined) {
      if (!first) this.#ids.delete(holder.id)
      return
    }
    // Found from here on by a reference that stays open.
    this.#openFiles.delete(holder.file)
    if (first) this.#openFiles.add(first.file, holders)
  }

  #list({ id, file }: Pick<Holder<F>, 'id' | 'file'>): Holder<F>[] | undefined {
    return id === undefined ? this.#openFiles.get(file) : this.#ids.get(id)
  }
}
