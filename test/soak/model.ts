/** What has to be in the sessions of a workload, and the changes that its running version makes in them. */
import type { Random } from './random.js'
import type { Version } from './version.js'

/** The workload's own session; it is always there. */
export const OWN = 'own'
const MAX_SESSIONS = 4
const MAX_FILES = 6
/** Of what a version does between two updates. */
const MAX_CHANGES = 3
/** Fits every kind. */
const MAX_VALUE = 4_000
/** What a version answers when a kind has no number that can be changed. */
const CANNOT_SET = -2

interface ModelFile {
  kind: string
  value: number
}

export class Model {
  readonly #random: Random
  readonly #kinds: readonly string[]
  readonly #workload: string
  readonly #gone: (session: string) => Promise<void>
  readonly #sessions = new Map<string, Map<string, ModelFile>>([[OWN, new Map()]])
  #next = 1

  /** `gone` resolves when luod does not have a session any more. */
  constructor(workload: string, kinds: readonly string[], random: Random, gone: (session: string) => Promise<void>) {
    this.#gone = gone
    this.#workload = workload
    this.#kinds = kinds
    this.#random = random
  }

  /** What has no file at all is not kept for a restart: there is always one. */
  async begin(version: Version): Promise<void> {
    await this.#make(version, OWN)
  }

  /** Nor are sessions without files. */
  restarted(): void {
    for (const [name, files] of this.#sessions) if (files.size === 0) this.#sessions.delete(name)
  }

  async change(version: Version): Promise<void> {
    for (let count = this.#random.between(0, MAX_CHANGES); count > 0; count--) await this.#changeOne(version)
  }

  async #changeOne(version: Version): Promise<void> {
    const random = this.#random
    const name = random.pick([...this.#sessions.keys()])
    const files = this.#sessions.get(name) ?? new Map<string, ModelFile>()
    const what = random.weighted([
      [files.size < MAX_FILES ? 5 : 0, 'make'],
      [files.size > 0 ? 4 : 0, 'set'],
      [files.size > (name === OWN ? 1 : 0) ? 3 : 0, 'drop'],
      [this.#sessions.size < MAX_SESSIONS ? 1 : 0, 'session'],
      [name === OWN ? 0 : 1, 'close'],
    ] as const)
    if (what === 'session') {
      const made = `${this.#workload}-${this.#next++}`
      await version.ask(`session ${made}`)
      this.#sessions.set(made, new Map())
    } else if (what === 'close') {
      await version.ask(`close ${name}`)
      await this.#gone(name)
      this.#sessions.delete(name)
    } else if (what === 'make') await this.#make(version, name)
    else await this.#changeFile(version, name, files, what)
  }

  async #make(version: Version, session: string): Promise<void> {
    const kind = this.#random.pick(this.#kinds)
    const token = String(this.#next++)
    const value = await version.ask(`make ${session} ${token} ${kind} ${this.#random.between(1, MAX_VALUE)}`)
    this.#sessions.get(session)?.set(token, { kind, value })
  }

  async #changeFile(version: Version, name: string, files: Map<string, ModelFile>, what: 'set' | 'drop') {
    const token = this.#random.pick([...files.keys()])
    const file = files.get(token)
    if (!file) return
    if (what === 'drop') {
      await version.ask(`drop ${name} ${token}`)
      files.delete(token)
      return
    }
    const value = await version.ask(`set ${name} ${token} ${file.kind} ${this.#random.between(1, MAX_VALUE)}`)
    if (value !== CANNOT_SET) file.value = value
  }

  /** What `version` finds otherwise than it has to be, a line each. */
  async differences(version: Version): Promise<string[]> {
    const found = await version.report()
    const lines: string[] = []
    const compare = (what: string, wanted: string | undefined, is: string | undefined) => {
      if (wanted !== is) lines.push(`${what} is ${is ?? 'not there'}, and has to be ${wanted ?? 'not there'}`)
    }
    for (const name of new Set([...this.#sessions.keys(), ...found.keys()])) {
      const wanted = this.#sessions.get(name)
      const files = found.get(name)
      compare(`session ${name}`, wanted && 'there', files && 'there')
      for (const token of new Set([...(wanted?.keys() ?? []), ...(files?.keys() ?? [])])) {
        const file = wanted?.get(token)
        compare(`${name} ${token}`, file && `${file.kind} ${file.value}`, files?.get(token))
      }
    }
    return lines
  }
}
