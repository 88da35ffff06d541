/**
 * The two ways over which every property is proven. In both, whoever had the files closes all of them once they are
 * preserved, so that only what luod holds keeps them; and luod has let go of everything when the proof looks.
 */
import type { LuoState } from '../../src/abi/luo.js'
import { HandlerRegistry } from '../../src/core/handler.js'
import { Orchestrator } from '../../src/core/orchestrator.js'
import { type FileAbout, type HeldFile, heldFiles } from '../../src/handlers/held-file.js'
import { referenceHandlers, registerReferenceHandlers } from '../../src/handlers/reference.js'
import { FileSlots, type SlottedFile } from '../../src/handlers/slots.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { fileInfo } from '../../src/sys/file-info.js'

/** Preserves `files`, which are closed then, does `meanwhile`, and answers what came back, in the same order. */
export type Cross = <const T extends readonly Fd[]>(
  files: T,
  meanwhile?: () => void,
) => { -readonly [K in keyof T]: Fd }

export type TestOrchestrator = Orchestrator<HeldFile, FileAbout>

export function orchestratorOf(registry: HandlerRegistry<HeldFile>): TestOrchestrator {
  return new Orchestrator({
    registry,
    files: heldFiles,
    onDefect: (error, action) => {
      throw new Error(`defect: ${action}: ${String(error)}`)
    },
  })
}

/** The caller keeps `fd`. */
export function fileToPreserve(token: string, fd: Fd) {
  const file = { fd: fd.dup(), info: fileInfo(fd) }
  return { token, file, about: { kind: file.info.kind, format: undefined, bytes: file.info.size } }
}

function preserveAll(orchestrator: TestOrchestrator, files: readonly Fd[]) {
  const session = orchestrator.createSession('0', 'web')
  orchestrator.preserve(
    session,
    files.map((fd, index) => fileToPreserve(String(index), fd)),
  )
  closeAll(files)
  return session
}

function update(files: readonly Fd[], meanwhile = () => {}): Fd[] {
  const orchestrator = orchestratorOf(referenceHandlers())
  const session = preserveAll(orchestrator, files)
  orchestrator.freeze([session])
  meanwhile()
  const back = orchestrator.reference(
    session,
    files.map((_, index) => String(index)),
  )
  orchestrator.commit([session])
  orchestrator.end({ handedOver: false })
  return back.map(({ file }) => file.fd)
}

function emulatedKexec(files: readonly Fd[], meanwhile = () => {}): Fd[] {
  const generation = (received: SlottedFile[]) => {
    const slots = new FileSlots(received)
    const registry = new HandlerRegistry<HeldFile>()
    registerReferenceHandlers(registry, slots)
    return { slots, orchestrator: orchestratorOf(registry) }
  }
  const before = generation([])
  preserveAll(before.orchestrator, files)
  before.orchestrator.freezeAll()
  const state: LuoState = before.orchestrator.serialize()
  const received = before.slots.take()
  before.orchestrator.end({ handedOver: true })
  meanwhile()
  const { orchestrator } = generation(received)
  orchestrator.receive(state)
  const session = orchestrator.retrieveSession('', 'web')
  const back = files.map((_, index) => orchestrator.retrieve(session, String(index)).fd)
  orchestrator.finish(session)
  orchestrator.release(session)
  return back
}

export const CROSSINGS: [string, Cross][] = [
  ['an update', update as Cross],
  ['an emulated kexec', emulatedKexec as Cross],
]
