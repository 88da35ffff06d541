"""The same as probe.c with the Python client."""

import os
import select
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../clients/python'))
sys.dont_write_bytecode = True

import liveupdate

LATE_S = 0.2


def count_fds():
    return len(os.listdir('/proc/self/fd'))


def call(path, timeout=None):
    with liveupdate.Connection(path, timeout, reconnect=0) as connection:
        try:
            _, fds = connection.call('List')
            for fd in fds:
                os.close(fd)
        except liveupdate.LuoError as error:
            if error.code == 'LUO_PROTOCOL':
                try:
                    connection.call('List')
                    raise AssertionError('it went on')
                except liveupdate.LuoError as again:
                    assert again.code == 'LUO_GONE'
            raise


def join(path, then):
    with liveupdate.join('probe', path, reconnect=0) as workload:
        if then == 'claim':
            workload.claim().close()
        if then == 'events':
            event = None
            while event is None:
                select.select([workload], [], [])
                event = workload.dispatch()
            raise liveupdate.LuoError(f'event {["", "prepare", "resume", "release", "lost"].index(event.kind)}', '')


for line in sys.stdin:
    path, what = line.split()
    before = count_fds()
    result = 'fine'
    try:
        if what in ('call', 'late'):
            call(path, LATE_S if what == 'late' else None)
        else:
            join(path, what)
    except liveupdate.LuoError as error:
        result = error.code
    print(f'{result}, {count_fds() - before} left', flush=True)
