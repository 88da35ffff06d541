import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { Checker } from './checker.js'
import { HttpConnection } from './http-connection.js'
import { LoadGenerator } from './load.js'

type Fault = 'drop' | 'wrong' | undefined

/** A key-value service in plain memory whose next request can go wrong. */
class FakeService {
  readonly values = new Map<string, string>()
  fault: Fault
  readonly #server: Server

  constructor() {
    this.#server = createServer(async (request, response) => {
      let body = ''
      for await (const chunk of request) body += chunk
      const fault = this.fault
      this.fault = undefined
      if (fault === 'drop') return void request.socket.destroy()
      const key = request.url ?? ''
      if (request.method === 'PUT') {
        this.values.set(key, body)
        return void response.writeHead(fault === 'wrong' ? 500 : 204).end()
      }
      const value = fault === 'wrong' ? 'something else' : (this.values.get(key) ?? '')
      response.writeHead(200, { 'content-length': Buffer.byteLength(value) })
      // In two parts: an answer is whole only when its last byte is there.
      response.write(value.slice(0, 1))
      setImmediate(() => response.end(value.slice(1)))
    })
  }

  listen(): Promise<number> {
    return new Promise((resolve) => {
      this.#server.listen(0, '127.0.0.1', () => resolve((this.#server.address() as AddressInfo).port))
    })
  }

  close(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }
}

const services: FakeService[] = []
afterEach(() => {
  for (const service of services.splice(0)) service.close()
})

async function serve(): Promise<{ service: FakeService; port: number }> {
  const service = new FakeService()
  services.push(service)
  return { service, port: await service.listen() }
}

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

describe('load generator', () => {
  it('keeps its rate and reports nothing when nothing is lost', async () => {
    const { port } = await serve()
    const load = new LoadGenerator({ port, connections: 4, rate: 200 })
    await load.start()
    await wait(500)
    const stats = await load.stop()
    expect(stats).toMatchObject({ opened: 4, lost: 0, failed: 0, errors: [] })
    expect(stats.sent).toBeGreaterThan(70)
    expect(stats.sent).toBeLessThanOrEqual(110)
    expect(stats.answered).toBe(stats.sent)
  })

  it('reports a dropped connection and its request, and does not connect again', async () => {
    const { service, port } = await serve()
    const load = new LoadGenerator({ port, connections: 4, rate: 400 })
    await load.start()
    await wait(50)
    service.fault = 'drop'
    await wait(150)
    const stats = await load.stop()
    expect(stats).toMatchObject({ opened: 4, lost: 1, failed: 1 })
    expect(stats.answered).toBe(stats.sent - 1)
  })

  it('reports a wrong answer as failed', async () => {
    const { service, port } = await serve()
    const load = new LoadGenerator({ port, connections: 2, rate: 200 })
    await load.start()
    await wait(50)
    service.fault = 'wrong'
    await wait(100)
    expect(await load.stop()).toMatchObject({ lost: 0, failed: 1 })
  })

  it('counts the losses of an announced crash apart, and replaces the connections when told to', async () => {
    const { service, port } = await serve()
    const load = new LoadGenerator({ port, connections: 2, rate: 200 })
    await load.start()
    load.expectCrash(true)
    service.fault = 'drop'
    await wait(100)
    expect(await load.replace()).toBe(1)
    load.expectCrash(false)
    const stats = await load.stop()
    expect(stats).toMatchObject({ opened: 3, lost: 0, failed: 0, crash: { connections: 1, requests: 1 } })
  })

  it('measures a pause as a gap between two answers', async () => {
    const { port } = await serve()
    const load = new LoadGenerator({ port, connections: 2, rate: 200 })
    await load.start()
    await wait(50)
    load.markGap()
    const until = performance.now() + 120
    while (performance.now() < until);
    await wait(50)
    expect(load.gap()).toBeGreaterThanOrEqual(115)
    await load.stop()
  })
})

describe('checker', () => {
  it('finds every acknowledged write again, and misses one that is gone', async () => {
    const { service, port } = await serve()
    const checker = new Checker(port)
    checker.start()
    await wait(200)
    await checker.stop()
    expect(checker.stats()).toMatchObject({ failed: 0, lost: 0 })
    expect(checker.stats().acknowledged).toBeGreaterThan(4)
    expect(await checker.verify()).toEqual([])
    service.values.set('/kv/check-0-0', 'older')
    expect(await checker.verify()).toEqual(['check-0-0'])
  })
})

describe('http connection', () => {
  it('fails the request under way, and tells its owner once, when the peer closes', async () => {
    const { service, port } = await serve()
    const reasons: string[] = []
    const connection = await HttpConnection.open(port, (reason) => reasons.push(reason))
    service.fault = 'drop'
    await expect(connection.request('GET', '/kv/a')).rejects.toThrow()
    expect(reasons).toHaveLength(1)
    await expect(connection.request('GET', '/kv/a')).rejects.toThrow()
  })

  it('is no loss when it was closed here', async () => {
    const { port } = await serve()
    const reasons: string[] = []
    const connection = await HttpConnection.open(port, (reason) => reasons.push(reason))
    connection.close()
    await wait(20)
    expect(reasons).toEqual([])
  })
})
