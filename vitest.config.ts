import { defineConfig } from 'vitest/config'

/** Logic alone: no descriptor is counted, no process started. */
const LOGIC = ['src/{abi,core,protocol}/**/*.test.ts']
/** They share what the machine has once (huge pages, its table of processes), or compare two times. */
const ALONE = ['test/{emulate,kinds,soak}/**/*.test.ts', 'test/faults/faults.test.ts', 'test/daemon/abuse.test.ts']
const VM = ['test/vm/**/*.test.ts']
/** Vitest itself would take one on two processors. */
const WORKERS = 2

const limits = { testTimeout: 30_000, hookTimeout: 30_000 }

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...limits,
          name: 'logic',
          include: LOGIC,
          pool: 'threads',
          isolate: false,
          maxWorkers: WORKERS,
          sequence: { groupOrder: 0 },
        },
      },
      {
        // Each file in a process of its own: they count descriptors and start daemons.
        test: {
          ...limits,
          name: 'processes',
          include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
          exclude: [...LOGIC, ...ALONE, ...VM],
          pool: 'forks',
          maxWorkers: WORKERS,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          ...limits,
          name: 'alone',
          include: ALONE,
          pool: 'forks',
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
      {
        // A virtual machine has two processors: two at a time take as long. Run by `npm run test:vm` only.
        test: { ...limits, name: 'vm', include: VM, pool: 'forks', maxWorkers: 1, sequence: { groupOrder: 3 } },
      },
    ],
  },
})
