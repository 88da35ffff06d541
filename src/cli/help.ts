/** What `--help` says below the options: of luoctl itself, and of each command that needs more than a line. */

export const OVERVIEW = `
Examples:
  luoctl run web --restart -- node server.js    start a service that can be updated
  luoctl update web                             replace it by what its command starts now
  luoctl update web --check                     only see whether the new version would start
  luoctl update web -- node server-v2.js        replace it by another command
  luoctl update web db cache                    replace several as one: all of them or none
  luoctl list                                   what runs
  luoctl history web                            what has happened to it, and who did it
  luoctl doctor                                 whether this machine is fit, and what to do

Durations are written with a unit: 500ms, 10s, 2m.
The socket of luod is --socket, else $LUO_SOCKET, else /run/luod/liveupdate.sock for root,
else $XDG_RUNTIME_DIR/luod/liveupdate.sock, else /tmp/luod-$UID/liveupdate.sock.

Exit codes:
  0  done     1  failed     2  wrong usage     4  luod cannot be reached
  3  the update did not commit: rolled back (the old version goes on), or orphaned
  5  inspect --verify: damaged
  run: the code of the command, or 128 + the signal that ended it; 126 and 127 when it cannot be started`

export const RUN_HELP = `
Runs COMMAND in the foreground and starts its new version when an update is asked for. The same command is run
again, from the working directory as you see it: if you stand in a symbolic link ("current"), where it points then.
A private luod is started when none runs; it ends with its last workload.

Signals: SIGHUP starts an update. SIGTERM, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2 and SIGWINCH go to the service.
Under systemd (NOTIFY_SOCKET) it reports ready, reloading and stopping: use Type=notify-reload, NotifyAccess=main.

Examples:
  luoctl run web -- node server.js
  luoctl run web --restart --keep 5m -- node server.js     restarted after a crash, with its state
  luoctl run web --after db --after cache -- node server.js    it needs these: the order of an update of all

Exit codes: that of the command, or 128 + signal; 126 not executable, 127 not found, 2 wrong usage, 4 no luod`

export const UPDATE_HELP = `
The new version is started first, and must accept the state. Then the old one lets go, the new one takes over, and
both are told. Whatever goes wrong before that, the old version goes on as it was.

Several names, or --all, are updated as one. Those that need others (run --after) let go before them and commit after
them. Each has its own commit. Until the first commit all of them roll back when one fails; after it, those that need
what did not commit.

  --check            start the new version, see that it joins and accepts the state, and end it again
  --check prepare    also let the old version prepare, and then go on

Examples:
  luoctl update web --deadline 30s
  luoctl update web db
  luoctl update --all --deadline 30s
  luoctl update web --json | tail -1        {"update":…,"outcome":"committed","blackout_ms":4.1,"timeline":[…]}

Exit codes: 0 committed or checked (every one), 3 rolled back or orphaned, 4 no luod, 2 wrong usage, 1 anything else`

export const UPGRADE_HELP = `
The other luod is started first, gets a copy of everything, and verifies it. Only then does luod stop answering, for
some milliseconds, and the other one goes on, at the same socket. Services and their clients notice nothing. Whatever goes
wrong before that, luod goes on as it was.

Examples:
  luoctl upgrade                                   after its package was replaced
  luoctl upgrade --to /opt/liveupdate-1.1
  luoctl upgrade --json | tail -1                  {"old_pid":…,"new_pid":…,"old_version":…,"new_version":…,"pause_ms":…}

Exit codes: 0 the other one serves, 1 luod goes on as it was, 4 no luod, 2 wrong usage`

export const INSPECT_HELP = `
--verify reads everything and changes nothing: checksums, each record and its fields, what records name, names that are
there twice; of a running luod also whether it counts what is recorded. The descriptors that luod holds are not seen.

Examples:
  luoctl inspect --verify                          of the luod that runs
  luoctl inspect --verify /proc/PID/fd/N           of any luod, or of a copy
  luoctl inspect --verify --json                   {"format":…,"sound":true,"findings":[],"kept":{…},…}

Exit codes: 0 sound, 5 damaged, 1 it cannot be read or is of another version, 4 no luod, 2 wrong usage`

export const EMULATE_HELP = `
Opens of /dev/liveupdate, its ioctls, and kexec are answered by luod; everything else is done by the kernel. No
privileges are needed, and no kernel that has live update.

Examples:
  luoctl emulate -- ./program
  luoctl emulate --trace --fail preserve:ENOMEM@3 -- ./program
  luoctl kexec --emulated

Exit codes: that of the program, or 128 + signal; 126 not executable, 127 not found, 2 wrong usage, 4 no luod`
