/** Which folder may use which. `errors.ts` may be used by all. What is not allowed here is an error. */
const ALLOWED = {
  sys: ['abi'],
  abi: [],
  core: ['abi'],
  handlers: ['core', 'sys', 'abi'],
  backends: ['handlers', 'core', 'sys', 'abi'],
  plugin: ['handlers', 'core', 'sys', 'abi'],
  protocol: ['abi'],
  wire: ['protocol', 'sys'],
  client: ['wire', 'protocol', 'sys', 'abi'],
  daemon: ['wire', 'protocol', 'backends', 'plugin', 'handlers', 'core', 'sys', 'abi'],
  cli: ['client', 'wire', 'protocol', 'sys', 'abi', 'handlers/kinds', 'emulate/reports'],
  emulate: ['wire', 'protocol', 'sys', 'abi'],
  testing: ['cli', 'client', 'wire', 'protocol', 'sys'],
  demo: [],
}

const rules = Object.entries(ALLOWED).map(([folder, others]) => ({
  name: `${folder}-uses-only-what-it-may`,
  comment: `src/${folder} may import ${['errors', folder, ...others].join(', ')}`,
  severity: 'error',
  from: { path: `^src/${folder}/`, pathNot: '\\.test\\.ts$' },
  to: { path: '^src/', pathNot: `^src/(errors\\.ts$|(${[folder, ...others].join('|')})(/|\\.ts$))` },
}))

module.exports = {
  forbidden: [
    ...rules,
    {
      name: 'no-circular',
      severity: 'error',
      from: {},
      // Types alone make no cycle at run time, but two files that need each other's types belong together.
      to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } },
    },
    {
      name: 'ffi-only-in-sys',
      comment: 'The FFI library is loaded in sys/ffi.ts, and nowhere else.',
      severity: 'error',
      from: { pathNot: '^src/sys/ffi\\.ts$' },
      to: { path: 'node_modules/koffi' },
    },
    {
      name: 'core-is-pure',
      comment: 'core does no I/O: it imports nothing of Node and no package.',
      severity: 'error',
      from: { path: '^src/core/', pathNot: '\\.test\\.ts$' },
      to: { dependencyTypes: ['core', 'npm'] },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
  },
}
