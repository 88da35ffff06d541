/** luod refuses its own sockets, from whoever they come: kept by itself, they would never end. */
import { expect, test } from 'vitest'
import { isLuoError } from '../../src/errors.js'
import { REFUSED_KINDS } from '../../src/handlers/kinds.js'
import { closeAll, type Fd } from '../../src/sys/fd.js'
import { connectUnix, socketPair } from '../../src/sys/unix.js'
import { Stage } from '../daemon/stage.js'

test("luod's own sockets are refused: the session's descriptor, and connections to luod", async () => {
  await using stage = await Stage.start()
  const client = await stage.client()
  const join = { id: 'join', workload: 'web', accepts: ['*'], fds: 0 }
  const { parameters, fds: sessions } = await client.call('Join', join)
  const connection = connectUnix(stage.socket)
  const [mine, peer] = socketPair()
  const preserve = async (token: string, file: Fd) => {
    try {
      const files = [{ token, fd: 0 }]
      await client.call('Preserve', { id: token, session: parameters.session, files, fds: 1 }, [file])
      return undefined
    } catch (error) {
      return isLuoError(error) ? `${error.code} ${error.message}` : error
    }
  }
  const refused = expect.stringMatching(new RegExp(`^ENOENT .*${REFUSED_KINDS.luod.reason}`))
  expect(await preserve('1', sessions[0] as Fd)).toEqual(refused)
  expect(await preserve('2', connection)).toEqual(refused)
  expect(await preserve('3', mine)).toBeUndefined()
  closeAll([...sessions, connection, mine, peer])
})
