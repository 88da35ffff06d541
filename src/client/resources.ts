/**
 * What luod holds for this workload, by token, and what it is called (the manifest): resources that were handed over
 * and not asked for yet, and those that luod shall hold from `ready` on.
 */
import { randomUUID } from 'node:crypto'
import { closeAll, type Fd } from '../sys/fd.js'
import { addByToken, type FileToHand, type LuodLink } from './luod-link.js'
import { MANIFEST_TOKEN, Manifest, type Resource } from './manifest.js'

/** A resource and its file. */
export interface Entry {
  resource: Resource
  fd: Fd
  until?: 'update' | undefined
}

export class Resources {
  readonly #link: LuodLink
  readonly #session: string
  readonly #preserved = new Map<string, Resource>()
  readonly #pending: Entry[] = []
  readonly #handed = new Map<string, Entry>()
  /** Names of further sessions of the workload that were handed over. */
  readonly #handedSessions = new Set<string>()
  #manifest: Manifest | undefined
  #nextToken = 1n

  constructor(link: LuodLink, session: string) {
    this.#link = link
    this.#session = session
  }

  // --- taking over --------------------------------------------------------------------------------------------------

  /** Waits until the old version has let go, and takes what there is. */
  async claim(member: string): Promise<void> {
    const { parameters, fds: first } = await this.#link.call('Claim', { id: randomUUID(), member })
    for (const { session, name } of parameters.sessions) if (session !== this.#session) this.#handedSessions.add(name)
    const fds = new Map<string, Fd>()
    try {
      // The first of those that it describes came with it.
      const came = parameters.files.slice(0, first.length).map(({ token }, fd) => ({ token, fd }))
      addByToken(came, first, fds)
      if (first.length < parameters.total) await this.#link.retrieveFrom(this.#session, first.length, fds)
      const manifestFd = fds.get(MANIFEST_TOKEN)
      // Without a manifest nothing was ever preserved by name.
      const { manifest, resources } = manifestFd ? Manifest.open(manifestFd) : { manifest: undefined, resources: [] }
      this.#manifest = manifest
      fds.delete(MANIFEST_TOKEN)
      for (const resource of resources) {
        const fd = fds.get(resource.token)
        if (!fd) continue
        fds.delete(resource.token)
        this.#handed.set(resource.token, { resource, fd })
        this.#preserved.set(resource.token, resource)
        if (BigInt(resource.token) >= this.#nextToken) this.#nextToken = BigInt(resource.token) + 1n
      }
    } finally {
      closeAll(fds.values())
    }
  }

  /** Whether a session of this name was handed over, and not asked for yet. */
  takeSession(name: string): boolean {
    return this.#handedSessions.delete(name)
  }

  handed(kind: Resource['kind'], name: string): Entry | undefined {
    return [...this.#handed.values()].find(({ resource }) => resource.kind === kind && resource.name === name)
  }

  take(kind: Resource['kind'], name: string): Entry | undefined {
    const entry = this.handed(kind, name)
    if (entry) this.#handed.delete(entry.resource.token)
    return entry
  }

  /** The connections that came with a listener. */
  takeConnections(listener: string): Fd[] {
    const entries = [...this.#handed.values()].filter(({ resource }) => resource.of === listener)
    for (const { resource } of entries) this.#handed.delete(resource.token)
    return entries.map(({ fd }) => fd)
  }

  /**
   * Lets go of what nobody takes up, or should hold any longer: connections, which luod would keep open for ever, and
   * listeners that this version does not serve. Memory and files stay: they may still be asked for.
   */
  async dropUnused(): Promise<void> {
    const unused = [...this.#handed.values()].filter(({ resource: { kind } }) => kind !== 'memory' && kind !== 'file')
    for (const { resource, fd } of unused) {
      this.#handed.delete(resource.token)
      fd.close()
    }
    const listeners = unused.map(({ resource }) => resource).filter(({ kind }) => kind === 'listener')
    await this.#forget([...this.#connections(), ...listeners])
  }

  // --- holding ------------------------------------------------------------------------------------------------------

  /** `flush` will have luod hold it. */
  add(resource: Omit<Resource, 'token'>, fd: Fd, until?: 'update'): void {
    this.#pending.push({ resource: { ...resource, token: this.#newToken() }, fd, until })
  }

  /** Gives luod what it does not hold yet, and writes down what all of it is called. */
  async flush(): Promise<void> {
    const entries = this.#pending.splice(0)
    if (entries.length === 0) return
    const files: FileToHand[] = entries.map(({ resource: { token, format }, fd, until }) => ({
      ...{ token, fd, until },
      ...(format ? { format } : {}),
    }))
    if (!this.#manifest) {
      this.#manifest = Manifest.create()
      files.unshift({ token: MANIFEST_TOKEN, fd: this.#manifest.fd })
    }
    // Written first: a name whose file is missing is harmless, a file without a name is lost.
    this.#write(entries)
    try {
      await this.#link.preserve(this.#session, files)
    } finally {
      // Of files, luod has the only copy that we need.
      closeCopies(entries)
    }
  }

  /** `made` takes the place of what has its name; what that was is forgotten, and not held any more. */
  async replace(made: Omit<Resource, 'token'>, fd: Fd): Promise<void> {
    const same = ({ kind, name }: Resource) => kind === made.kind && name === made.name
    const pending = this.#pending.findIndex(({ resource }) => same(resource))
    if (pending >= 0) this.#pending.splice(pending, 1)
    const old = [...this.#preserved.values()].filter(same)
    this.add(made, fd)
    if (old.length === 0) return
    await this.flush()
    await this.#forget(old)
  }

  /** This version has let go, and luod holds its connections too. Owns their files. */
  async ready(
    { member, update }: { member: string; update: string },
    connections: readonly { of: string; fd: Fd }[],
    heldSince: number,
    signal: AbortSignal,
  ): Promise<void> {
    try {
      const entries = connections.map(({ of, fd }): Entry => {
        const token = this.#newToken()
        return { resource: { name: `connection ${token}`, kind: 'connection', of, token }, fd }
      })
      if (entries.length > 0) this.#write(entries)
      // They end with the kernel, and so does whoever is at the other end of them.
      const files = entries.map(({ resource: { token }, fd }) => ({ token, fd, until: 'update' as const }))
      await this.#link.ready({ member, update, session: this.#session }, files, heldSince, signal)
    } finally {
      for (const { fd } of connections) fd.close()
    }
  }

  /** Undo of `ready`: luod holds no connections for us any more. */
  async takeBackConnections(): Promise<void> {
    await this.#forget(this.#connections())
  }

  /** Nothing is taken or held here any more. */
  close(): void {
    closeCopies(this.#pending.splice(0))
    for (const { fd } of this.#handed.values()) fd.close()
    this.#handed.clear()
    this.#manifest?.fd.close()
  }

  /** luod holds nothing for this workload any more. */
  async giveUp(workload: string): Promise<void> {
    const { sessions } = (await this.#link.call('Show', { workload })).parameters
    for (const { session } of sessions) {
      if (session !== this.#session) await this.#link.release(session)
    }
    const tokens = [...this.#preserved.keys()]
    if (this.#manifest && tokens.length > 0) await this.#link.unpreserve(this.#session, [...tokens, MANIFEST_TOKEN])
  }

  #newToken(): string {
    return String(this.#nextToken++)
  }

  #connections(): Resource[] {
    return [...this.#preserved.values()].filter(({ kind }) => kind === 'connection')
  }

  async #forget(resources: readonly Resource[]): Promise<void> {
    if (resources.length === 0) return
    for (const { token } of resources) this.#preserved.delete(token)
    this.#write([])
    await this.#link.unpreserve(
      this.#session,
      resources.map(({ token }) => token),
    )
  }

  #write(added: readonly Entry[]): void {
    for (const { resource } of added) this.#preserved.set(resource.token, resource)
    this.#manifest?.write([...this.#preserved.values()])
  }
}

function closeCopies(entries: readonly Entry[]): void {
  for (const { resource, fd } of entries) if (resource.kind === 'file') fd.close()
}
