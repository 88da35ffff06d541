import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['src/**/*.test.ts', 'test/**/*.test.ts'],
    // Each file in a process of its own: they count descriptors and start daemons.
    pool: 'forks',
    testTimeout: 30_000,
    hookTimeout: 30_000,
  },
})
