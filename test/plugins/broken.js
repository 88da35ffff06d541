// A plug-in whose operations fail in the way that $BROKEN says: "operation how". It takes epolls, which luod refuses.
import { readFileSync } from 'node:fs'

const [operation, how] = (process.env.BROKEN ?? 'none error').split(' ')

const WAYS = {
  error: () => {
    throw new Error('broken')
  },
  errno: () => {
    throw Object.assign(new Error('broken'), { code: 'ENOTTY' })
  },
  node: () => readFileSync('/nonexistent/file'),
  string: () => {
    throw 'broken'
  },
  promise: async () => 1n,
  nonsense: () => Symbol('broken'),
}

const fail = (name, good) => (name === operation ? WAYS[how] : good)

export function register(registry, { slots, memory, received }) {
  const handler = {
    compatible: 'epoll-broken-v1',
    canPreserve: fail('canPreserve', ({ info }) => info.kind === 'epoll'),
    getId: fail('getId', ({ info }) => `${info.dev}:${info.ino}`),
    preserve: fail('preserve', (file) => ({ data: slots.add(file) })),
    unpreserve: fail('unpreserve', ({ data }) => slots.drop(data)),
    freeze: fail('freeze', () => undefined),
    unfreeze: fail('unfreeze', () => {}),
    retrieve: fail('retrieve', (data) => slots.retrieve(data)),
    canFinish: fail('canFinish', () => true),
    finish: fail('finish', ({ data }) => slots.finish(data)),
  }
  const flb = {
    compatible: 'flb-broken-v1',
    preserve: fail('flb.preserve', () => ({ data: memory.allocate(new Uint8Array(1)), object: {} })),
    unpreserve: fail('flb.unpreserve', ({ data }) => memory.free(data)),
    retrieve: fail('flb.retrieve', () => ({})),
    finish: fail('flb.finish', ({ data }) => received().free(data)),
  }
  registry.register(handler)
  registry.registerFlb(handler, flb)
}
