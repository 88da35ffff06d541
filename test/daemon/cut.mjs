// Cuts this process's connections to luod at chosen points: `cut({ call, when, all })`, or for a program that is no
// puppet, by `--import` of this file and LUO_TEST_CUT="Spawned after". before: the request does not arrive. after: it
// arrives, and its answer is lost with all that comes with it. all: the other connections are cut too.
import { Connection } from '../../dist/wire/connection.js'

/** luod answers in this time, also on a loaded machine; if not, the request was cut while it was under way. */
const ANSWERED_MS = 50
const connections = new Set()
const cuts = []
const send = Connection.prototype.send

Connection.prototype.send = function sendOrCut(message, fds) {
  connections.add(this)
  const method = String(message.method).split('.').at(-1)
  const at = cuts.findIndex((cut) => cut.call === method)
  const [found] = at < 0 ? [] : cuts.splice(at, 1)
  if (found?.when !== 'before') send.call(this, message, fds)
  if (!found) return
  const lost = found.all ? [...connections] : [this]
  // Nothing is read any more, so the answer is there when the connection ends, and in nobody's hands.
  for (const connection of lost) connection.pause()
  setTimeout(() => lost.forEach(end), found.when === 'before' ? 0 : ANSWERED_MS)
}

function end(connection) {
  connections.delete(connection)
  connection.close()
}

export function cut(where) {
  cuts.push(where)
}

/** All of them now. */
export function cutNow() {
  for (const connection of connections) end(connection)
}

const { LUO_TEST_CUT } = process.env
if (LUO_TEST_CUT) {
  // Not in what this program starts.
  delete process.env.LUO_TEST_CUT
  delete process.env.NODE_OPTIONS
  for (const part of LUO_TEST_CUT.split(',')) {
    const [call, when] = part.split(' ')
    cut({ call, when })
  }
}
