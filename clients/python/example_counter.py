"""A server that counts its visitors, in memory that survives it: each connection adds one and is told the number.

SPDX-License-Identifier: Apache-2.0

    luoctl run counter -- python3 example_counter.py 8080
    luoctl update counter -- python3 example_counter.py 8080

It runs alone, too. There is one rule: the state is changed only between a commit and the next `prepare`. It reads and
writes the same state as the example in C, so that either can follow the other.
"""

import mmap
import os
import select
import socket
import struct
import sys

import liveupdate

COUNTER, LISTENER = 1, 2  # tokens
FORMAT = 'counter/1'
NUMBER = struct.Struct('@L')
BACKLOG = 1024
MFD_EXEC = 0x10  # Python does not name it.


def listen_at(port):
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(('127.0.0.1', port))
    listener.listen(BACKLOG)
    return listener


def serve(listener, counter):
    """One connection: the number is counted before it is told."""
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    with connection:
        (count,) = NUMBER.unpack_from(counter)
        NUMBER.pack_into(counter, 0, count + 1)
        try:
            connection.sendall(f'{count + 1} {os.getpid()}\n'.encode())
        except OSError:
            pass  # The visitor has left.


def make_memory():
    """Executable: a kernel gives back as read-only, after a kexec, what was made not to be."""
    try:
        return os.memfd_create('counter', os.MFD_CLOEXEC | MFD_EXEC)
    except OSError:
        return os.memfd_create('counter')  # Before Linux 6.3.


def begin(workload, port):
    """The memory and the listener, new or handed over."""
    if workload is None or workload.origin == liveupdate.NEW:
        memory = make_memory()
        os.ftruncate(memory, NUMBER.size)
        listener = listen_at(port)
        if workload is not None:
            items = [liveupdate.Item(COUNTER, memory, FORMAT), liveupdate.Item(LISTENER, listener.fileno())]
            workload.session.preserve(items)
    else:
        with workload.claim() as files:
            memory, listener = files.take(COUNTER), socket.socket(fileno=files.take(LISTENER))
    listener.setblocking(False)
    return memory, listener


def main():
    workload = liveupdate.join(accepts=[FORMAT])
    memory, listener = begin(workload, int(sys.argv[1]))
    counter = mmap.mmap(memory, NUMBER.size)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    if workload is not None:
        poll.register(workload, select.POLLIN)
        # From here on, and not before, the state is ours.
        workload.commit()
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if listener.fileno() in ready:
            serve(listener, counter)
        if workload is None or workload.fileno() not in ready:
            continue
        events = workload.fileno()
        for event in iter(workload.dispatch, None):
            if event.kind == liveupdate.PREPARE:
                # Nothing is under way between two connections: those that come now wait in the listener's queue.
                poll.unregister(listener)
                workload.ready()
            elif event.kind == liveupdate.RELEASE:
                workload.released()
                workload.close()
                return
            else:
                # Resumed, or luod is gone: this version goes on.
                poll.register(listener, select.POLLIN)
                if event.kind == liveupdate.LOST:
                    print('counter: luod is gone; there are no updates any more', file=sys.stderr)
                    poll.unregister(events)


if __name__ == '__main__':
    main()
