/**
 * The two ways over which every property is proven. In both, whoever had the files closes all of them once they are
 * preserved, so that only what luod holds keeps them; and luod has let go of everything when the proof looks.
 */
import { Generation, type Handover } from '../../src/backends/generation.js'
import type { HandlerRegistry } from '../../src/core/handler.js'
import { Orchestrator } from '../../src/core/orchestrator.js'
import { type FileAbout, type HeldFile, heldFiles } from '../../src/handlers/held-file.js'
import { referenceHandlers, registerReferenceHandlers } from '../../src/handlers/reference.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { fileInfo } from '../../src/sys/file-info.js'

/** Preserves `files`, which are closed then, does `meanwhile`, and answers what came back, in the same order. */
export type Cross = <const T extends readonly Fd[]>(
  files: T,
  meanwhile?: () => void,
) => { -readonly [K in keyof T]: Fd }

export type TestOrchestrator = Orchestrator<HeldFile, FileAbout>

function onDefect(error: unknown, action: string): never {
  throw new Error(`defect: ${action}: ${String(error)}`)
}

export function orchestratorOf(registry: HandlerRegistry<HeldFile>): TestOrchestrator {
  return new Orchestrator({
    registry,
    files: heldFiles,
    onDefect,
  })
}

/** The caller keeps `fd`. */
export function fileToPreserve(token: string, fd: Fd) {
  const file = { fd: fd.dup(), info: fileInfo(fd) }
  return { token, file, about: { kind: file.info.kind, format: undefined, bytes: file.info.size } }
}

function update(files: readonly Fd[], meanwhile = () => {}): Fd[] {
  const orchestrator = orchestratorOf(referenceHandlers())
  const session = orchestrator.createSession('0', 'web')
  orchestrator.preserve(
    session,
    files.map((fd, index) => fileToPreserve(String(index), fd)),
  )
  closeAll(files)
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
  const begin = (handover?: Handover) =>
    Generation.begin({
      register: (context) => registerReferenceHandlers(context),
      onDefect,
      ...(handover ? { handover } : {}),
    })
  const before = begin()
  const outgoing = before.open().createSession('web')
  files.forEach((fd, index) => {
    outgoing.preserve(String(index), fd)
  })
  closeAll(files)
  const handover = before.kexec()
  meanwhile()
  const after = begin(handover)
  const session = after.open().retrieveSession('web')
  const back = files.map((_, index) => session.retrieve(String(index)))
  session.finish()
  session.close()
  after.close()
  return back
}

/** With the number of descriptors that are open meanwhile beside the files: the image that is handed over. */
export const CROSSINGS: [string, Cross, number][] = [
  ['an update', update as Cross, 0],
  ['an emulated kexec', emulatedKexec as Cross, 1],
]
