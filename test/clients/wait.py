"""The same as wait.c with the Python client."""

import os
import select
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../clients/python'))
sys.dont_write_bytecode = True

import liveupdate

path, reconnect_ms, kexec_wait_ms = sys.argv[1:]
with liveupdate.join('wait', path, reconnect=int(reconnect_ms) / 1000, kexec_wait=int(kexec_wait_ms) / 1000) as workload:
    kind = None
    while kind != liveupdate.LOST:
        select.select([workload], [], [])
        for event in iter(workload.dispatch, None):
            kind = event.kind
            print(kind + (' for kexec' if event.purpose == liveupdate.KEXEC else ''), flush=True)
            if kind == liveupdate.PREPARE:
                workload.ready([] if event.purpose == liveupdate.KEXEC else [liveupdate.Item(1, 0, until='update')])
