/** Sessions of the clients in C and Python: passed on from one to the other, and handed over by an update. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, expect, test } from 'vitest'
import { startInTest } from '../../src/testing/index.js'
import { eventually, Stage } from '../daemon/stage.js'
import { CLIENTS, compile, HERE } from './build.js'

const PYTHON = join(CLIENTS, 'python')

const children: ChildProcess[] = []
afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

function start(program: string, ...args: string[]) {
  const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  children.push(child)
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return { child, says: async () => (await lines.next()).value as string | undefined }
}

test('a session that C made and passed on to Python lives on when C is killed', async () => {
  await using stage = await Stage.start()
  const names = async () => (await stage.call('Sessions', {})).sessions.map(({ name, files }) => `${name} ${files}`)
  const program = compile(join(HERE, 'pass.c'), stage.directory, 'pass')
  const listener = join(stage.directory, 'pass.sock')
  const python = start('python3', join(HERE, 'pass.py'), stage.socket, listener)
  expect(await python.says()).toBe('listening')
  const c = start(program, stage.socket, 'shared', listener)
  expect(await c.says()).toBe('1, memfd, until update: 1')
  expect(await python.says()).toBe('adopted')

  c.child.kill('SIGKILL')
  await once(c.child, 'exit')
  python.child.stdin?.write('\n')
  expect(await python.says()).toBe("[(7, 'memfd', 'greeting/1', 'update')] made in C")
  expect(await names()).toEqual(['shared 1'])

  python.child.stdin?.end()
  expect(await once(python.child, 'exit')).toEqual([0, null])
  await eventually(names, (left) => left.length === 0, 'it lives on')
})

const VERSION = `
import os, select, sys
sys.path.insert(0, ${JSON.stringify(PYTHON)})
import liveupdate
from liveupdate import Item

COUNT = 300  # More than one message holds.

def memory(content):
    fd = os.memfd_create('memory')
    os.write(fd, content.encode())
    return fd

workload = liveupdate.join()
if workload.origin == liveupdate.NEW:
    for first in range(1, COUNT + 1, 100):
        workload.session.preserve([Item(token, memory(str(token)), 'text/1') for token in range(first, first + 100)])
    extra = liveupdate.create_session(workload.connection, 'extra', workload=workload)
    extra.preserve([Item(2**64 - 1, memory('of the other'))])
    extra.preserve([(5, memory('not any more'))])
    extra.unpreserve([5])
else:
    with workload.claim() as files:
        assert [(file.token, file.format) for file in files] == [(token, 'text/1') for token in range(1, COUNT + 1)]
        for token in range(1, COUNT + 1):
            fd = files.take(token)
            assert (fd is None) == (token > liveupdate.MAX_FDS), token
            if fd is None:
                fd = workload.session.retrieve(token)
            assert os.pread(fd, 10, 0).decode() == str(token)
            os.close(fd)
        assert files.sessions == ['extra'], files.sessions
    extra = liveupdate.adopt_session(workload.connection, 'extra', workload)
    assert [file.token for file in extra.files()] == [2**64 - 1]
    fd = extra.retrieve(2**64 - 1)
    assert os.pread(fd, 100, 0) == b'of the other'
    try:
        extra.retrieve(5)
        raise AssertionError('token 5 is there')
    except liveupdate.LuoError as error:
        assert error.code == 'ENOENT'
workload.commit()
while True:
    select.select([workload], [], [])
    event = workload.dispatch()
    if event.kind == liveupdate.PREPARE:
        workload.ready()
    elif event.kind == liveupdate.RELEASE:
        workload.released()
        break
`

test('an update in Python hands over more files than a message holds, and another session', async () => {
  const command = ['python3', '-B', '-c', VERSION]
  await using running = await startInTest({ from: command })
  for (let update = 0; update < 2; update++) {
    const result = await running.update(command)
    expect({ outcome: result.outcome, output: running.output() }).toMatchObject({ outcome: 'committed' })
  }
})
