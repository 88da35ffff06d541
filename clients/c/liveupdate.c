/*
 * liveupdate: see liveupdate.h. SPDX-License-Identifier: Apache-2.0
 *
 * In this order: errors, text to send, JSON that was received, the connection, requests, sessions, the workload.
 * What luod sends is checked as if it came from a stranger: whatever does not fit is LUO_PROTOCOL, closes what came
 * with it, and ends the connection.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "liveupdate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define INTERFACE "org.liveupdate.Orchestrator."
/* luod's messages nest half as deep at most. */
#define MAX_DEPTH 40
/* A thousand files or sessions have a tenth of it. */
#define MAX_VALUES 100000
#define READ_BYTES 65536
/* Events that a later luod may send and that mean nothing here, in one dispatch. */
#define MAX_UNKNOWN_EVENTS 1000
/* In a session; the kernel's have 630,000 at most. A list that goes on is none. */
#define MAX_FILES 1000000
#define NO_FILE (-1)
/* How long luod may be away, if nothing else is asked for. */
#define RECONNECT_MS 10000
/* The same of a version that has let go for a kexec. A shutdown ends sooner, with the process. */
#define KEXEC_WAIT_MS 600000
/* A connection that lasted this long without an answer was luod's all the same: it may be away for the whole time again. */
#define STABLE_MS 1000
/* A full queue of whoever listens is waited for that long at least, and looked at again after the other. */
#define LEAST_QUEUE_MS 100
#define QUEUE_RETRY_MS 20

/* --- errors ---------------------------------------------------------------------------------------------------- */

static int fail(luo_error *error, const char *code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Answers -1. */
static int fail(luo_error *error, const char *code, const char *format, ...) {
  if (error) {
    va_list arguments;
    snprintf(error->code, sizeof error->code, "%s", code);
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
  }
  return -1;
}

static const struct {
  int number;
  const char *name;
} ERRNOS[] = {
    {EACCES, "EACCES"},       {EAGAIN, "EAGAIN"}, {EBADF, "EBADF"},   {ECONNREFUSED, "ECONNREFUSED"},
    {EINVAL, "EINVAL"},       {EIO, "EIO"},       {EMFILE, "EMFILE"}, {ENAMETOOLONG, "ENAMETOOLONG"},
    {ENFILE, "ENFILE"},       {ENOBUFS, "ENOBUFS"}, {ENOENT, "ENOENT"}, {ENOMEM, "ENOMEM"},
    {ENOTDIR, "ENOTDIR"},     {ENOTSOCK, "ENOTSOCK"}, {EPERM, "EPERM"},   {ETOOMANYREFS, "ETOOMANYREFS"},
};

/* One that has no name here is E and its number. */
static int fail_errno(luo_error *error, const char *action) {
  int number = errno;
  char code[16];
  snprintf(code, sizeof code, "E%d", number);
  for (size_t at = 0; at < sizeof ERRNOS / sizeof *ERRNOS; at++) {
    if (ERRNOS[at].number == number) snprintf(code, sizeof code, "%s", ERRNOS[at].name);
  }
  return fail(error, code, "%s: %s", action, code);
}

static int no_memory(luo_error *error) { return fail(error, "ENOMEM", "no memory is left"); }

static int broken(luo_error *error, const char *why) {
  return fail(error, "LUO_PROTOCOL", "read what luod sent: %s", why);
}

static void close_fd(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = NO_FILE;
}

/* --- text to send ---------------------------------------------------------------------------------------------- */

/* Grows; once something failed, `code` says what, and the rest does nothing. */
typedef struct text {
  char *bytes;
  size_t length, room;
  const char *code;
} text;

static void add_bytes(text *to, const char *bytes, size_t length) {
  if (to->code) return;
  if (length >= LUO_MAX_MESSAGE || to->length + length >= LUO_MAX_MESSAGE) {
    to->code = "LUO_INVALID_PARAMETER";
    return;
  }
  if (to->length + length + 1 > to->room) {
    size_t room = (to->length + length + 1) * 2;
    char *grown = realloc(to->bytes, room);
    if (!grown) {
      to->code = "ENOMEM";
      return;
    }
    to->bytes = grown;
    to->room = room;
  }
  memcpy(to->bytes + to->length, bytes, length);
  to->length += length;
  to->bytes[to->length] = 0;
}

static void add(text *to, const char *string) { add_bytes(to, string, strlen(string)); }

static void add_number(text *to, int64_t number) {
  char digits[24];
  snprintf(digits, sizeof digits, "%lld", (long long)number);
  add(to, digits);
}

static void add_token(text *to, uint64_t token) {
  char digits[24];
  snprintf(digits, sizeof digits, "\"%llu\"", (unsigned long long)token);
  add(to, digits);
}

/* How many bytes the character at `at` has, 0 when it is no UTF-8. Stops at a NUL. */
static size_t utf8_length(const unsigned char *at) {
  size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc2 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf5 ? 4 : 0;
  for (size_t next = 1; next < length; next++) {
    if ((at[next] & 0xc0) != 0x80) return 0;
  }
  /* Forms that are too long, surrogates, and what is beyond Unicode. */
  if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f)) return 0;
  if ((at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f)) return 0;
  return length;
}

static void add_string(text *to, const char *string) {
  const unsigned char *at = (const unsigned char *)string;
  char escaped[8];
  add(to, "\"");
  while (*at && !to->code) {
    size_t length = utf8_length(at);
    if (length == 0) {
      to->code = "LUO_INVALID_PARAMETER";
      return;
    }
    if (*at < 0x20 || *at == '"' || *at == '\\') {
      snprintf(escaped, sizeof escaped, "\\u%04x", *at);
      add(to, escaped);
    } else {
      add_bytes(to, (const char *)at, length);
    }
    at += length;
  }
  add(to, "\"");
}

/* `name` comes with what has to stand before it: a brace or a comma. */
static void add_member(text *to, const char *name, const char *string) {
  add(to, name);
  add_string(to, string);
}

static int text_error(const text *from, luo_error *error) {
  bool invalid = strcmp(from->code, "LUO_INVALID_PARAMETER") == 0;
  return fail(error, from->code, "write a request: %s",
              invalid ? "it is too long, or a text in it is no UTF-8" : "no memory or no random numbers are left");
}

char *luo_json_quote(const char *string) {
  text quoted = {NULL, 0, 0, NULL};
  add_string(&quoted, string);
  if (quoted.code) {
    free(quoted.bytes);
    return NULL;
  }
  return quoted.bytes;
}

int luo_new_id(char id[LUO_ID_SIZE], luo_error *error) {
  unsigned char random[(LUO_ID_SIZE - 1) / 2];
  /* As few bytes as this are never cut short. */
  if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) return fail_errno(error, "make an id");
  for (size_t at = 0; at < sizeof random; at++) snprintf(id + 2 * at, 3, "%02x", random[at]);
  return 0;
}

/* --- JSON that was received ------------------------------------------------------------------------------------ */

enum { JSON_OTHER, JSON_NULL, JSON_TRUE, JSON_INTEGER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

/* All of a message are in one array; strings are in the message itself. */
struct luo_json {
  int type;
  const char *name, *string;
  int64_t integer;
  size_t count;
  luo_json *first, *next;
};

typedef struct parser {
  char *at; /* the message ends with a NUL, which is in no token */
  luo_json *values;
  size_t used, limit;
  int depth;
} parser;

static void skip_space(parser *from) { from->at += strspn(from->at, " \t\r\n"); }

static bool skip_char(parser *from, char expected) {
  if (*from->at != expected) return false;
  from->at++;
  skip_space(from);
  return true;
}

static int hex4(const char *at) {
  int value = 0;
  for (int digit = 0; digit < 4; digit++) {
    static const char DIGITS[] = "0123456789abcdef0123456789ABCDEF";
    const char *found = at[digit] ? strchr(DIGITS, at[digit]) : NULL;
    if (!found) return -1;
    value = value * 16 + (int)(found - DIGITS) % 16;
  }
  return value;
}

/* Never more bytes than the escape had. */
static char *put_utf8(char *to, int32_t c) {
  if (c < 0x80) {
    *to++ = (char)c;
    return to;
  }
  if (c < 0x800) {
    *to++ = (char)(0xc0 | c >> 6);
  } else {
    if (c < 0x10000) {
      *to++ = (char)(0xe0 | c >> 12);
    } else {
      *to++ = (char)(0xf0 | c >> 18);
      *to++ = (char)(0x80 | (c >> 12 & 0x3f));
    }
    *to++ = (char)(0x80 | (c >> 6 & 0x3f));
  }
  *to++ = (char)(0x80 | (c & 0x3f));
  return to;
}

/* After "\u". NUL and half a pair are no characters here. */
static char *parse_unicode(parser *from, char *to) {
  int32_t c = hex4(from->at);
  if (c <= 0 || (c >= 0xdc00 && c <= 0xdfff)) return NULL;
  from->at += 4;
  if (c >= 0xd800 && c <= 0xdbff) {
    int low = from->at[0] == '\\' && from->at[1] == 'u' ? hex4(from->at + 2) : -1;
    if (low < 0xdc00 || low > 0xdfff) return NULL;
    from->at += 6;
    c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
  }
  return put_utf8(to, c);
}

/* At its quote. Decodes it where it is. */
static const char *parse_string(parser *from) {
  static const char ESCAPES[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
  char *start, *to;
  if (*from->at != '"') return NULL;
  start = to = ++from->at;
  while (*from->at != '"') {
    unsigned char c = (unsigned char)*from->at;
    if (c < 0x20) return NULL;
    if (c == '\\') {
      const char *escape = ESCAPES;
      from->at++;
      if (*from->at == 'u') {
        from->at++;
        to = parse_unicode(from, to);
        if (!to) return NULL;
        continue;
      }
      while (*escape && *escape != *from->at) escape += 2;
      if (!*escape) return NULL;
      *to++ = escape[1];
      from->at++;
      continue;
    }
    size_t length = utf8_length((const unsigned char *)from->at);
    if (length == 0) return NULL;
    memmove(to, from->at, length);
    to += length;
    from->at += length;
  }
  from->at++;
  *to = 0;
  skip_space(from);
  return start;
}

static bool skip_digits(parser *from) {
  size_t digits = strspn(from->at, "0123456789");
  from->at += digits;
  return digits > 0;
}

static bool parse_number(parser *from, luo_json *value) {
  const char *start = from->at;
  bool whole = true;
  if (*from->at == '-') from->at++;
  if (*from->at == '0') from->at++;
  else if (!skip_digits(from)) return false;
  if (*from->at == '.') {
    whole = false;
    from->at++;
    if (!skip_digits(from)) return false;
  }
  if (*from->at == 'e' || *from->at == 'E') {
    whole = false;
    from->at++;
    if (*from->at == '+' || *from->at == '-') from->at++;
    if (!skip_digits(from)) return false;
  }
  if (whole) {
    errno = 0;
    value->integer = strtoll(start, NULL, 10);
    if (errno == 0) value->type = JSON_INTEGER;
  }
  return true;
}

static luo_json *parse_value(parser *from);

static bool parse_members(parser *from, luo_json *container, char end) {
  luo_json **link = &container->first;
  from->at++;
  skip_space(from);
  if (skip_char(from, end)) return true;
  do {
    const char *name = NULL;
    if (container->type == JSON_OBJECT) {
      name = parse_string(from);
      if (!name || !skip_char(from, ':')) return false;
    }
    *link = parse_value(from);
    if (!*link) return false;
    (*link)->name = name;
    link = &(*link)->next;
    container->count++;
  } while (skip_char(from, ','));
  return skip_char(from, end);
}

static luo_json *parse_value(parser *from) {
  static const struct {
    const char *word;
    int type;
  } WORDS[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_OTHER}};
  luo_json *value;
  if (from->used == from->limit || from->depth == MAX_DEPTH) return NULL;
  value = &from->values[from->used++];
  memset(value, 0, sizeof *value);
  if (*from->at == '{' || *from->at == '[') {
    char end = *from->at == '{' ? '}' : ']';
    bool whole;
    value->type = end == '}' ? JSON_OBJECT : JSON_ARRAY;
    from->depth++;
    whole = parse_members(from, value, end);
    from->depth--;
    return whole ? value : NULL;
  }
  if (*from->at == '"') {
    value->type = JSON_STRING;
    value->string = parse_string(from);
    return value->string ? value : NULL;
  }
  for (size_t at = 0; at < sizeof WORDS / sizeof *WORDS; at++) {
    size_t length = strlen(WORDS[at].word);
    if (strncmp(from->at, WORDS[at].word, length) == 0) {
      from->at += length;
      value->type = WORDS[at].type;
      skip_space(from);
      return value;
    }
  }
  if (!parse_number(from, value)) return NULL;
  skip_space(from);
  return value;
}

/* Answers the values, to be freed, or NULL. Works in `message`, which ends with a NUL. */
static luo_json *parse_message(char *message, luo_error *error) {
  parser from = {message, NULL, 0, 1, 0};
  /* A value stands at the beginning or after one of these. */
  for (const char *at = message; *at; at++) from.limit += *at == ',' || *at == ':' || *at == '[' || *at == '{';
  if (from.limit > MAX_VALUES) {
    broken(error, "there are too many values in it");
    return NULL;
  }
  from.values = malloc(from.limit * sizeof *from.values);
  if (!from.values) {
    no_memory(error);
    return NULL;
  }
  skip_space(&from);
  if (!parse_value(&from) || *from.at || from.values->type != JSON_OBJECT) {
    free(from.values);
    broken(error, "it is no JSON object, or is nested too deep");
    return NULL;
  }
  return from.values;
}

const luo_json *luo_json_first(const luo_json *container) { return container ? container->first : NULL; }
const luo_json *luo_json_next(const luo_json *member) { return member ? member->next : NULL; }
const char *luo_json_name(const luo_json *member) { return member ? member->name : NULL; }
size_t luo_json_count(const luo_json *container) { return container ? container->count : 0; }
const char *luo_json_string(const luo_json *value) { return value ? value->string : NULL; }

const luo_json *luo_json_get(const luo_json *object, const char *name) {
  for (const luo_json *member = luo_json_first(object); member; member = member->next) {
    if (member->name && strcmp(member->name, name) == 0) return member->type == JSON_NULL ? NULL : member;
  }
  return NULL;
}

const luo_json *luo_json_at(const luo_json *array, size_t index) {
  const luo_json *member = luo_json_first(array);
  while (member && index-- > 0) member = member->next;
  return member;
}

int64_t luo_json_integer(const luo_json *value, int64_t otherwise) {
  return value && value->type == JSON_INTEGER ? value->integer : otherwise;
}

int luo_json_u64(const luo_json *value, uint64_t *number) {
  const char *string = luo_json_string(value);
  uint64_t result = 0;
  if (!string || !*string || (string[0] == '0' && string[1])) return -1;
  for (; *string; string++) {
    unsigned digit = (unsigned)(*string - '0');
    if (digit > 9 || result > (UINT64_MAX - digit) / 10) return -1;
    result = result * 10 + digit;
  }
  *number = result;
  return 0;
}

/* --- the connection -------------------------------------------------------------------------------------------- */

struct luo_connection {
  int fd;      /* NO_FILE once it has ended */
  bool usable; /* another one may be made */
  struct sockaddr_un address;
  int64_t timeout_ms, reconnect_ms;
  char *bytes; /* received, not taken yet */
  size_t length, room, searched;
  int fds[LUO_MAX_FDS];
  size_t fd_count;
};

struct luo_reply {
  char *message;
  luo_json *values;
  const luo_json *parameters;
  bool continues;
  const char *error;
  int fds[LUO_MAX_FDS];
  size_t fd_count;
};

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* This one has ended; another one can be made. */
static void connection_drop(luo_connection *connection) {
  close_fd(&connection->fd);
  while (connection->fd_count > 0) close_fd(&connection->fds[--connection->fd_count]);
  free(connection->bytes);
  connection->bytes = NULL;
  connection->length = connection->room = connection->searched = 0;
}

static void connection_end(luo_connection *connection) {
  connection_drop(connection);
  connection->usable = false;
}

void luo_connection_free(luo_connection *connection) {
  if (!connection) return;
  connection_end(connection);
  free(connection);
}

/* Where luod is, as an address. */
static int socket_address(const char *option, struct sockaddr_un *address, luo_error *error) {
  const char *given = option && *option ? option : getenv("LUO_SOCKET");
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  size_t room = sizeof address->sun_path;
  int length;
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  if (given && *given) length = snprintf(address->sun_path, room, "%s", given);
  else if (getuid() == 0) length = snprintf(address->sun_path, room, "/run/luod/liveupdate.sock");
  else if (runtime && *runtime) length = snprintf(address->sun_path, room, "%s/luod/liveupdate.sock", runtime);
  else length = snprintf(address->sun_path, room, "/tmp/luod-%lu/liveupdate.sock", (unsigned long)getuid());
  if (length >= 0 && (size_t)length < room) return 0;
  return fail(error, "ENAMETOOLONG", "the path of luod's socket has more than %zu bytes: %.64s...", room - 1,
              address->sun_path);
}

/* Files go to root's luod or to one's own, and never to what another user has put in its place. Root may name any. */
static int check_trust(int fd, const char *path, luo_error *error) {
  struct ucred peer;
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return fail_errno(error, "ask who listens");
  if (getuid() == 0 || peer.uid == 0 || peer.uid == getuid()) return 0;
  return fail(error, "EPERM", "connect to %s: uid %lu listens there, and this is uid %lu: do not trust it", path,
              (unsigned long)peer.uid, (unsigned long)getuid());
}

/* EAGAIN when the queue of whoever listens is full. */
static int connection_make(luo_connection *connection, luo_error *error) {
  int result;
  connection->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connection->fd < 0) return fail_errno(error, "make a socket");
  do result = connect(connection->fd, (struct sockaddr *)&connection->address, sizeof connection->address);
  while (result != 0 && errno == EINTR);
  if (result != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED) {
      fail(error, "LUO_NO_DAEMON", "connect to luod: nobody listens at %s", connection->address.sun_path);
    } else {
      fail_errno(error, "connect to luod");
    }
  }
  if (result == 0 && check_trust(connection->fd, connection->address.sun_path, error) == 0) return 0;
  connection_drop(connection);
  return -1;
}

/* For the first time: the queue of whoever listens may be full for a moment. */
static int connection_make_first(luo_connection *connection, luo_error *error) {
  int64_t patience = connection->reconnect_ms > LEAST_QUEUE_MS ? connection->reconnect_ms : LEAST_QUEUE_MS;
  int64_t end = now_ms() + patience;
  luo_error why;
  while (connection_make(connection, &why) != 0) {
    struct timespec pause = {0, QUEUE_RETRY_MS * 1000000L};
    if (strcmp(why.code, "EAGAIN") != 0) return fail(error, why.code, "%s", why.message);
    if (now_ms() >= end) {
      return fail(error, "LUO_NO_DAEMON",
                  "connect to %s: whoever listens there takes no connection for %g s, and its queue is full: "
                  "it is stopped or hangs",
                  connection->address.sun_path, (double)patience / 1000);
    }
    nanosleep(&pause, NULL);
  }
  return 0;
}

static luo_connection *connection_to(const char *socket_path, int64_t timeout_ms, int64_t reconnect_ms,
                                     luo_error *error) {
  luo_connection *connection = calloc(1, sizeof *connection);
  if (!connection) {
    no_memory(error);
    return NULL;
  }
  connection->fd = NO_FILE;
  connection->usable = true;
  connection->timeout_ms = timeout_ms;
  connection->reconnect_ms = reconnect_ms;
  if (socket_address(socket_path, &connection->address, error) == 0 && connection_make_first(connection, error) == 0) {
    return connection;
  }
  luo_connection_free(connection);
  return NULL;
}

luo_connection *luo_connect(const char *socket_path, int64_t timeout_ms, luo_error *error) {
  return connection_to(socket_path, timeout_ms, RECONNECT_MS, error);
}

void luo_connection_reconnect(luo_connection *connection, int64_t ms) { connection->reconnect_ms = ms; }

/* Between attempts to reach luod: quick ones first. */
static int64_t retry_ms(int attempt) {
  static const int64_t DELAYS[] = {1, 2, 5, 10, 20, 50};
  return attempt < (int)(sizeof DELAYS / sizeof *DELAYS) ? DELAYS[attempt] : 100;
}

/* Until `fd` is ready, or `deadline` (of now_ms(); 0: none) is over. */
static int wait_for(int fd, short events, int64_t deadline, luo_error *error) {
  for (;;) {
    struct pollfd poll_fd = {fd, events, 0};
    int64_t left = deadline == 0 ? -1 : deadline - now_ms();
    int result;
    if (deadline != 0 && left <= 0) return fail(error, "LUO_DEADLINE", "luod did not answer in time");
    result = poll(&poll_fd, 1, left > 1000000 ? 1000000 : (int)left);
    if (result > 0) return 0;
    if (result < 0 && errno != EINTR) return fail_errno(error, "wait for luod");
  }
}

static int send_all(luo_connection *connection, const char *bytes, size_t length, const int *fds, size_t fd_count,
                    int64_t deadline, luo_error *error) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * LUO_MAX_FDS)];
  } control;
  size_t done = 0;
  while (done < length) {
    struct iovec part = {(void *)(uintptr_t)(bytes + done), length - done};
    struct msghdr message;
    ssize_t sent;
    memset(&message, 0, sizeof message);
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    /* With the first byte. */
    if (done == 0 && fd_count > 0) {
      struct cmsghdr *header;
      memset(&control, 0, sizeof control);
      message.msg_control = control.bytes;
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
      header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
      memcpy(CMSG_DATA(header), fds, sizeof(int) * fd_count);
    }
    sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      done += (size_t)sent;
    } else if (errno == EAGAIN) {
      if (wait_for(connection->fd, POLLOUT, deadline, error) != 0) return -1;
    } else if (errno == EPIPE || errno == ECONNRESET) {
      /* Why it closed is perhaps still to be read. */
      return 0;
    } else if (errno != EINTR) {
      return fail_errno(error, "send a request to luod");
    }
  }
  return 0;
}

static int take_files(luo_connection *connection, struct msghdr *message, luo_error *error) {
  int result = 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    for (size_t at = 0; at < count; at++) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + at * sizeof fd, sizeof fd);
      if (connection->fd_count < LUO_MAX_FDS) {
        connection->fds[connection->fd_count++] = fd;
      } else {
        close(fd);
        result = broken(error, "there are more files than a message can have");
      }
    }
  }
  if (result == 0 && (message->msg_flags & MSG_CTRUNC)) {
    result = broken(error, "files were cut off, on the way or by the limit on open files");
  }
  return result;
}

/* Reads what there is: 1, 0 when there is nothing now, -1. */
static int receive_some(luo_connection *connection, luo_error *error) {
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int) * LUO_MAX_FDS)];
  } control;
  struct iovec part;
  struct msghdr message;
  ssize_t got;
  if (connection->length + READ_BYTES + 1 > connection->room) {
    size_t room = (connection->length + READ_BYTES + 1) * 2;
    char *grown = realloc(connection->bytes, room);
    if (!grown) return no_memory(error);
    connection->bytes = grown;
    connection->room = room;
  }
  memset(&message, 0, sizeof message);
  part.iov_base = connection->bytes + connection->length;
  part.iov_len = READ_BYTES;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  do got = recvmsg(connection->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) return 0;
  if (got < 0 && errno != ECONNRESET) return fail_errno(error, "receive an answer of luod");
  if (got <= 0) return fail(error, "LUO_GONE", "the connection to luod has ended");
  if (take_files(connection, &message, error) != 0) return -1;
  connection->length += (size_t)got;
  return 1;
}

static int take_message(luo_connection *connection, luo_reply **reply, luo_error *error);

/* A message that is here: 1 with *reply; 0 when there is none yet; -1 when what is here cannot become one. */
static int next_message(luo_connection *connection, luo_reply **reply, luo_error *error) {
  const char *end = NULL;
  if (connection->length > connection->searched) {
    end = memchr(connection->bytes + connection->searched, 0, connection->length - connection->searched);
  }
  if (end) return take_message(connection, reply, error);
  connection->searched = connection->length;
  if (connection->length > LUO_MAX_MESSAGE) return broken(error, "a message of it is too long");
  if (connection->length > 0 || connection->fd_count == 0) return 0;
  return broken(error, "there are more files than it declares");
}

/* Takes the first message out of what was received. */
static int take_message(luo_connection *connection, luo_reply **reply, luo_error *error) {
  size_t length = strlen(connection->bytes) + 1;
  luo_reply *made = calloc(1, sizeof *made);
  const luo_json *member;
  int64_t fds;
  int result = -1;
  if (length > LUO_MAX_MESSAGE) result = broken(error, "a message of it is too long");
  else if (!made || !(made->message = malloc(length))) no_memory(error);
  else result = 0;
  if (result != 0) {
    luo_reply_free(made);
    return -1;
  }
  memcpy(made->message, connection->bytes, length);
  connection->length -= length;
  memmove(connection->bytes, connection->bytes + length, connection->length);
  connection->searched = 0;
  made->values = parse_message(made->message, error);
  if (!made->values) {
    luo_reply_free(made);
    return -1;
  }
  member = luo_json_get(made->values, "error");
  made->error = luo_json_string(member);
  made->parameters = luo_json_get(made->values, "parameters");
  if ((member && !made->error) || (made->parameters && made->parameters->type != JSON_OBJECT)) {
    luo_reply_free(made);
    return broken(error, "error or parameters are of a wrong type");
  }
  member = luo_json_get(made->values, "continues");
  made->continues = member && member->type == JSON_TRUE;
  member = luo_json_get(made->parameters, "fds");
  fds = member ? luo_json_integer(member, -1) : 0;
  if (fds < 0 || (uint64_t)fds > connection->fd_count) {
    luo_reply_free(made);
    return broken(error, "it declares more files than came");
  }
  made->fd_count = (size_t)fds;
  memcpy(made->fds, connection->fds, made->fd_count * sizeof *made->fds);
  connection->fd_count -= made->fd_count;
  memmove(connection->fds, connection->fds + made->fd_count, connection->fd_count * sizeof *connection->fds);
  if (connection->length == 0 && connection->fd_count > 0) {
    luo_reply_free(made);
    return broken(error, "there are more files than it declares");
  }
  *reply = made;
  return 1;
}

static int receive_reply(luo_connection *connection, int64_t deadline, luo_reply **reply, luo_error *error) {
  for (;;) {
    int found = next_message(connection, reply, error);
    if (found != 0) return found > 0 ? 0 : -1;
    found = receive_some(connection, error);
    if (found < 0) return -1;
    if (found == 0 && wait_for(connection->fd, POLLIN, deadline, error) != 0) return -1;
  }
}

/* --- requests -------------------------------------------------------------------------------------------------- */

const luo_json *luo_reply_parameters(const luo_reply *reply) { return reply->parameters; }

int luo_reply_take(luo_reply *reply, int64_t index) {
  int fd;
  if (index < 0 || (uint64_t)index >= reply->fd_count) return NO_FILE;
  fd = reply->fds[index];
  reply->fds[index] = NO_FILE;
  return fd;
}

void luo_reply_free(luo_reply *reply) {
  if (!reply) return;
  for (size_t at = 0; at < reply->fd_count; at++) close_fd(&reply->fds[at]);
  free(reply->values);
  free(reply->message);
  free(reply);
}

/* LUO_ or E, then capitals, digits and underscores. */
static bool is_code(const char *code) {
  size_t length = code ? strlen(code) : 0;
  return length > 1 && length < sizeof((luo_error *)NULL)->code &&
         (strncmp(code, "LUO_", 4) == 0 || code[0] == 'E') &&
         strspn(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == length;
}

static int refused(const luo_reply *reply, luo_error *error) {
  const char *code = luo_json_string(luo_json_get(reply->parameters, "code"));
  const char *message = luo_json_string(luo_json_get(reply->parameters, "message"));
  if (is_code(code) && message) return fail(error, code, "%s", message);
  return fail(error, "LUO_UNSUPPORTED", "luod answered %s", reply->error);
}

/* 0 with *answer; else the connection has ended, and *error says why. */
static int exchange_once(luo_connection *connection, const text *request, const int *fds, size_t fd_count,
                         int64_t deadline, luo_reply **answer, luo_error *error) {
  if (connection->fd < 0 && connection_make(connection, error) != 0) return -1;
  /* With its NUL, which ends the message. */
  if (send_all(connection, request->bytes, request->length + 1, fds, fd_count, deadline, error) != 0) return -1;
  return receive_reply(connection, deadline, answer, error);
}

/* What is final; anything else may pass while luod is looked for. */
static bool is_final(const luo_error *error) {
  return strcmp(error->code, "LUO_PROTOCOL") == 0 || strcmp(error->code, "LUO_DEADLINE") == 0 ||
         strcmp(error->code, "ENOMEM") == 0;
}

/* A connection that is lost is made again, and the request repeated: luod answers one that it knows as before. */
static int exchange(luo_connection *connection, const text *request, const int *fds, size_t fd_count,
                    luo_reply **reply, luo_error *error) {
  int64_t deadline = connection->timeout_ms > 0 ? now_ms() + connection->timeout_ms : 0;
  int64_t lost_at = 0, began_at = now_ms();
  luo_reply *answer = NULL;
  luo_error why;
  *reply = NULL;
  if (!connection->usable) return fail(error, "LUO_GONE", "the connection to luod has ended before");
  for (int attempt = 0; exchange_once(connection, request, fds, fd_count, deadline, &answer, &why) != 0; attempt++) {
    int64_t delay = retry_ms(attempt), now = now_ms();
    struct timespec pause = {0, (long)delay * 1000000};
    bool lost = strcmp(why.code, "LUO_GONE") == 0 || (lost_at != 0 && !is_final(&why));
    if (!lost) {
      connection_end(connection);
      return fail(error, why.code, "%s", why.message);
    }
    connection_drop(connection);
    if (lost_at == 0 || now - began_at > STABLE_MS) {
      lost_at = now;
      attempt = 0;
    }
    if (now - lost_at >= connection->reconnect_ms || (deadline != 0 && now >= deadline)) {
      connection_end(connection);
      return fail(error, "LUO_GONE", "the connection to luod has ended, and nobody answers");
    }
    nanosleep(&pause, NULL);
    began_at = now_ms();
  }
  if (answer->error) {
    refused(answer, error);
    luo_reply_free(answer);
    return -1;
  }
  *reply = answer;
  return 0;
}

static int request(luo_connection *connection, const char *method, const char *parameters, const int *fds,
                   size_t fd_count, bool more, luo_reply **reply, luo_error *error) {
  text message = {NULL, 0, 0, NULL};
  const char *rest;
  int result;
  *reply = NULL;
  if (fd_count > LUO_MAX_FDS) {
    return fail(error, "LUO_INVALID_PARAMETER", "%s: %zu files, and %d go in a message", method, fd_count, LUO_MAX_FDS);
  }
  rest = parameters ? parameters + strspn(parameters, " \t\r\n") : "{}";
  if (*rest != '{') return fail(error, "LUO_INVALID_PARAMETER", "%s: the parameters are no JSON object", method);
  rest++;
  rest += strspn(rest, " \t\r\n");
  add(&message, "{\"method\":\"");
  if (!strchr(method, '.')) add(&message, INTERFACE);
  add(&message, method);
  add(&message, more ? "\",\"more\":true,\"parameters\":{" : "\",\"parameters\":{");
  if (fd_count > 0) {
    add(&message, "\"fds\":");
    add_number(&message, (int64_t)fd_count);
    if (*rest != '}') add(&message, ",");
  }
  add(&message, rest);
  add(&message, "}");
  result = message.code ? text_error(&message, error) : exchange(connection, &message, fds, fd_count, reply, error);
  free(message.bytes);
  return result;
}

int luo_call(luo_connection *connection, const char *method, const char *parameters, const int *fds, size_t fd_count,
             luo_reply **reply, luo_error *error) {
  return request(connection, method, parameters, fds, fd_count, false, reply, error);
}

/* A request with what was written, which is freed. */
static int call_text(luo_connection *connection, const char *method, text *parameters, const int *fds, size_t fd_count,
                     luo_reply **reply, luo_error *error) {
  int result = parameters->code ? text_error(parameters, error)
                                : luo_call(connection, method, parameters->bytes, fds, fd_count, reply, error);
  free(parameters->bytes);
  parameters->bytes = NULL;
  return result;
}

/* The same for answers that say nothing. */
static int call_only(luo_connection *connection, const char *method, text *parameters, const int *fds, size_t fd_count,
                     luo_error *error) {
  luo_reply *reply;
  int result = call_text(connection, method, parameters, fds, fd_count, &reply, error);
  luo_reply_free(reply);
  return result;
}

/* The beginning of a request that changes something. */
static text with_id(void) {
  text begun = {NULL, 0, 0, NULL};
  char id[LUO_ID_SIZE];
  if (luo_new_id(id, NULL) != 0) begun.code = "EIO";
  else add_member(&begun, "{\"id\":", id);
  return begun;
}

/* Writes ,"files":[...] and answers the descriptors, to be freed. */
static int *add_items(text *to, const luo_item *items, size_t count) {
  int *fds = malloc((count + 1) * sizeof *fds);
  if (!fds) {
    to->code = "ENOMEM";
    return NULL;
  }
  add(to, ",\"files\":[");
  for (size_t at = 0; at < count; at++) {
    fds[at] = items[at].fd;
    add(to, at > 0 ? ",{\"token\":" : "{\"token\":");
    add_token(to, items[at].token);
    add(to, ",\"fd\":");
    add_number(to, (int64_t)at);
    if (items[at].format) add_member(to, ",\"format\":", items[at].format);
    if (items[at].until_update) add(to, ",\"until\":\"update\"");
    add(to, "}");
  }
  add(to, "]");
  return fds;
}

static int too_many(size_t count, const char *what, luo_error *error) {
  return fail(error, "LUO_INVALID_PARAMETER", "%s: %zu files, and %d go in a message", what, count, LUO_MAX_FDS);
}

/* --- sessions -------------------------------------------------------------------------------------------------- */

struct luo_session {
  luo_connection *connection;
  int fd;
  char *id;
};

static luo_session *new_session(luo_connection *connection, const char *id, luo_error *error) {
  luo_session *session = id ? calloc(1, sizeof *session) : NULL;
  if (!id) {
    broken(error, "a session in it has no id");
    return NULL;
  }
  if (session) session->id = strdup(id);
  if (!session || !session->id) {
    free(session);
    no_memory(error);
    return NULL;
  }
  session->connection = connection;
  session->fd = NO_FILE;
  return session;
}

/* From an answer with a session and, at `member`, its descriptor. */
static luo_session *session_of(luo_connection *connection, luo_reply *reply, const char *id, luo_error *error) {
  luo_session *session = new_session(connection, id, error);
  if (!session) return NULL;
  session->fd = luo_reply_take(reply, luo_json_integer(luo_json_get(reply->parameters, "session_fd"), -1));
  if (session->fd >= 0) return session;
  luo_session_free(session);
  broken(error, "the descriptor of a session is not there");
  return NULL;
}

static luo_session *open_session(luo_connection *connection, const char *method, text *parameters, luo_error *error) {
  luo_reply *reply;
  luo_session *session = NULL;
  if (call_text(connection, method, parameters, NULL, 0, &reply, error) == 0) {
    const luo_json *described = luo_json_get(reply->parameters, "session");
    session = session_of(connection, reply, luo_json_string(luo_json_get(described, "session")), error);
  }
  luo_reply_free(reply);
  return session;
}

static const char *member_of(const luo_workload *workload);

luo_session *luo_session_create(luo_connection *connection, const char *name, int64_t keep_ms,
                                const luo_workload *workload, luo_error *error) {
  text parameters = with_id();
  add_member(&parameters, ",\"name\":", name);
  if (workload) add_member(&parameters, ",\"member\":", member_of(workload));
  add(&parameters, ",\"keep_ms\":");
  add_number(&parameters, keep_ms);
  add(&parameters, "}");
  return open_session(connection, "CreateSession", &parameters, error);
}

luo_session *luo_session_adopt(luo_connection *connection, const char *name, const luo_workload *workload,
                               luo_error *error) {
  text parameters = with_id();
  add_member(&parameters, ",\"name\":", name);
  if (workload) add_member(&parameters, ",\"member\":", member_of(workload));
  add(&parameters, "}");
  return open_session(connection, "AdoptSession", &parameters, error);
}

luo_session *luo_session_adopt_fd(luo_connection *connection, int fd, luo_error *error) {
  text parameters = with_id();
  luo_reply *reply;
  luo_session *session = NULL;
  add(&parameters, "}");
  if (call_text(connection, "AdoptSession", &parameters, &fd, 1, &reply, error) == 0) {
    const luo_json *described = luo_json_get(reply->parameters, "session");
    session = new_session(connection, luo_json_string(luo_json_get(described, "session")), error);
  }
  luo_reply_free(reply);
  if (session) session->fd = fd;
  return session;
}

void luo_session_free(luo_session *session) {
  if (!session) return;
  close_fd(&session->fd);
  free(session->id);
  free(session);
}

int luo_session_fd(const luo_session *session) { return session->fd; }
const char *luo_session_id(const luo_session *session) { return session->id; }

int luo_preserve(luo_session *session, const luo_item *items, size_t count, luo_error *error) {
  text parameters;
  int *fds, result;
  if (count > LUO_MAX_FDS) return too_many(count, "preserve", error);
  parameters = with_id();
  add_member(&parameters, ",\"session\":", session->id);
  fds = add_items(&parameters, items, count);
  /* Without files none are declared, and luod wants to know how many. */
  add(&parameters, count == 0 ? ",\"fds\":0}" : "}");
  result = call_only(session->connection, "Preserve", &parameters, fds, count, error);
  free(fds);
  return result;
}

static void add_tokens(text *to, const uint64_t *tokens, size_t count) {
  add(to, ",\"tokens\":[");
  for (size_t at = 0; at < count; at++) {
    if (at > 0) add(to, ",");
    add_token(to, tokens[at]);
  }
  add(to, "]}");
}

int luo_unpreserve(luo_session *session, const uint64_t *tokens, size_t count, luo_error *error) {
  text parameters = with_id();
  add_member(&parameters, ",\"session\":", session->id);
  add_tokens(&parameters, tokens, count);
  return call_only(session->connection, "Unpreserve", &parameters, NULL, 0, error);
}

int luo_retrieve(luo_session *session, uint64_t token, luo_error *error) {
  text parameters = {NULL, 0, 0, NULL};
  luo_reply *reply;
  int fd = NO_FILE;
  add_member(&parameters, "{\"session\":", session->id);
  add_tokens(&parameters, &token, 1);
  if (call_text(session->connection, "Retrieve", &parameters, NULL, 0, &reply, error) == 0) {
    const luo_json *file = luo_json_first(luo_json_get(reply->parameters, "files"));
    fd = luo_reply_take(reply, luo_json_integer(luo_json_get(file, "fd"), -1));
    if (fd < 0) broken(error, "the file that was asked for is not there");
  }
  luo_reply_free(reply);
  return fd;
}

/* --- lists of files -------------------------------------------------------------------------------------------- */

void luo_files_free(luo_files *files) {
  if (!files) return;
  for (size_t at = 0; at < files->count; at++) close_fd(&files->file[at].fd);
  free(files->file);
  free(files->session);
  free(files);
}

int luo_files_take(luo_files *files, uint64_t token) {
  for (size_t at = 0; at < files->count; at++) {
    if (files->file[at].token == token && files->file[at].fd >= 0) {
      int fd = files->file[at].fd;
      files->file[at].fd = NO_FILE;
      return fd;
    }
  }
  return NO_FILE;
}

/* Cut to nothing when it is too long: names of kinds and formats never are. */
static void copy_text(char *to, size_t room, const luo_json *from) {
  const char *string = luo_json_string(from);
  snprintf(to, room, "%s", string && strlen(string) < room ? string : "");
}

static int same(const char *a, const char *b) { return a && b && strcmp(a, b) == 0; }

/* Adds what an answer describes; its files too, in the same order, if it has them. */
static int add_files(luo_files *to, luo_reply *reply, luo_error *error) {
  const luo_json *list = luo_json_get(reply->parameters, "files");
  size_t count = luo_json_count(list);
  luo_file *grown;
  int64_t index = 0;
  if (to->count + count > MAX_FILES) return broken(error, "a list of files has no end");
  grown = realloc(to->file, (to->count + count + 1) * sizeof *grown);
  if (!grown) return no_memory(error);
  to->file = grown;
  for (const luo_json *from = luo_json_first(list); from; from = from->next) {
    luo_file *file = &to->file[to->count];
    if (luo_json_u64(luo_json_get(from, "token"), &file->token) != 0) return broken(error, "a file in it has no token");
    copy_text(file->kind, sizeof file->kind, luo_json_get(from, "kind"));
    copy_text(file->format, sizeof file->format, luo_json_get(from, "format"));
    file->until_update = same(luo_json_string(luo_json_get(from, "until")), "update");
    file->fd = luo_reply_take(reply, index++);
    to->count++;
  }
  return 0;
}

static int add_sessions(luo_files *to, luo_reply *reply, const char *own, luo_error *error) {
  const luo_json *list = luo_json_get(reply->parameters, "sessions");
  to->session = calloc(luo_json_count(list) + 1, sizeof *to->session);
  if (!to->session) return no_memory(error);
  for (const luo_json *from = luo_json_first(list); from; from = from->next) {
    const char *id = luo_json_string(luo_json_get(from, "session"));
    const char *name = luo_json_string(luo_json_get(from, "name"));
    if (!id || !name || strlen(name) > LUO_MAX_NAME) return broken(error, "a session in it has no id or name");
    if (strcmp(id, own) != 0) strcpy(to->session[to->session_count++], name);
  }
  return 0;
}

/* The files from where `files` ends. */
static int list_rest(luo_session *session, luo_files *files, luo_error *error) {
  int64_t total;
  do {
    text parameters = {NULL, 0, 0, NULL};
    luo_reply *reply;
    size_t before = files->count;
    int result;
    add_member(&parameters, "{\"session\":", session->id);
    add(&parameters, ",\"offset\":");
    add_number(&parameters, (int64_t)files->count);
    add(&parameters, "}");
    if (call_text(session->connection, "Files", &parameters, NULL, 0, &reply, error) != 0) return -1;
    result = add_files(files, reply, error);
    total = luo_json_integer(luo_json_get(reply->parameters, "total"), -1);
    luo_reply_free(reply);
    if (result != 0) return -1;
    /* Somebody may have taken files out meanwhile. */
    if (files->count == before) return 0;
  } while ((int64_t)files->count < total);
  return 0;
}

int luo_session_files(luo_session *session, luo_files **files, luo_error *error) {
  luo_files *made = calloc(1, sizeof *made);
  *files = NULL;
  if (!made) return no_memory(error);
  if (list_rest(session, made, error) != 0) {
    luo_files_free(made);
    return -1;
  }
  *files = made;
  return 0;
}

/* --- the workload ---------------------------------------------------------------------------------------------- */

struct luo_workload {
  luo_connection *control, *events;
  luo_session *session;
  luo_origin origin;
  char *member;
  char *update;  /* the one that asked to prepare */
  char *refused; /* the one that this version went on in because luod was away */
  bool asked;    /* to prepare, and nothing was heard of the end of that */
  bool released; /* told to touch nothing any more */
  bool crossing; /* the update is a kexec that luod may have the word for */
  luo_purpose purpose;
  int64_t kexec_wait_ms;
  int64_t prepared_at;
  int poll_fd, timer_fd; /* what is polled stays the same, whatever becomes of the connection */
  int64_t lost_at;       /* 0: luod is there */
  int attempt;
};

static const char *member_of(const luo_workload *workload) { return workload->member; }

luo_origin luo_workload_origin(const luo_workload *workload) { return workload->origin; }
luo_session *luo_workload_session(luo_workload *workload) { return workload->session; }
luo_connection *luo_workload_connection(luo_workload *workload) { return workload->control; }
int luo_workload_fd(const luo_workload *workload) { return workload->poll_fd; }

void luo_workload_free(luo_workload *workload) {
  if (!workload) return;
  luo_session_free(workload->session);
  luo_connection_free(workload->control);
  luo_connection_free(workload->events);
  close_fd(&workload->poll_fd);
  close_fd(&workload->timer_fd);
  free(workload->member);
  free(workload->update);
  free(workload->refused);
  free(workload);
}

/* It is for this process alone: a child that joins is another member. NO_FILE when there is none. */
static int take_ticket(int *ticket, luo_error *error) {
  const char *given = getenv("LUO_TICKET");
  char *end = NULL;
  long number;
  *ticket = NO_FILE;
  if (!given) return 0;
  errno = 0;
  number = strtol(given, &end, 10);
  if (errno != 0 || end == given || *end || number < 0 || number > INT_MAX ||
      fcntl((int)number, F_SETFD, FD_CLOEXEC) != 0) {
    return fail(error, "LUO_TICKET", "take the ticket from descriptor %.32s: it is not open", given);
  }
  unsetenv("LUO_TICKET");
  *ticket = (int)number;
  return 0;
}

static int join(luo_workload *made, const char *name, const luo_options *options, luo_error *error) {
  static const struct {
    const char *name;
    luo_origin origin;
  } ORIGINS[] = {{"new", LUO_NEW}, {"update", LUO_UPDATE}, {"crash", LUO_CRASH}};
  text parameters = with_id();
  const char *origin, *member, *session;
  luo_reply *reply;
  size_t at = 0;
  int ticket, result;
  add_member(&parameters, ",\"workload\":", name);
  add(&parameters, ",\"accepts\":[");
  if (!options->accepts) add(&parameters, "\"*\"");
  for (; options->accepts && at < options->accepts_count; at++) {
    if (at > 0) add(&parameters, ",");
    add_string(&parameters, options->accepts[at]);
  }
  add(&parameters, "]");
  if (options->keep_ms > 0) {
    add(&parameters, ",\"keep_ms\":");
    add_number(&parameters, options->keep_ms);
  }
  add(&parameters, "}");
  if (take_ticket(&ticket, error) != 0) {
    free(parameters.bytes);
    return -1;
  }
  result = call_text(made->control, "Join", &parameters, &ticket, ticket < 0 ? 0 : 1, &reply, error);
  close_fd(&ticket);
  if (result != 0) return -1;
  origin = luo_json_string(luo_json_get(reply->parameters, "origin"));
  member = luo_json_string(luo_json_get(reply->parameters, "member"));
  session = luo_json_string(luo_json_get(reply->parameters, "session"));
  for (at = 0; at < 3 && origin && strcmp(origin, ORIGINS[at].name) != 0; at++) continue;
  if (!origin || at == 3 || !member) {
    result = broken(error, "it is no answer to a join");
  } else {
    made->origin = ORIGINS[at].origin;
    made->member = strdup(member);
    made->session = session_of(made->control, reply, session, error);
    if (!made->member) result = no_memory(error);
    if (!made->session) result = -1;
  }
  luo_reply_free(reply);
  return result;
}

static int subscribe(luo_workload *made, luo_error *error) {
  text parameters = {NULL, 0, 0, NULL};
  luo_reply *reply = NULL;
  int result;
  add_member(&parameters, "{\"member\":", made->member);
  add(&parameters, "}");
  result = parameters.code ? text_error(&parameters, error)
                           : request(made->events, "Subscribe", parameters.bytes, NULL, 0, true, &reply, error);
  free(parameters.bytes);
  if (result == 0 && !reply->continues) result = broken(error, "there are no events");
  luo_reply_free(reply);
  return result;
}

static int watch(const luo_workload *workload, int fd) {
  struct epoll_event event;
  memset(&event, 0, sizeof event);
  event.events = EPOLLIN;
  return epoll_ctl(workload->poll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void wake_in(const luo_workload *workload, long ns) {
  struct itimerspec in;
  memset(&in, 0, sizeof in);
  in.it_value.tv_nsec = ns;
  timerfd_settime(workload->timer_fd, 0, &in, NULL);
}

/* Whether it woke the program, which is told so no more. */
static bool woken(const luo_workload *workload) {
  uint64_t expired;
  return read(workload->timer_fd, &expired, sizeof expired) == (ssize_t)sizeof expired;
}

/* To be polled by the program: the events, and the time for another attempt to reach luod. */
static int begin_polling(luo_workload *made, luo_error *error) {
  made->poll_fd = epoll_create1(EPOLL_CLOEXEC);
  made->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (made->poll_fd >= 0 && made->timer_fd >= 0 && watch(made, made->timer_fd) == 0 &&
      watch(made, made->events->fd) == 0) {
    /* What came with the subscription has been read: its connection wakes nobody. */
    if (made->events->length > 0) wake_in(made, 1);
    return 0;
  }
  return fail_errno(error, "watch for events");
}

int luo_join(luo_workload **workload, const luo_options *options, luo_error *error) {
  static const luo_options DEFAULTS = {NULL, NULL, NULL, 0, 0, 0, 0, 0};
  const luo_options *given = options ? options : &DEFAULTS;
  int64_t reconnect_ms = given->reconnect_ms == 0 ? RECONNECT_MS : given->reconnect_ms < 0 ? 0 : given->reconnect_ms;
  const char *name = given->workload ? given->workload : getenv("LUO_WORKLOAD");
  luo_workload *made;
  *workload = NULL;
  if (!name || !*name) return 1;
  made = calloc(1, sizeof *made);
  if (!made) return no_memory(error);
  made->poll_fd = made->timer_fd = NO_FILE;
  made->kexec_wait_ms = given->kexec_wait_ms > 0 ? given->kexec_wait_ms : KEXEC_WAIT_MS;
  made->control = connection_to(given->socket, given->timeout_ms, reconnect_ms, error);
  if (made->control && join(made, name, given, error) == 0 &&
      (made->events = connection_to(given->socket, given->timeout_ms, reconnect_ms, error))) {
    if (subscribe(made, error) == 0 && begin_polling(made, error) == 0) {
      *workload = made;
      return 0;
    }
  }
  luo_workload_free(made);
  return -1;
}

static void resumed(luo_workload *workload, luo_event *event, const char *reason) {
  workload->asked = false;
  event->kind = LUO_RESUME;
  snprintf(event->reason, sizeof event->reason, "%s", reason);
}

/* luod is back: what it does not ask any more has ended. */
static int subscribed_again(luo_workload *workload, const char *update, luo_event *event, luo_error *error) {
  workload->lost_at = 0;
  if (same(workload->refused, update)) {
    text parameters = with_id();
    add_member(&parameters, ",\"member\":", workload->member);
    add_member(&parameters, ",\"update\":", update);
    add_member(&parameters, ",\"reason\":", "luod was away for too long, and this version went on");
    add(&parameters, "}");
    if (call_only(workload->control, "Refuse", &parameters, NULL, 0, error) == 0) return 0;
    return strcmp(error->code, "LUO_WRONG_STATE") == 0 ? 0 : -1;
  }
  if (workload->asked && !workload->released && !same(workload->update, update)) {
    resumed(workload, event, "the update ended while luod was away");
  }
  return 0;
}

/* What has been said before is no event. */
static int read_event(luo_workload *workload, const luo_reply *reply, luo_event *event, luo_error *error) {
  const luo_json *parameters = reply->parameters;
  const char *name = luo_json_string(luo_json_get(parameters, "event"));
  const char *reason = luo_json_string(luo_json_get(parameters, "reason"));
  const char *update = luo_json_string(luo_json_get(parameters, "update"));
  /* It does not know this member any more, and of no kexec either. */
  if (reply->error) workload->crossing = false;
  if (reply->error && workload->lost_at != 0) return fail(error, "LUO_GONE", "luod answered %s", reply->error);
  if (reply->error || !name) return broken(error, "it is no event");
  if (strcmp(name, "subscribed") == 0) return subscribed_again(workload, update, event, error);
  snprintf(event->reason, sizeof event->reason, "%s", reason ? reason : "");
  event->deadline_ms = luo_json_integer(luo_json_get(parameters, "deadline_ms"), 0);
  if (same(luo_json_string(luo_json_get(parameters, "purpose")), "kexec")) event->purpose = LUO_FOR_KEXEC;
  if (strcmp(name, "prepare") == 0) {
    char *id = update ? strdup(update) : NULL;
    if (!update) return broken(error, "an update in it has no id");
    if (!id) return no_memory(error);
    if (same(update, workload->refused) || (workload->asked && same(update, workload->update))) {
      free(id);
      return 0;
    }
    free(workload->update);
    workload->update = id;
    workload->asked = true;
    workload->released = workload->crossing = false;
    workload->purpose = event->purpose;
    workload->prepared_at = now_ms();
    event->kind = LUO_PREPARE;
  } else if (strcmp(name, "resume") == 0 && (workload->asked || !workload->update)) {
    workload->asked = false;
    event->kind = LUO_RESUME;
  } else if (strcmp(name, "release") == 0 && !workload->released &&
             (workload->asked || !workload->update)) {
    workload->released = true;
    event->kind = LUO_RELEASE;
  }
  /* Events that are not known yet are none. */
  return 0;
}

static void wake_later(luo_workload *workload) {
  wake_in(workload, (long)retry_ms(workload->attempt++) * 1000000);
}

static void events_lost(luo_workload *workload) {
  connection_drop(workload->events);
  if (workload->lost_at == 0) {
    workload->lost_at = now_ms();
    workload->attempt = 0;
  }
  wake_later(workload);
}

/* Whether luod is there again, and was asked for events. Waits for nothing. */
static bool try_again(luo_workload *workload) {
  luo_connection *events = workload->events;
  text message = {NULL, 0, 0, NULL};
  bool sent;
  if (!woken(workload)) return false;
  add(&message, "{\"method\":\"" INTERFACE "Subscribe\",\"more\":true,\"parameters\":");
  add_member(&message, "{\"member\":", workload->member);
  add(&message, "}}");
  sent = !message.code && connection_make(events, NULL) == 0 &&
         send_all(events, message.bytes, message.length + 1, NULL, 0, 0, NULL) == 0 && watch(workload, events->fd) == 0;
  free(message.bytes);
  if (sent) return true;
  connection_drop(events);
  wake_later(workload);
  return false;
}

static void events_end(luo_workload *workload, luo_event *event) {
  connection_end(workload->events);
  close_fd(&workload->poll_fd);
  close_fd(&workload->timer_fd);
  event->kind = LUO_LOST;
}

/* Without the word for it luod lets nobody else begin, and is told when it is back. */
static int while_away(luo_workload *workload, luo_event *event, luo_error *error) {
  int64_t away = now_ms() - workload->lost_at, reconnect_ms = workload->events->reconnect_ms;
  bool crossing = workload->asked && workload->crossing;
  if (workload->asked && !workload->released && away >= (crossing ? workload->kexec_wait_ms : reconnect_ms / 2)) {
    char *refused = strdup(workload->update);
    if (!refused) return no_memory(error);
    free(workload->refused);
    workload->refused = refused;
    resumed(workload, event, "luod was away for too long");
  } else if (away >= reconnect_ms && !crossing) {
    events_end(workload, event);
  }
  return 0;
}

int luo_dispatch(luo_workload *workload, luo_event *event, luo_error *error) {
  luo_connection *events = workload->events;
  luo_error why;
  memset(event, 0, sizeof *event);
  if (events->fd >= 0) woken(workload);
  for (int unknown = 0; workload->poll_fd >= 0;) {
    luo_reply *reply;
    int found;
    if (events->fd < 0 && !try_again(workload)) return while_away(workload, event, error);
    found = next_message(events, &reply, &why);
    if (found == 0) {
      found = receive_some(events, &why);
      if (found == 0) return 0;
      if (found > 0) continue;
    } else if (found > 0) {
      found = read_event(workload, reply, event, &why);
      luo_reply_free(reply);
      if (found == 0 && event->kind == LUO_NONE) {
        if (++unknown <= MAX_UNKNOWN_EVENTS) continue;
        found = broken(&why, "there are events without end that mean nothing");
      }
    }
    if (found >= 0) return 0;
    if (strcmp(why.code, "LUO_GONE") == 0 && events->reconnect_ms > 0) {
      events_lost(workload);
      continue;
    }
    events_end(workload, event);
    if (strcmp(why.code, "LUO_GONE") == 0) return 0;
    event->kind = LUO_NONE;
    return fail(error, why.code, "%s", why.message);
  }
  return 0;
}

static text about_update(const luo_workload *workload) {
  text parameters = with_id();
  add_member(&parameters, ",\"member\":", workload->member);
  add_member(&parameters, ",\"update\":", workload->update);
  return parameters;
}

static int not_asked(const luo_workload *workload, const char *what, luo_error *error) {
  return workload->update ? 0 : fail(error, "LUO_WRONG_STATE", "%s: no update has asked for it", what);
}

/* Requests were held back since the event was taken. */
static void add_held(text *to, const luo_workload *workload) {
  add(to, ",\"held_ms\":");
  add_number(to, now_ms() - workload->prepared_at);
  add(to, "}");
}

int luo_ready(luo_workload *workload, const luo_item *items, size_t count, luo_error *error) {
  text parameters;
  int *fds, result;
  if (not_asked(workload, "ready", error) != 0) return -1;
  if (count > LUO_MAX_FDS) return too_many(count, "ready", error);
  workload->crossing = workload->purpose == LUO_FOR_KEXEC;
  parameters = about_update(workload);
  fds = add_items(&parameters, items, count);
  add_held(&parameters, workload);
  result = call_only(workload->control, "Ready", &parameters, fds, count, error);
  free(fds);
  return result;
}

int luo_refuse(luo_workload *workload, const char *reason, luo_error *error) {
  text parameters;
  if (not_asked(workload, "refuse", error) != 0) return -1;
  parameters = about_update(workload);
  add_member(&parameters, ",\"reason\":", reason);
  add_held(&parameters, workload);
  return call_only(workload->control, "Refuse", &parameters, NULL, 0, error);
}

int luo_released(luo_workload *workload, luo_error *error) {
  text parameters;
  if (not_asked(workload, "released", error) != 0) return -1;
  parameters = about_update(workload);
  add(&parameters, "}");
  return call_only(workload->control, "Released", &parameters, NULL, 0, error);
}

int luo_claim(luo_workload *workload, luo_files **files, luo_error *error) {
  text parameters = with_id();
  luo_files *made = NULL;
  luo_reply *reply;
  int64_t total;
  int result;
  *files = NULL;
  add_member(&parameters, ",\"member\":", workload->member);
  add(&parameters, "}");
  if (call_text(workload->control, "Claim", &parameters, NULL, 0, &reply, error) != 0) return -1;
  made = calloc(1, sizeof *made);
  result = made ? add_files(made, reply, error) : no_memory(error);
  if (result == 0) result = add_sessions(made, reply, workload->session->id, error);
  total = luo_json_integer(luo_json_get(reply->parameters, "total"), 0);
  luo_reply_free(reply);
  if (result == 0 && (uint64_t)total > made->count) result = list_rest(workload->session, made, error);
  if (result != 0) {
    luo_files_free(made);
    return -1;
  }
  *files = made;
  return 0;
}

int luo_commit(luo_workload *workload, luo_error *error) {
  text parameters = with_id();
  add_member(&parameters, ",\"member\":", workload->member);
  add(&parameters, "}");
  return call_only(workload->control, "Commit", &parameters, NULL, 0, error);
}
