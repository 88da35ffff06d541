/**
 * `liveupdate/testing`: real updates in a test (`updateInTest`, `startInTest`), and an in-memory stand-in for what
 * `join` answers (`fakeLive`), for tests that need no processes.
 */
export { type FakeLive, type FakeLiveOptions, type FakeMemory, fakeLive } from './fake-live.js'
export type { FakeFileOptions, FakeSession, FakeSessionOptions, FakeToken } from './fake-session.js'
export {
  type Fault,
  type FaultPoint,
  type RunningTest,
  type StartOptions,
  startInTest,
  type UpdateTest,
  type UpdateTestOptions,
  type UpdateTestResult,
  updateInTest,
} from './update-in-test.js'
