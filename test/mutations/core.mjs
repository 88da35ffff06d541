/**
 * Small bugs, as somebody could make them in `src/core`: the text that is there, exactly once, what would be there
 * instead, and what that breaks. `npm run mutations` plants one at a time, and the tests of core must notice each.
 */
const FILE_SET = 'src/core/file-set.ts'
const FLB = 'src/core/flb.ts'
const HELD_FILES = 'src/core/held-files.ts'
const IDENTITY = 'src/core/identity.ts'
const ORCHESTRATOR = 'src/core/orchestrator.ts'
const SESSION_TABLE = 'src/core/session-table.ts'
const TRANSITION = 'src/core/transition.ts'

export const MUTATIONS = [
  {
    breaks: 'files are unpreserved in the order in which they were preserved',
    file: FILE_SET,
    find: 'for (const file of [...session.files.values()].reverse()) this.unpreserve(session, file)',
    replace: 'for (const file of [...session.files.values()]) this.unpreserve(session, file)',
  },
  {
    breaks: 'preserving several files is undone in the order in which it was done',
    file: ORCHESTRATOR,
    find: 'for (const preserved of done.reverse()) this.#fileSets.undo(outgoing, preserved)',
    replace: 'for (const preserved of done) this.#fileSets.undo(outgoing, preserved)',
  },
  {
    breaks: 'files that could not be preserved are closed, and the caller closes them again',
    file: ORCHESTRATOR,
    find: 'this.#fileSets.undo(outgoing, preserved)',
    replace: 'this.#fileSets.unpreserve(outgoing, preserved)',
  },
  {
    breaks: 'two tokens that are the same as doubles are taken for one',
    file: FILE_SET,
    find: 'if (session.files.has(checkToken(token)))',
    replace: 'if ([...session.files.keys()].some((other) => Number(other) === Number(checkToken(token))))',
  },
  {
    breaks: 'FLBs are not given back when a file cannot be preserved',
    file: FILE_SET,
    find: 'this.#giveBack(flbs.slice(0, taken))',
    replace: '',
  },
  {
    breaks: 'FLBs are given back in the order in which they were taken',
    file: FILE_SET,
    find: 'for (const flb of [...flbs].reverse()) {',
    replace: 'for (const flb of flbs) {',
  },
  {
    breaks: 'a file that could not be preserved counts as preserved',
    file: FILE_SET,
    find: `this.#quietly(\`forget token \${token}\`, () => this.#held.remove(holder))
      throw`,
    replace: 'throw',
  },
  {
    breaks: 'a freeze that fails leaves the first file frozen',
    file: FILE_SET,
    find: 'for (const preserved of frozen.reverse()) this.#unfreezeOne(preserved)',
    replace: 'for (const preserved of frozen.slice(1).reverse()) this.#unfreezeOne(preserved)',
  },
  {
    breaks: 'what freeze makes of data is not recorded',
    file: FILE_SET,
    find: 'kept.data = handler.freeze(kept, file) ?? kept.data',
    replace: 'handler.freeze(kept, file)',
  },
  {
    breaks: 'a file whose retrieve failed is retrieved again',
    file: FILE_SET,
    find: 'incoming.retrieved ??= this.#build(session, incoming)',
    replace: `if (!incoming.retrieved || 'error' in incoming.retrieved) incoming.retrieved = this.#build(session, incoming)`,
  },
  {
    breaks: 'files are finished before all have been asked whether they may be',
    file: FILE_SET,
    find: 'handler.canFinish?.(finishing(incoming)) ?? true)) continue',
    replace: `handler.canFinish?.(finishing(incoming)) ?? true)) {
        this.#finishOne(incoming)
        session.files.delete(token)
        continue
      }`,
  },
  {
    breaks: 'a finished file can never be preserved again',
    file: FILE_SET,
    find: '() => this.#held.remove(retrieved.holder)',
    replace: '() => {}',
  },
  {
    breaks: 'a finished file stays open',
    file: FILE_SET,
    find: '() => this.#access.close(retrieved.file)',
    replace: '() => {}',
  },
  {
    breaks: 'an operation that fails keeps the others from being done',
    file: FILE_SET,
    find: 'this.#onDefect(error, action)',
    replace: `this.#onDefect(error, action)
      throw error`,
  },
  {
    breaks: 'an FLB whose retrieve failed is retrieved again',
    file: FLB,
    find: "if ('error' in known.retrieved) throw known.retrieved.error",
    replace: `if ('error' in known.retrieved) {
      const { error } = known.retrieved
      known.retrieved = undefined
      throw error
    }`,
  },
  {
    breaks: 'an FLB that nobody retrieved is finished without its object',
    file: FLB,
    find: `object = this.#retrieve(flb as Flb, known)
    } catch {`,
    replace: `object = known.retrieved && 'object' in known.retrieved ? known.retrieved.object : undefined
    } catch {`,
  },
  {
    breaks: 'a user of an incoming FLB is not counted',
    file: FLB,
    find: `known.count += 1n
    return object as O`,
    replace: 'return object as O',
  },
  {
    breaks: 'a file with several holders is free when the first lets go',
    file: HELD_FILES,
    find: 'if (first) this.#openFiles.add(first.file, holders)',
    replace: '',
  },
  {
    breaks: 'what comes after a deleted file is forgotten',
    file: IDENTITY,
    find: 'left.right = join(left.right, right)',
    replace: 'left.right = right',
  },
  {
    breaks: 'the name of a released session stays taken',
    file: SESSION_TABLE,
    find: 'sessions.delete(keyOf(session.scope, session.name))',
    replace: '',
  },
  {
    breaks: 'outgoing sessions compete with incoming ones for names',
    file: SESSION_TABLE,
    find: 'if (this.#outgoing.has(key)) throw',
    replace: 'if (this.#outgoing.has(key) || this.#incoming.has(key)) throw',
  },
  {
    breaks: 'a session whose finish was refused disappears with its files when it is released',
    file: ORCHESTRATOR,
    find: `} catch {
        return
      }`,
    replace: '} catch {}',
  },
  {
    breaks: 'a frozen session is released without being unfrozen',
    file: ORCHESTRATOR,
    find: `if (session.custody === 'frozen') this.#fileSets.unfreeze(session)
      this.#fileSets.unpreserveAll(session)`,
    replace: 'this.#fileSets.unpreserveAll(session)',
  },
  {
    breaks: 'a session that was released takes files',
    file: SESSION_TABLE,
    find: 'if (this.has(session)) return',
    replace: 'return',
  },
  {
    breaks: 'a transition begins in the middle of an update',
    file: ORCHESTRATOR,
    find: "if (custody === 'frozen') throw",
    replace: "if (custody !== 'held' && custody === 'held') throw",
  },
  {
    breaks: 'the live update number does not count',
    file: ORCHESTRATOR,
    find: 'this.#liveupdateNumber + 1n',
    replace: 'this.#liveupdateNumber',
  },
  {
    breaks: 'files without a handler are left out when they are received',
    file: TRANSITION,
    find: 'if (!handler) {',
    replace: `if (!handler) continue
      if (!handler) {`,
  },
]
