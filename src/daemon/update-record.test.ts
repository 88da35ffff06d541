import { expect, test } from 'vitest'
import type { UpdateRecord } from '../abi/record-shapes.js'
import { factsOf, newFacts, requestOf, updateChange } from './update-record.js'
import type { UpdateRequest } from './update-types.js'
import type { Workload } from './workload.js'

const BY = { uid: 1000, pid: 7 }

function recorded(request: UpdateRequest): UpdateRecord {
  const workload = { id: '3', name: 'web' } as Workload
  const update = { id: 'an-update', group: 'a-group', request, successor: undefined }
  const more = { workload, old: undefined, ticket: false, targets: [], startedMs: 1, phases: [], outcome: undefined }
  const { value } = updateChange('1', update, newFacts('starting'), more)
  return JSON.parse(JSON.stringify(value)) as UpdateRecord
}

test.each<UpdateRequest>([
  { deadlineMs: 5_000, check: 'prepare', command: ['node', 'server.js'], by: BY },
  { deadlineMs: 5_000, check: undefined, command: undefined, by: BY, purpose: 'kexec' },
])('a request comes back from the records as it was: %o', (request) => {
  expect(requestOf(recorded(request))).toEqual(request)
})

test('so does what changes in its course', () => {
  const request = { deadlineMs: 5_000, check: undefined, command: undefined, by: BY }
  expect(factsOf(recorded(request))).toEqual(newFacts('starting'))
})
