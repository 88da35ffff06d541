"""Takes a session over that pass.c passes on, and says what is in it when it is asked to, by a line.

    pass.py LUOD_SOCKET LISTENER_SOCKET
"""

import array
import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '../../clients/python'))
sys.dont_write_bytecode = True

import liveupdate

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print('listening', flush=True)
passer, _ = listener.accept()
_, [(_, _, data)], _, _ = passer.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
(fd,) = array.array('i', data)

with liveupdate.Connection(sys.argv[1]) as connection:
    with liveupdate.adopt_session_fd(connection, fd) as session:
        print('adopted', flush=True)
        for line in sys.stdin:
            memory = session.retrieve(7)
            content = os.pread(memory, 100, 0).decode()
            os.close(memory)
            print([tuple(file) for file in session.files()], content, flush=True)
