"""A client of luod for programs in Python. One file, nothing but the standard library; Linux, Python 3.8 and newer.

SPDX-License-Identifier: Apache-2.0

A workload joins, gives luod its files at tokens of its choice, and polls one descriptor for the events of an update.
Its successor claims the files and commits. See example_counter.py, and docs/update.md for the whole story.

How it fails: with LuoError, whose `code` is stable (docs/errors.md).

Descriptors are plain numbers. Those that are passed in stay the caller's, but for adopt_session_fd(). Those that come
out of call(), retrieve() and Files.take() are the caller's to close; all are close-on-exec. An object may be used by
one thread at a time.

luod may be replaced, or the connection cut, at any time: the connection is made again for up to `reconnect` seconds,
and what was under way is asked again with its id, so that nothing happens twice. Calls wait meanwhile; dispatch() does
not, and tries again when the descriptor that is polled says so. The program itself goes on. A version that has said
ready() for a kexec waits for `kexec_wait` seconds instead: luod may have ended for it, and what would be written after
that is lost.

What luod sends is checked as if it came from a stranger: whatever does not fit is LUO_PROTOCOL, closes what came with
it, and ends the connection.
"""

import array
import ctypes
import errno
import json
import os
import re
import select
import socket
import struct
import time
import uuid
from collections import namedtuple

#: Most files in one message: the kernel's SCM_MAX_FD.
MAX_FDS = 253
#: Most bytes of a message.
MAX_MESSAGE = 1024 * 1024
#: Most bytes of a socket's path.
MAX_PATH = 107

NEW, UPDATE, CRASH = 'new', 'update', 'crash'
KEXEC = 'kexec'
#: Kinds of events. prepare: stop changing the state, then ready() or refuse() before deadline_ms is over. resume: go on
#: as before, `reason` says why the update ended. release: released(), and touch nothing of the state any more. lost:
#: luod is gone for good, and there are no events any more; go on, unless released() was called.
PREPARE, RESUME, RELEASE, LOST = 'prepare', 'resume', 'release', 'lost'

_INTERFACE = 'org.liveupdate.Orchestrator.'
#: Seconds for which luod may be away. A version that an update holds still waits for half of it, then goes on.
RECONNECT = 10
#: The same of one that has let go for a kexec. A shutdown ends sooner, with the process.
KEXEC_WAIT = 600
#: A connection that lasted this long without an answer was luod's all the same: it may be away for all of that again.
_STABLE = 1
#: A full queue of whoever listens is waited for that long at least, in seconds, and looked at again after the other.
_LEAST_QUEUE, _QUEUE_RETRY = 0.1, 0.02
#: Between attempts to reach it, in seconds: quick ones first, then the last one again and again.
_DELAYS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_READ_BYTES = 65536
#: Events that a later luod may send and that mean nothing here, in one dispatch.
_MAX_UNKNOWN_EVENTS = 1000
#: Files in a session; the kernel's have 630,000 at most. A list that goes on is none.
_MAX_FILES = 1_000_000
_FD_SIZE = array.array('i').itemsize
_CREDENTIALS = struct.Struct('3i')
#: Digits of the longest integer that a message has; tokens are strings.
_MAX_DIGITS = 20
_CODE = re.compile(r'(LUO_|E)[A-Z0-9_]{1,27}')
_TOKEN = re.compile(r'0|[1-9][0-9]{0,19}')
_MAX_TOKEN = 2**64 - 1

#: format: the version of the state in it, such as "store/1". until: 'update' for what a kexec leaves behind; connections
#: that ready() hands over are so.
Item = namedtuple('Item', 'token fd format until', defaults=(None, None))
#: purpose: of a prepare. UPDATE: another version takes over. KEXEC: another kernel does; connections end, so ready() with
#: none of them, and RELEASE never comes.
Event = namedtuple('Event', 'kind deadline_ms reason purpose', defaults=('update',))


class LuoError(Exception):
    """`code` is stable; the message says what was attempted, with which value."""

    def __init__(self, code, message):
        super().__init__(f'{message} ({code})')
        self.code = code
        self.message = message


#: What ends a connection for good; anything else may pass while luod is looked for.
_FINAL = ('LUO_PROTOCOL', 'LUO_DEADLINE')


def _broken(why):
    return LuoError('LUO_PROTOCOL', f'read what luod sent: {why}')


def _gone():
    return LuoError('LUO_GONE', 'the connection to luod has ended')


def _from_os(error, action):
    code = errno.errorcode.get(error.errno, f'E{error.errno}')
    return LuoError(code, f'{action}: {error.strerror}')


def _close_all(fds):
    while fds:
        os.close(fds.pop())


def new_id():
    """For a request that changes something."""
    return uuid.uuid4().hex


def socket_path(option=None):
    """`option`, else $LUO_SOCKET, else the place that fits the user."""
    path = option or os.environ.get('LUO_SOCKET')
    runtime = os.environ.get('XDG_RUNTIME_DIR')
    if not path:
        if os.getuid() == 0:
            path = '/run/luod/liveupdate.sock'
        else:
            path = f'{runtime}/luod/liveupdate.sock' if runtime else f'/tmp/luod-{os.getuid()}/liveupdate.sock'
    if len(os.fsencode(path)) > MAX_PATH:
        raise LuoError('ENAMETOOLONG', f'the path of luod\'s socket has more than {MAX_PATH} bytes: {path}')
    return path


# --- requests ---------------------------------------------------------------------------------------------------------


class Connection:
    """Requests, answered one after the other. When luod refuses one, the connection stays good. When an answer breaks
    the protocol or is late it does not, and every further call fails with LUO_GONE."""

    def __init__(self, path=None, timeout=None, reconnect=RECONNECT):
        """`timeout`: seconds for each answer; None: as long as it takes. `reconnect`: seconds for which luod may be away;
        0: not at all. LUO_NO_DAEMON when nobody listens at `path`, or takes no connection for `reconnect` and its queue is
        full; EPERM when it is neither root nor this user."""
        self._path = socket_path(path)
        self._timeout = timeout
        self.reconnect = reconnect
        self._usable = True
        self._received = bytearray()
        self._searched = 0
        self._fds = []
        self._connect_first(max(_LEAST_QUEUE, reconnect))

    def _connect_first(self, patience):
        end = time.monotonic() + patience
        while True:
            try:
                return self._connect()
            except LuoError as error:
                if error.code != 'EAGAIN':
                    raise
                if time.monotonic() >= end:
                    why = f'takes no connection for {patience:g} s, and its queue is full: it is stopped or hangs'
                    raise LuoError('LUO_NO_DAEMON', f'connect to {self._path}: whoever listens there {why}') from error
            time.sleep(_QUEUE_RETRY)

    def _connect(self):
        """EAGAIN when the queue of whoever listens is full."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._socket.connect(self._path)
            _check_trust(self._socket, self._path)
        except OSError as error:
            self._drop()
            if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
                raise LuoError('LUO_NO_DAEMON', f'connect to luod: nobody listens at {self._path}') from error
            raise _from_os(error, f'connect to {self._path}') from error
        except LuoError:
            self._drop()
            raise

    def fileno(self):
        """-1 when it is closed."""
        return self._socket.fileno()

    def close(self):
        self._usable = False
        self._drop()

    def _drop(self):
        """The connection has ended; another one can be made."""
        self._socket.close()
        _close_all(self._fds)
        self._received.clear()
        self._searched = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, method, parameters=None, fds=()):
        """One request, one answer (docs/protocol.md): its parameters, and the files that came with it. A `method`
        without its interface ("List") is luod's. `fds` is added to the parameters."""
        reply, files = self._exchange({'method': _full(method)}, parameters, fds)
        if 'error' in reply:
            _close_all(files)
            raise _refused(reply)
        return reply.get('parameters') or {}, files

    def _exchange(self, message, parameters, fds):
        if len(fds) > MAX_FDS:
            raise LuoError('LUO_INVALID_PARAMETER', f'{message["method"]}: {len(fds)} files, {MAX_FDS} go in a message')
        message['parameters'] = {**(parameters or {}), **({'fds': len(fds)} if fds else {})}
        data = json.dumps(message).encode() + b'\0'
        if len(data) > MAX_MESSAGE:
            raise LuoError('LUO_INVALID_PARAMETER', f'{message["method"]}: a request of {len(data)} bytes is too long')
        if not self._usable:
            raise _gone()
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        lost_at, attempt = None, 0
        while True:
            began_at = time.monotonic()
            try:
                if self.fileno() < 0:
                    self._connect()
                self._send(data, fds, deadline)
                return self._receive(deadline)
            except LuoError as error:
                # Nobody yet, or somebody whom we do not trust: while we look for luod it may still come.
                lost = error.code == 'LUO_GONE' or (lost_at is not None and error.code not in _FINAL)
                if not lost:
                    self.close()
                    raise
                self._drop()
                now = time.monotonic()
                if lost_at is None or now - began_at > _STABLE:
                    lost_at, attempt = now, 0
                if self._is_over(lost_at, deadline):
                    self._usable = False
                    raise _gone() from error
            except OSError as error:
                self.close()
                raise _from_os(error, message['method']) from error
            except BaseException:
                self.close()
                raise
            time.sleep(_DELAYS[min(attempt, len(_DELAYS) - 1)])
            attempt += 1

    def _is_over(self, lost_at, deadline):
        now = time.monotonic()
        return now - lost_at >= self.reconnect or (deadline is not None and now >= deadline)

    def _send(self, data, fds, deadline):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
        view = memoryview(data)
        while view:
            try:
                sent = self._socket.sendmsg([view], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._wait(select.POLLOUT, deadline)
                continue
            except (BrokenPipeError, ConnectionResetError):
                # Why it closed is perhaps still to be read.
                return
            # Files go with the first byte.
            rights = []
            view = view[sent:]

    def _receive(self, deadline):
        while True:
            message = self._next_message()
            if message is not None:
                return message
            if not self._read():
                self._wait(select.POLLIN, deadline)

    def _wait(self, events, deadline):
        poll = select.poll()
        poll.register(self._socket, events)
        left = None if deadline is None else max(0, (deadline - time.monotonic()) * 1000)
        if not poll.poll(left):
            raise LuoError('LUO_DEADLINE', 'luod did not answer in time')

    def _read(self):
        """False when there is nothing now."""
        try:
            data, control, flags, _ = self._socket.recvmsg(
                _READ_BYTES, socket.CMSG_SPACE(MAX_FDS * _FD_SIZE), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except ConnectionResetError as error:
            raise _gone() from error
        for level, kind, content in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files = array.array('i')
                files.frombytes(content[: len(content) - len(content) % _FD_SIZE])
                self._fds.extend(files)
        if flags & socket.MSG_CTRUNC:
            raise _broken('files were cut off, on the way or by the limit on open files')
        if not data:
            raise _gone()
        if len(self._fds) > MAX_FDS:
            raise _broken('there are more files than a message can have')
        self._received += data
        return True

    def _next_message(self):
        """A reply and its files, or None when none is whole."""
        end = self._received.find(0, self._searched)
        if max(end, len(self._received) if end < 0 else 0) >= MAX_MESSAGE:
            raise _broken('a message of it is too long')
        if end < 0:
            self._searched = len(self._received)
            if not self._received and self._fds:
                raise _broken('there are more files than it declares')
            return None
        data = bytes(self._received[:end])
        del self._received[: end + 1]
        self._searched = 0
        reply = _parse(data)
        count = (reply.get('parameters') or {}).get('fds') or 0
        if type(count) is not int or not 0 <= count <= len(self._fds):
            raise _broken('it declares more files than came')
        if not self._received and len(self._fds) > count:
            raise _broken('there are more files than it declares')
        files, self._fds = self._fds[:count], self._fds[count:]
        return reply, files

    def _event(self):
        """A reply of a stream, or None when there is none now. The stream carries no files."""
        while True:
            message = self._next_message()
            if message is not None:
                _close_all(message[1])
                return message[0]
            if not self._read():
                return None


def _full(method):
    return method if '.' in method else _INTERFACE + method


def _check_trust(connected, path):
    """Files go to root's luod or to one's own, and never to what another user has put in its place. Root may name
    any."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(credentials)[1]
    if os.getuid() != 0 and uid not in (0, os.getuid()):
        raise LuoError('EPERM', f'connect to {path}: uid {uid} listens there, this is {os.getuid()}: do not trust it')


def _integer(digits):
    if len(digits) > _MAX_DIGITS:
        raise ValueError('a number is too long')
    return int(digits)


def _no_constant(name):
    raise ValueError(f'{name} is no JSON')


def _parse(data):
    try:
        reply = json.loads(data.decode(), parse_int=_integer, parse_constant=_no_constant)
        if b'\\u' in data:
            # Half a surrogate pair is no text: whoever prints it would fail.
            json.dumps(reply, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _broken('it is no JSON, or is nested too deep') from error
    if not isinstance(reply, dict):
        raise _broken('it is no object')
    # null and an absent member mean the same.
    reply = {name: value for name, value in reply.items() if value is not None}
    if not isinstance(reply.get('parameters', {}), dict) or not isinstance(reply.get('error', ''), str):
        raise _broken('error or parameters are of a wrong type')
    return reply


def _refused(reply):
    parameters = reply.get('parameters', {})
    code, message = parameters.get('code'), parameters.get('message')
    if isinstance(code, str) and isinstance(message, str) and _CODE.fullmatch(code):
        return LuoError(code, message)
    return LuoError('LUO_UNSUPPORTED', f'luod answered {reply["error"]}')


def _member(parameters, name, kind):
    value = parameters.get(name) if isinstance(parameters, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise _broken(f'{name} is missing, or of a wrong type')
    return value


def _optional(parameters, name, kind, otherwise):
    return otherwise if parameters.get(name) is None else _member(parameters, name, kind)


def _describe(items):
    described = []
    for index, (token, _, version, until) in enumerate(items):
        described.append({'token': str(token), 'fd': index})
        if version is not None:
            described[-1]['format'] = version
        if until is not None:
            described[-1]['until'] = until
    return described, [item.fd for item in items]


# --- sessions ---------------------------------------------------------------------------------------------------------


class Session:
    """A named container of files, which lives as long as somebody has a descriptor of it. Its connection must outlive
    it. `id` is what luod calls it, for call()."""

    def __init__(self, connection, session, fd):
        self._connection = connection
        self.id = session
        self._fd = fd

    def fileno(self):
        """To pass on; it stays the session's. -1 when it is closed."""
        return self._fd

    def close(self):
        """Closes this descriptor of it."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def preserve(self, items):
        """All (`Item`) or none; MAX_FDS at most."""
        described, fds = _describe([Item(*item) for item in items])
        request = {'id': new_id(), 'session': self.id, 'files': described, 'fds': len(fds)}
        self._connection.call('Preserve', request, fds)

    def unpreserve(self, tokens):
        tokens = [str(token) for token in tokens]
        self._connection.call('Unpreserve', {'id': new_id(), 'session': self.id, 'tokens': tokens})

    def retrieve(self, token):
        """A new descriptor of the file."""
        reply, fds = self._connection.call('Retrieve', {'session': self.id, 'tokens': [str(token)]})
        if len(fds) != 1:
            _close_all(fds)
            raise _broken('the file that was asked for is not there')
        return fds[0]

    def files(self):
        """What is in it, without descriptors."""
        return Files(self, [], [], {}).list_rest()


def create_session(connection, name, keep_ms=0, workload=None):
    """With a workload it belongs to it, and updates hand it over. Without, a program needs only a connection."""
    return _open(connection, 'CreateSession', {'name': name, 'keep_ms': keep_ms}, workload)


def adopt_session(connection, name, workload=None):
    """An orphaned session, or with a workload one that an update handed over."""
    return _open(connection, 'AdoptSession', {'name': name}, workload)


def adopt_session_fd(connection, fd):
    """The session whose descriptor somebody passed on. `fd` is the session's if this works, else the caller's."""
    reply, fds = connection.call('AdoptSession', {'id': new_id()}, [fd])
    _close_all(fds)
    return Session(connection, _member(reply.get('session'), 'session', str), fd)


def _open(connection, method, parameters, workload):
    member = {} if workload is None else {'member': workload.member}
    reply, fds = connection.call(method, {'id': new_id(), **parameters, **member})
    return _session_of(connection, reply, fds, lambda: _member(reply.get('session'), 'session', str))


def _session_of(connection, reply, fds, session):
    try:
        if len(fds) != 1 or reply.get('session_fd') != 0:
            raise _broken('the descriptor of a session is not there')
        return Session(connection, session(), fds.pop())
    finally:
        _close_all(fds)


#: What is said of a file. It is there (Files.take) or not yet (Session.retrieve). until: in Session.files() 'update' for
#: what a kexec leaves behind, else None.
File = namedtuple('File', 'token kind format until', defaults=(None,))


class Files:
    """A list of files, with the descriptors of some. `sessions`, of claim(): the workload's other ones, by name."""

    def __init__(self, session, files, sessions, fds):
        self._session = session
        self._fds = fds
        self.files = files
        self.sessions = sessions

    def __iter__(self):
        return iter(self.files)

    def __len__(self):
        return len(self.files)

    def take(self, token):
        """The descriptor of a token, once; None when it is not here."""
        return self._fds.pop(token, None)

    def close(self):
        """Closes what was not taken."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def list_rest(self):
        """The files from where this list ends."""
        while True:
            request = {'session': self._session.id, 'offset': len(self.files)}
            reply, fds = self._session._connection.call('Files', request)
            _close_all(fds)
            more = _read_files(reply)
            self.files.extend(more)
            if len(self.files) > _MAX_FILES:
                raise _broken('a list of files has no end')
            # Somebody may have taken files out meanwhile.
            if not more or len(self.files) >= _member(reply, 'total', int):
                return self


def _read_files(reply):
    files = []
    for described in _member(reply, 'files', list):
        token = _member(described, 'token', str)
        if not _TOKEN.fullmatch(token) or int(token) > _MAX_TOKEN:
            raise _broken('a token in it is no u64')
        kind, version = _member(described, 'kind', str), _optional(described, 'format', str, None)
        files.append(File(int(token), kind, version, _optional(described, 'until', str, None)))
    return files


# --- a timer to poll --------------------------------------------------------------------------------------------------


def _new_timer():
    if hasattr(os, 'timerfd_create'):
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
    timer = ctypes.CDLL(None, use_errno=True).timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        error = ctypes.get_errno()
        raise _from_os(OSError(error, os.strerror(error)), 'make a timer')
    return timer


def _set_timer(timer, seconds):
    if hasattr(os, 'timerfd_settime'):
        os.timerfd_settime(timer, initial=seconds)
        return
    # struct itimerspec: the interval, which is none, and the time until it expires.
    spec = (ctypes.c_long * 4)(0, 0, 0, int(seconds * 1e9))
    ctypes.CDLL(None).timerfd_settime(timer, 0, spec, None)


def _has_expired(timer):
    try:
        return len(os.read(timer, 8)) > 0
    except BlockingIOError:
        return False


# --- a workload -------------------------------------------------------------------------------------------------------


def join(workload=None, socket=None, accepts=('*',), keep_ms=0, timeout=None, reconnect=RECONNECT,
         kexec_wait=KEXEC_WAIT):
    """Becomes the running version of a workload ($LUO_WORKLOAD), its successor ($LUO_TICKET), or the one that goes on
    after a crash. None when nothing says that this is a workload: the program runs alone. When it is one and that
    fails, it raises, such as LUO_NO_DAEMON: to start empty would be a lie. Takes LUO_TICKET out of the environment."""
    name = workload or os.environ.get('LUO_WORKLOAD')
    if not name:
        return None
    connection = Connection(socket, timeout, reconnect)
    try:
        return Workload(connection, socket, timeout, name, accepts, keep_ms, kexec_wait)
    except BaseException:
        connection.close()
        raise


def _take_ticket():
    """It is for this process alone: a child that joins is another member."""
    given = os.environ.get('LUO_TICKET')
    if given is None:
        return []
    try:
        os.set_inheritable(int(given), False)
    except (ValueError, OverflowError, OSError) as error:
        raise LuoError('LUO_TICKET', f'take the ticket from descriptor {given}: it is not open') from error
    del os.environ['LUO_TICKET']
    return [int(given)]


class Workload:
    """Made by join(). `origin` is NEW: preserve, then commit; or UPDATE or CRASH: claim, check, then commit, and change
    nothing before that. `session` is its own: there are its files."""

    def __init__(self, connection, path, timeout, name, accepts, keep_ms, kexec_wait=KEXEC_WAIT):
        self.connection = connection
        self._update = None
        self._kexec_wait = kexec_wait
        # What the update is for; whether it is a kexec that luod may have the word for.
        self._purpose, self._crossing = UPDATE, False
        # Asked to prepare, and nothing heard of the end of that; told to release; refused because luod was away.
        self._asked = self._released = False
        self._refused = None
        self._lost_at = None
        self._attempt = 0
        request = {'id': new_id(), 'workload': name, 'accepts': list(accepts)}
        if keep_ms:
            request['keep_ms'] = keep_ms
        ticket = _take_ticket()
        try:
            reply, fds = connection.call('Join', request, ticket)
        finally:
            _close_all(ticket)
        self.session = _session_of(connection, reply, fds, lambda: _member(reply, 'session', str))
        try:
            self.member = _member(reply, 'member', str)
            self.origin = _member(reply, 'origin', str)
            if self.origin not in (NEW, UPDATE, CRASH):
                raise _broken('it is no answer to a join')
            self._events = Connection(path, timeout, connection.reconnect)
            try:
                self._subscribe()
                # What is polled stays the same, whatever becomes of the connection.
                self._poll = select.epoll()
                self._timer = _new_timer()
                self._poll.register(self._timer, select.EPOLLIN)
                self._poll.register(self._events, select.EPOLLIN)
                # What came with the subscription has been read: its connection wakes nobody.
                if self._events._received:
                    _set_timer(self._timer, _DELAYS[0])
            except BaseException:
                self._events.close()
                raise
        except BaseException:
            self.session.close()
            raise

    def _subscribe(self):
        request = {'method': _full('Subscribe'), 'more': True}
        reply, fds = self._events._exchange(request, {'member': self.member}, ())
        _close_all(fds)
        if 'error' in reply:
            raise _refused(reply)
        if reply.get('continues') is not True:
            raise _broken('there are no events')

    def fileno(self):
        """To poll for input. -1 after LOST."""
        return -1 if self._poll.closed else self._poll.fileno()

    def dispatch(self):
        """The next event, without waiting; None when there is none. Call it until then."""
        unknown = 0
        if self._events.fileno() >= 0:
            _has_expired(self._timer)
        while not self._poll.closed:
            try:
                if self._events.fileno() < 0 and not self._try_again():
                    return self._while_away()
                reply = self._events._event()
                event = None if reply is None else self._read_event(reply)
                unknown += 1
                if unknown > _MAX_UNKNOWN_EVENTS:
                    raise _broken('there are events without end that mean nothing')
            except LuoError as error:
                if error.code == 'LUO_GONE' and self._events.reconnect > 0:
                    self._lost()
                    continue
                self._end_events()
                if error.code != 'LUO_GONE':
                    raise
                return Event(LOST, 0, '')
            # Events that are not known yet are none.
            if reply is None or event is not None and event.kind in (PREPARE, RESUME, RELEASE):
                return event
        return None

    def _end_events(self):
        self._events.close()
        if not self._poll.closed:
            self._poll.close()
            os.close(self._timer)

    def _lost(self):
        self._events._drop()
        if self._lost_at is None:
            self._lost_at, self._attempt = time.monotonic(), 0
        self._wake_later()

    def _wake_later(self):
        _set_timer(self._timer, _DELAYS[min(self._attempt, len(_DELAYS) - 1)])
        self._attempt += 1

    def _try_again(self):
        """Whether luod is there again, and asked for events."""
        if not _has_expired(self._timer):
            return False
        try:
            self._events._connect()
            request = {'method': _full('Subscribe'), 'more': True, 'parameters': {'member': self.member}}
            self._events._send(json.dumps(request).encode() + b'\0', (), None)
        except (LuoError, OSError):
            self._events._drop()
            self._wake_later()
            return False
        self._poll.register(self._events, select.EPOLLIN)
        return True

    def _while_away(self):
        away = time.monotonic() - self._lost_at
        crossing = self._asked and self._crossing
        patience = self._kexec_wait if crossing else self._events.reconnect / 2
        # Without the word for it luod lets nobody else begin, and is told when it is back.
        if self._asked and not self._released and away >= patience:
            self._asked, self._refused = False, self._update
            return Event(RESUME, 0, 'luod was away for too long')
        if away >= self._events.reconnect and not crossing:
            self._end_events()
            return Event(LOST, 0, '')
        return None

    def _read_event(self, reply):
        """None for what has been said before."""
        if 'error' in reply:
            # A luod that is back does not know this member any more, and of no kexec either.
            self._crossing = False
            raise _broken('it is no event') if self._lost_at is None else _gone()
        parameters = reply.get('parameters')
        kind = _member(parameters, 'event', str)
        event = Event(kind, _optional(parameters, 'deadline_ms', int, 0), _optional(parameters, 'reason', str, ''),
                      _optional(parameters, 'purpose', str, UPDATE))
        update = _optional(parameters, 'update', str, None)
        if kind == 'subscribed':
            return self._subscribed_again(update)
        if kind == PREPARE:
            update = _member(parameters, 'update', str)
            if update == self._refused or (self._asked and update == self._update):
                return None
            self._update, self._asked, self._released = update, True, False
            self._purpose, self._crossing = event.purpose, False
            self._prepared_at = time.monotonic()
        elif kind == RESUME:
            if self._update is not None and not self._asked:
                return None
            self._asked = False
        elif kind == RELEASE:
            if self._released or (self._update is not None and not self._asked):
                return None
            self._released = True
        return event

    def _subscribed_again(self, update):
        """luod is back: what it does not ask any more has ended."""
        self._lost_at = None
        if self._refused is not None and self._refused == update:
            try:
                self.connection.call('Refuse', {'id': new_id(), 'member': self.member, 'update': update,
                                                'reason': 'luod was away for too long, and this version went on'})
            except LuoError as error:
                if error.code != 'LUO_WRONG_STATE':
                    raise
            return None
        if not self._asked or self._released or self._update == update:
            return None
        self._asked = False
        return Event(RESUME, 0, 'the update ended while luod was away')

    def _about_update(self, what):
        if self._update is None:
            raise LuoError('LUO_WRONG_STATE', f'{what}: no update has asked for it')
        return {'id': new_id(), 'member': self.member, 'update': self._update}

    def _held_ms(self):
        """Requests were held back since the event was taken."""
        return (time.monotonic() - self._prepared_at) * 1000

    def ready(self, items=()):
        """The old version has let go, and luod holds these files (`Item`) too, MAX_FDS at most, at tokens that are free:
        what the version before has handed over at one stays there until unpreserve()."""
        request = self._about_update('ready')
        self._crossing = self._purpose == KEXEC
        described, fds = _describe([Item(*item) for item in items])
        self.connection.call('Ready', {**request, 'files': described, 'held_ms': self._held_ms()}, fds)

    def refuse(self, reason):
        request = self._about_update('refuse')
        self.connection.call('Refuse', {**request, 'reason': reason, 'held_ms': self._held_ms()})

    def released(self):
        self.connection.call('Released', self._about_update('released'))

    def claim(self):
        """Waits until the old version has let go, then answers everything that is in the workload's own session, in the
        order in which it was preserved. The first MAX_FDS files are there."""
        reply, fds = self.connection.call('Claim', {'id': new_id(), 'member': self.member})
        try:
            files = _read_files(reply)
            sessions = [
                _member(session, 'name', str)
                for session in _optional(reply, 'sessions', list, [])
                if _member(session, 'session', str) != self.session.id
            ]
            total = _optional(reply, 'total', int, len(files))
            if len(fds) > len(files):
                raise _broken('there are more files than it describes')
            claimed = Files(self.session, files, sessions, {})
            claimed._fds.update((file.token, fd) for file, fd in zip(files, fds))
            if len(claimed._fds) < len(fds):
                raise _broken('a token is in it twice')
        except BaseException:
            _close_all(fds)
            raise
        try:
            if total > len(files):
                claimed.list_rest()
            return claimed
        except BaseException:
            claimed.close()
            raise

    def commit(self):
        """This version is whole. Answered when the state is its own: only now it may be changed."""
        self.connection.call('Commit', {'id': new_id(), 'member': self.member})

    def close(self):
        """Leaves: luod lets go of the state, or keeps it for a restart, as it was asked."""
        self.session.close()
        self.connection.close()
        self._end_events()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
