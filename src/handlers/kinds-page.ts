/** docs/kinds.md, made from the table of kinds by `npm run generate`. A test compares. */
import { HUGETLB_POOL } from './hugetlb-pool.js'
import { type Crossing, KEPT_KINDS, type KeptKind, REFUSED_KINDS } from './kinds.js'

const HEAD = `# Kinds of files

Made from \`src/handlers/kinds.ts\` by \`npm run generate\`; \`luoctl kinds\` prints the same. Every property below is proven by
a test, over an update and over an emulated kexec (\`test/kinds\`).

luod keeps a file **by reference**: it holds another descriptor of the same open file. Whoever gives a file away may close
all of theirs; the kernel keeps the file and all of its state for as long as luod holds it. What comes back is the same
open file, close-on-exec. The kind is what the kernel says of the file, never its name.

Preserving the same thing twice, in whatever session, is \`EBUSY\`. The same thing is the same inode where that is one
object however often it was opened, and the same open file for the other kinds.

What is not of the file but of the process is not kept: close-on-exec, locks of fcntl(F_SETLK), mappings, asynchronous
notification (F_SETOWN) and epoll registrations.
`

const HUGE_PAGES = `
## Huge pages

Whoever touches a hole of a file of huge pages is killed by SIGBUS when there is no page for it. So when such a file is
preserved, and again when it is frozen, luod reserves pages of the kernel's pool for all of its holes. They are the
file's from then on, and leave the pool when the file ends.

Where the pool has too few, a luod that runs as root adds what is missing, up to a quarter of the machine's memory in
all; an unprivileged one cannot. If pages cannot be had, preserving fails with \`ENOMEM\` and says how many are missing:
add them to \`nr_hugepages\`, write to the holes first, or make the file shorter. A pool that is large enough is never
changed.

What was added is one number for all files (the FLB \`${HUGETLB_POOL}\`). It stays added over updates and over an emulated
kexec, and is given back when the last of the files is let go of. A luod that is killed gives nothing back: write the
number that was there before to \`/sys/kernel/mm/hugepages/hugepages-*kB/nr_hugepages\`. Pages in use stay until they are
not.
`

const HOW = { kernel: 'by the kernel', value: 'by value', nothing: 'refused' } as const

const BY_VALUE = `
## Over a kexec, by value

What the kernel does not take over a kexec luod writes down, and makes again under the next kernel. The proofs of these
properties describe a file, close it and make it again under the same kernel. What cannot be made again is refused when
it is preserved, with \`ENOENT\` and the reason.

A **file or directory** is looked up by its path, through no link of any kind, and looked at before it is opened. It is
opened when it is the same one: the same inode, birth time and file handle (which has the inode's generation) on the same
file system, and for a file the same size, times in ns, and hash of its first and its last page. A reboot may number
devices in another order, and always does so for btrfs, overlay, NFS and 9p; then the file system is the same when its
kind is and its own identifier, or the file handle. Where neither is known, and on an overlay that numbers its inodes
anew, the answer is \`LUO_CHANGED\`: never another file. Nothing is created or cut. Refused are files without a name, of
tmpfs and other file systems that end with the kernel, of FUSE, and those with a lock that is not of flock(2).

A **socket** is of luod's network namespace, or refused. So is one with what cannot be read off it: a filter, TCP_ULP,
UDP_ENCAP, a multicast group for some senders only. What the kernel does not tell at all is lost: keys of TCP-MD5, programs of
SO_ATTACH_REUSEPORT_CBPF, IP_MULTICAST_IF by number. Connections that wait in a listener's queue end, as all connections do;
datagrams that were not read are lost. An address that is taken by then is \`EADDRINUSE\`, one that is not there yet
\`EADDRNOTAVAIL\`.

A **Unix socket** is made where it was. A file that is there already is replaced if it is a socket and nobody has it. To
whoever connects (SO_PEERCRED), the listener is of luod until the service calls listen(2) once more, as Node.js does.
`

export function kindsPage(): string {
  const kept: [string, KeptKind][] = Object.entries(KEPT_KINDS)
  const rows = kept.map(([kind, { what, compatible, identity }]) => [kind, what, `\`${compatible}\``, identity])
  const parts = [
    HEAD,
    '## Kept\n',
    ...table(['kind', 'what it is', 'compatible', 'the same is the same'], rows),
    '\n## What crosses\n',
    ...table(
      ['kind', 'an update', 'an emulated kexec', 'a kexec'],
      groupByCrossing(kept).map(([kinds, crosses]) => [
        kinds,
        crosses.update,
        crosses.emulatedKexec,
        `${HOW[crosses.kexec.by]}: ${crosses.kexec.what}`,
      ]),
    ),
    '\n## Properties\n',
    ...table(
      ['kind', 'property', 'what is found again'],
      kept.flatMap(([kind, { properties }]) => Object.entries(properties).map(([id, text]) => [kind, id, text])),
    ),
    BY_VALUE,
    ...table(
      ['kind', 'property', 'what is found again'],
      kept.flatMap(([kind, { byValue = {} }]) => Object.entries(byValue).map(([id, text]) => [kind, id, text])),
    ),
    HUGE_PAGES,
    '## Refused\n',
    'With `ENOENT`, and with the reason in the message.\n',
    ...table(
      ['kind', 'what it is', 'reason'],
      Object.entries(REFUSED_KINDS).map(([kind, { what, reason }]) => [kind, what, reason]),
    ),
    '\nA [plug-in](plugins.md) can keep kinds that are refused here, and keep others in another way.',
  ]
  return `${parts.join('\n')}\n`
}

/** Kinds of which the same crosses, in one row. */
function groupByCrossing(kinds: readonly [string, KeptKind][]): [string, Crossing][] {
  const groups = new Map<string, { kinds: string[]; crosses: Crossing }>()
  for (const [kind, { crosses }] of kinds) {
    const key = JSON.stringify(crosses)
    const group = groups.get(key) ?? { kinds: [], crosses }
    group.kinds.push(kind)
    groups.set(key, group)
  }
  return [...groups.values()].map((group) => [group.kinds.join(', '), group.crosses])
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string[] {
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`)
}
