/** docs/benchmarks.md and its plots, from the result of a run. What a run does not have is left out. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { barPlot } from './plot.mjs'

const DOCS = fileURLToPath(new URL('../docs', import.meta.url))
const PEER_NAMES = { liveupdate: 'liveupdate', restart: 'restart', cluster: 'Node cluster', pm2: 'pm2 reload' }

const count = (value) => Math.round(value).toLocaleString('en-US')

function spread({ median, min, max, n }, unit = '') {
  return `${median}${unit} (${min} to ${max}, n = ${n})`
}

function distribution({ p50, p99, n }) {
  return `${p50} µs, p99 ${p99} µs (n = ${n})`
}

function table(head, rows) {
  const line = (cells) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}

function ratios(run) {
  const wanted = [
    ['blackout_memory_ratio', 'blackout, memory', 1.2],
    ['blackout_startup_ratio', 'blackout, time to load', 1.2],
    ['files_scaling_ratio', 'call, files in luod', 1.5],
    ['sessions_scaling_ratio', 'call, sessions in luod', 1.5],
    ['files_scaling_ratio_core', 'call, files in the core', 1.5],
    ['sessions_scaling_ratio_core', 'call, sessions in the core', 1.5],
  ]
  return wanted.flatMap(([key, label, limit]) => (run[key]?.ratio ? [{ label, limit, ...run[key] }] : []))
}

function peersOf(run) {
  const entries = Object.entries(run.peers ?? {}).filter(([name]) => name in PEER_NAMES)
  return entries.map(([name, peer]) => ({ name: PEER_NAMES[name], ours: name === 'liveupdate', ...peer }))
}

function peerSection(run, plots) {
  const peers = peersOf(run)
  if (peers.length === 0) return []
  const there = peers.filter(({ skipped }) => skipped === undefined)
  const bar = (value, text) => (peer) => ({ label: peer.name, value: value(peer), text: text(peer), ours: peer.ours })
  plots.gap = barPlot({
    title: 'Longest that one client waited for an answer, in an update',
    bars: there.map(
      bar(
        (peer) => peer.longest_gap_ms,
        (peer) => `${peer.longest_gap_ms} ms`,
      ),
    ),
    log: true,
  })
  plots.failed = barPlot({
    title: `Failed requests, and connections closed by the service, in ${there[0].updates} updates`,
    bars: there.map(
      bar(
        ({ failed, closed_by_peer: closed }) => failed + closed,
        ({ failed, closed_by_peer: closed }) => `${count(failed)} failed, ${count(closed)} closed`,
      ),
    ),
  })
  const { connections, rate } = run.peers.load
  const rows = peers.map(({ name, skipped, ...peer }) =>
    skipped === undefined
      ? [
          name,
          count(peer.sent),
          count(peer.failed),
          `${peer.closed_by_peer}`,
          spread(peer.gap_ms, ' ms'),
          spread(peer.silence_ms, ' ms'),
        ]
      : [name, `skipped: ${skipped}`, '', '', '', ''],
  )
  return [
    '## Beside other ways to replace a service',
    '',
    `The same service and the same load for each: ${connections} keep-alive connections, ${count(rate)} requests a second over`,
    'all of them whatever the answers (an open loop), one process for the load. A request has failed when it got no whole',
    'answer, or no connection. cluster and pm2 have two workers each and replace one after the other; restart waits for',
    'the end of the old process before it starts the new one. All of them end as their documentation recommends. The gap',
    'is the longest that one client waited, from when its request was due to its answer, or, when that failed, to the next',
    'answer that it got. The silence is the longest time in which nobody got an answer: with two workers one answers while',
    'the other is replaced, so there it may be shorter than with one process that hands over. A request that hangs is',
    'given up after 10 s.',
    '',
    table(['', 'requests', 'failed', 'connections closed', 'gap of an update', 'silence'], rows),
    '',
    '![gap](benchmarks/gap.svg)',
    '',
    '![failed](benchmarks/failed.svg)',
    '',
  ]
}

function ratioSection(run, plots) {
  const found = ratios(run)
  if (found.length === 0) return []
  plots.ratios = barPlot({
    title: 'What does not matter: large over small (1 is: no difference)',
    bars: found.map(({ label, ratio, min, max, limit }) => ({
      label,
      value: ratio,
      text: `${ratio} (below ${limit})`,
      ...(max < 4 ? { min, max } : {}),
    })),
    line: { value: 1, label: '1' },
  })
  const rows = found.map(({ label, of, ratio, min, max, n }) => [
    label,
    of,
    `${ratio} (${min} to ${max}, n = ${n} pairs)`,
  ])
  return [
    '## What does not matter',
    '',
    'How much memory a service has, how long its new version takes to load, and how much luod holds already. Each is a',
    'quotient of medians, large over small, both measured in turn; the spread is that of the pairs.',
    '',
    table(['', 'large over small', 'quotient'], rows),
    '',
    '![ratios](benchmarks/ratios.svg)',
    '',
  ]
}

function filesSection(run, plots) {
  const rows = []
  if (run.preserve_us) {
    rows.push(['preserve one file, a call', distribution(run.preserve_us)])
    rows.push(['retrieve one file, a call', distribution(run.retrieve_us)])
    rows.push(['preserve, 253 in a message', spread(run.preserve_batch_per_s, ' files/s')])
    rows.push(['retrieve, 253 in a message', spread(run.retrieve_batch_per_s, ' files/s')])
  }
  if (run.freeze_10k_files_ms) rows.push(['freeze 10,000 files', spread(run.freeze_10k_files_ms, ' ms')])
  if (run.luod_start_ms) {
    rows.push(['luod: from its start to the first client', spread(run.luod_start_ms, ' ms')])
    if (run.luod_start_ratio) rows.push(['the same over an empty script of Node', spread(run.luod_start_ratio, '')])
    rows.push(['luod: resident memory, idle', spread(run.luod_idle_rss_mb, ' MiB')])
  }
  if (rows.length === 0) return []
  const lines = ['## Files', '', table(['', ''], rows), '']
  const { liveupdate: ours, s6_fdholder: theirs } = run.fdholder ?? {}
  if (!ours) return lines
  const bar = (label, { median, min, max }, mine) => ({
    label,
    value: median,
    min,
    max,
    text: `${count(median)} /s`,
    ours: mine,
  })
  plots.files = barPlot({
    title: 'Files a second, beside s6-fdholder-daemon',
    bars: [
      bar('luod, 253 in a message', ours.store_per_s, true),
      bar('s6: setdump, 253 a message', theirs.setdump_per_s, false),
      bar('s6: store, 32 under way', theirs.store_per_s, false),
      bar('luod, one a call', ours.store_one_per_s, true),
      bar('s6: store, one a call', theirs.store_one_per_s, false),
      bar('luod, retrieve one', ours.retrieve_one_per_s, true),
      bar('s6: retrieve one', theirs.retrieve_one_per_s, false),
    ],
  })
  return [
    ...lines,
    'The same files through luod and through s6-fdholder-daemon, each with a client that keeps its connection. s6 stores one',
    'file a message; its `setdump`, 253 a message, brings back a whole state, and is faster than luod is with as many. luod',
    'looks at each file, refuses those that cannot be kept, and writes each down before it answers.',
    '',
    '![files](benchmarks/files.svg)',
    '',
  ]
}

function blackoutSection(run) {
  const { blackout_memory_ms: memory, blackout_startup_ms: startup } = run
  if (!memory || !startup) return []
  const gap = (key, side) => spread(run[key][side], ' ms')
  const rows = [
    ['64 MiB', spread(memory.small, ' ms'), gap('blackout_memory_gap_ms', 'small')],
    [
      run.blackout_memory_ratio.of.replace(/ over.*/, ''),
      spread(memory.large, ' ms'),
      gap('blackout_memory_gap_ms', 'large'),
    ],
    ['loads at once', spread(startup.none, ' ms'), gap('blackout_startup_gap_ms', 'none')],
    [
      run.blackout_startup_ratio.of.replace(/ to load.*/, ' to load'),
      spread(startup.slow, ' ms'),
      gap('blackout_startup_gap_ms', 'slow'),
    ],
  ]
  return [
    '## The blackout',
    '',
    'From the first request held back to the commit, as `luoctl update` shows it; and the longest that one client waited',
    'for its answer (8 connections, 400 requests a second).',
    '',
    table(['service', 'blackout', 'gap seen by the clients'], rows),
    '',
  ]
}

function standbySection(run) {
  const { upgrade_pause_ms: upgrade, standby_takeover_ms: takeover, recovery_ms_15k_files: recovery } = run
  if (!upgrade) return []
  const row = (what, { luod, ...client }) => [what, spread(client, ' ms'), spread(luod, ' ms')]
  const { ratio, min, max, n } = run.standby_cost_ratio
  return [
    '## Replacing luod',
    '',
    'With 100 clients that ask all the time. A client: its longest wait for an answer. luod: for how long nobody was served,',
    'as luod says it. The aims are 100 ms for an upgrade and 50 ms for a takeover, with 10,000 files. While a takeover is under',
    'way the dead process gives its memory back, some 20 ms of one of the two cores here; it gets what the others leave. What a',
    'takeover runs is compiled when luod is built, and has run once in the process that stands by.',
    '',
    table(
      ['', 'a client', 'luod'],
      [
        row('upgrade, 10,000 files', upgrade),
        row('takeover after SIGKILL, 10,000 files', takeover),
        row('takeover after SIGKILL, 15,000 files', recovery),
      ],
    ),
    '',
    `Preserving with a standby takes ${ratio} times as long as without (${min} to ${max}, n = ${n} pairs).`,
    '',
  ]
}

function emulateSection({ emulate }) {
  if (!emulate) return []
  const { emulate_ioctl_us: ioctl, emulate_open_us: open, emulate_passthrough_ratio: passthrough } = emulate
  const pairs = ({ ratio, min, max, n }) => `${ratio} (${min} to ${max}, n = ${n} pairs)`
  return [
    '## Emulation',
    '',
    'What a program pays under `luoctl emulate`: for a call that is intercepted and answered by luod, and for everything',
    'else (the time with emulation over the time without).',
    '',
    table(
      ['', ''],
      [
        ['ioctl (get name)', distribution(ioctl)],
        ['open and close of the device', distribution(open)],
        ["Python's start", pairs(passthrough.python_start)],
        ['compiling the C client', pairs(passthrough.compile)],
        ['compiling one line of C', pairs(passthrough.compile_one_line)],
      ],
    ),
    '',
  ]
}

const KEXEC_PARTS = [
  ['reboot', 'from the reboot call to the next kernel: devices are stopped, the image is moved and unpacked'],
  ['init', "that kernel's boot, until its first process"],
  ['program', 'that init, until it starts the first program'],
  ['luodNode', 'Node.js starts, for luod'],
  ['luodBack', 'luod loads itself, and has everything back'],
  ['luodReady', 'luod listens, and says that it is ready'],
  ['service', '`luoctl run` and the service start, until the service has joined'],
  ['claim', "the claim: memory and listener are the service's"],
  ['answer', 'the first answer'],
]

function kexecSection({ kexec }) {
  if (!kexec || kexec.skipped) return []
  const { bare, luod, history } = kexec
  const cell = (parts, name) => (parts[name] ? spread(parts[name], ' ms') : '')
  const rows = KEXEC_PARTS.filter(([name]) => bare[name] || luod[name]).map(([name, what]) => [
    what,
    cell(luod, name),
    cell(bare, name),
  ])
  const { reboot, rebootByConsole, boot, bootByConsole } = history
  const ms = ({ median }) => `${count(median)} ms`
  return [
    '## A kexec',
    '',
    'From the reboot call to the first answer of the service, with 16 MiB of its memory, in a virtual machine of two processors',
    'and 1 GiB under software emulation: everything takes some times as long as on a machine. Beside it a program in C that makes',
    "the kernel's calls itself, in turns with it. Each part begins where the one before ends. Files are read anew by the next",
    'kernel, from the host: what loads few of them starts sooner. So luod is one file, with the code that V8 has made of it; it',
    'takes back all that crossed before it listens; and listeners are there before their services, so that clients wait for an',
    'answer and not for a listener.',
    '',
    table(['', 'luod', 'C alone'], [...rows, ['**all of it**', cell(luod, 'total'), cell(bare, 'total')]]),
    '',
    `\`luoctl history\` says of the same kexecs: reboot ${ms(reboot)}, boot ${ms(boot)}. By the console, with the clock of the`,
    `host, it is ${ms(rebootByConsole)} and ${ms(bootByConsole)}: the reboot's end is known to luod by a clock of whole seconds only.`,
    '',
  ]
}

export function writeReport(run) {
  const { cpu, cores, memory_gib: memory, kernel, node } = run.machine
  const plots = {}
  const page = [
    '# Benchmarks',
    '',
    `Measured with \`npm run bench\` on ${run.date.slice(0, 10)}: ${cpu}, ${cores} cores, ${memory} GiB of memory, Linux ${kernel},`,
    `Node.js ${node.slice(1)}. Numbers are medians, with least, greatest, and how many. \`bench/last-run.json\` has all of them.`,
    'This page is written by `npm run bench -- --report`.',
    '',
    ...peerSection(run, plots),
    ...ratioSection(run, plots),
    ...blackoutSection(run),
    ...filesSection(run, plots),
    ...emulateSection(run),
    ...standbySection(run),
    ...kexecSection(run),
  ]
  const folder = join(DOCS, 'benchmarks')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder)
  for (const [name, svg] of Object.entries(plots)) writeFileSync(join(folder, `${name}.svg`), svg)
  writeFileSync(join(DOCS, 'benchmarks.md'), `${page.join('\n').trimEnd()}\n`)
}
