/*
 * liveupdate: a client of luod for programs in C. One header, one file, no library but libc (Linux, C99).
 * SPDX-License-Identifier: Apache-2.0
 *
 * A workload joins, gives luod its files at tokens of its choice, and polls one descriptor for the events of an
 * update. Its successor claims the files and commits. See example-counter.c, and docs/update.md for the whole story.
 *
 * How it fails: functions that answer int answer 0, or -1 and fill in `error`, whose `code` is stable (docs/errors.md).
 * Those that answer a descriptor answer -1, those that answer a pointer NULL. `error` may be NULL.
 *
 * What is whose: strings and arrays that are passed in are copied or not kept. Descriptors that are passed in stay the
 * caller's, but for luo_session_adopt_fd(). Descriptors that come out of luo_retrieve(), luo_files_take() and
 * luo_reply_take() are the caller's, all close-on-exec. Each object is freed with the function that has its name.
 *
 * luod may be replaced, or the connection cut, at any time: the connection is made again for up to reconnect_ms, and
 * what was under way is asked again with its id, so that nothing happens twice. Calls wait meanwhile; luo_dispatch() does
 * not, and tries again when the descriptor that is polled says so. The program itself goes on. A version that an update
 * holds still waits for half of that time, then gets LUO_RESUME; luod hears of it when it is back. One that has said
 * luo_ready() for a kexec waits for kexec_wait_ms: luod may have ended for it, and what would be written then is lost.
 *
 * There is no global state and no thread. An object may be used by one thread at a time. Nothing raises SIGPIPE, and
 * signals interrupt nothing.
 */
#ifndef LIVEUPDATE_H
#define LIVEUPDATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Most files in one message: the kernel's SCM_MAX_FD. */
#define LUO_MAX_FDS 253
/* Most bytes of a message. */
#define LUO_MAX_MESSAGE (1024 * 1024)
/* Most bytes of a format, and of a session's or workload's name. */
#define LUO_MAX_FORMAT 128
#define LUO_MAX_NAME 63

typedef struct luo_error {
  char code[32]; /* "LUO_REFUSED", "ENOENT" ... */
  char message[480];
} luo_error;

typedef struct luo_connection luo_connection;
typedef struct luo_reply luo_reply;
typedef struct luo_json luo_json;
typedef struct luo_workload luo_workload;
typedef struct luo_session luo_session;

/* --- a workload ------------------------------------------------------------------------------------------------ */

typedef struct luo_options {
  const char *workload;       /* NULL: $LUO_WORKLOAD */
  const char *socket;         /* NULL: $LUO_SOCKET, else the place that fits the user */
  const char *const *accepts; /* formats of the state that this version reads; NULL: all */
  size_t accepts_count;
  int64_t keep_ms;    /* how long the state waits after a crash; 0: as luoctl run was told */
  int64_t timeout_ms; /* for each answer of luod; 0: as long as it takes. An update waits for its other side. */
  int64_t reconnect_ms; /* how long luod may be away; 0: 10 seconds, less: not at all */
  int64_t kexec_wait_ms; /* the same for a version that has let go for a kexec; 0: 10 minutes */
} luo_options;

/*
 * Becomes the running version of a workload, its successor ($LUO_TICKET), or the one that goes on after a crash.
 * Answers 0 with *workload; 1 when nothing says that this is a workload: *workload is NULL and the program runs alone;
 * -1 when it is one and that failed, such as LUO_NO_DAEMON: to start empty would be a lie. Takes LUO_TICKET out of the
 * environment. `options` may be NULL.
 */
int luo_join(luo_workload **workload, const luo_options *options, luo_error *error);

/* Leaves: luod lets go of the state, or keeps it for a restart, as it was asked. NULL is fine. */
void luo_workload_free(luo_workload *workload);

/* NEW: preserve, then commit. UPDATE and CRASH: claim, check, then commit, and change nothing before that. */
typedef enum luo_origin { LUO_NEW, LUO_UPDATE, LUO_CRASH } luo_origin;
luo_origin luo_workload_origin(const luo_workload *workload);

/* The workload's own session: there are its files. It is freed with the workload. */
luo_session *luo_workload_session(luo_workload *workload);

/* For other requests. It is freed with the workload. */
luo_connection *luo_workload_connection(luo_workload *workload);

typedef enum luo_event_kind {
  LUO_NONE,
  LUO_PREPARE, /* stop changing the state, then luo_ready() or luo_refuse() before deadline_ms is over */
  LUO_RESUME,  /* go on as before: reason says why the update ended */
  LUO_RELEASE, /* luo_released(), and touch nothing of the state any more */
  LUO_LOST     /* luod is gone for good, and there are no events any more. Go on, unless luo_released() was called. */
} luo_event_kind;

/* What a LUO_PREPARE is for. */
typedef enum luo_purpose {
  LUO_FOR_UPDATE, /* another version takes over */
  LUO_FOR_KEXEC   /* another kernel: connections end, so luo_ready() with none of them; LUO_RELEASE never comes */
} luo_purpose;

typedef struct luo_event {
  luo_event_kind kind;
  int64_t deadline_ms;
  char reason[256]; /* cut to what fits */
  luo_purpose purpose;
} luo_event;

/* To poll for POLLIN; it stays the library's. -1 after LUO_LOST. */
int luo_workload_fd(const luo_workload *workload);

/* The next event, without waiting; kind is LUO_NONE when there is none. Call it until then. */
int luo_dispatch(luo_workload *workload, luo_event *event, luo_error *error);

typedef struct luo_item {
  uint64_t token;
  int fd;
  const char *format; /* the version of the state in it, such as "store/1"; NULL: none */
  bool until_update;  /* for updates only: a kexec leaves it behind; connections that luo_ready() hands over are so */
} luo_item;

/*
 * The old version has let go, and luod holds these files too, LUO_MAX_FDS at most, at tokens that are free: what the
 * version before has handed over at one stays there until luo_unpreserve().
 */
int luo_ready(luo_workload *workload, const luo_item *items, size_t count, luo_error *error);
int luo_refuse(luo_workload *workload, const char *reason, luo_error *error);
int luo_released(luo_workload *workload, luo_error *error);

typedef struct luo_file {
  uint64_t token;
  int fd; /* -1: not here, see luo_retrieve() */
  char kind[32];
  char format[LUO_MAX_FORMAT + 1]; /* "": none */
  bool until_update;               /* of luo_session_files(): a kexec leaves it behind */
} luo_file;

typedef struct luo_files {
  luo_file *file;
  size_t count;
  char (*session)[LUO_MAX_NAME + 1]; /* of luo_claim(): the workload's other sessions, to adopt by name */
  size_t session_count;
} luo_files;

/*
 * Waits until the old version has let go, then answers everything that is in the workload's own session, in the order
 * in which it was preserved. The first LUO_MAX_FDS files are there.
 */
int luo_claim(luo_workload *workload, luo_files **files, luo_error *error);

/* The descriptor of a token, once: -1 when there is none. */
int luo_files_take(luo_files *files, uint64_t token);

/* Closes what was not taken. NULL is fine. */
void luo_files_free(luo_files *files);

/* This version is whole. Answered when the state is its own: only now it may be changed. */
int luo_commit(luo_workload *workload, luo_error *error);

/* --- sessions -------------------------------------------------------------------------------------------------- */

/*
 * A session is a named container of files, and lives as long as somebody has a descriptor of it. With a workload it
 * belongs to it, and updates hand it over. Without, a program needs no more than a connection. The connection must
 * outlive the session.
 */
luo_session *luo_session_create(luo_connection *connection, const char *name, int64_t keep_ms,
                                const luo_workload *workload, luo_error *error);

/* An orphaned session, or with a workload one that an update handed over. */
luo_session *luo_session_adopt(luo_connection *connection, const char *name, const luo_workload *workload,
                               luo_error *error);

/* The session whose descriptor somebody passed on. `fd` belongs to the session if this works, else to the caller. */
luo_session *luo_session_adopt_fd(luo_connection *connection, int fd, luo_error *error);

/* Closes this descriptor of it. NULL is fine. */
void luo_session_free(luo_session *session);

/* To pass on; it stays the session's. */
int luo_session_fd(const luo_session *session);
/* As luod knows it: for luo_call(). */
const char *luo_session_id(const luo_session *session);

/* All or none; LUO_MAX_FDS at most. */
int luo_preserve(luo_session *session, const luo_item *items, size_t count, luo_error *error);
int luo_unpreserve(luo_session *session, const uint64_t *tokens, size_t count, luo_error *error);
int luo_retrieve(luo_session *session, uint64_t token, luo_error *error);
/* What is in it, without descriptors. */
int luo_session_files(luo_session *session, luo_files **files, luo_error *error);

/* --- requests -------------------------------------------------------------------------------------------------- */

/*
 * `socket` as in luo_options. LUO_NO_DAEMON when nobody listens, or takes no connection for 10 seconds and its queue is full;
 * EPERM when it is neither root nor this user.
 */
luo_connection *luo_connect(const char *socket, int64_t timeout_ms, luo_error *error);
void luo_connection_free(luo_connection *connection);
/* How long luod may be away, in milliseconds; 0: not at all. Without this 10 seconds. */
void luo_connection_reconnect(luo_connection *connection, int64_t ms);

/*
 * One request, one answer (docs/protocol.md). `method` without its interface ("List") is luod's. `parameters` is a JSON
 * object, or NULL, without `fds`, which is added. When luod refuses, the connection stays good. When the answer breaks
 * the protocol or is late it does not, and every further call fails with LUO_GONE.
 */
int luo_call(luo_connection *connection, const char *method, const char *parameters, const int *fds, size_t fd_count,
             luo_reply **reply, luo_error *error);
/* An object, or NULL when there are none; it is freed with the reply. */
const luo_json *luo_reply_parameters(const luo_reply *reply);
/* A file that came with it, once: -1 when there is none. */
int luo_reply_take(luo_reply *reply, int64_t index);
/* Closes what was not taken. NULL is fine. */
void luo_reply_free(luo_reply *reply);

/* An id for a request that changes something: 32 hexadecimal digits. */
#define LUO_ID_SIZE 33
int luo_new_id(char id[LUO_ID_SIZE], luo_error *error);
/* `text` as a JSON string, with its quotes; free() it. NULL when it is no UTF-8 or there is no memory. */
char *luo_json_quote(const char *text);

/* All take NULL and values of another type: they answer NULL, 0 or the given default. */
const luo_json *luo_json_get(const luo_json *object, const char *name);
const luo_json *luo_json_at(const luo_json *array, size_t index); /* takes as long as index is large */
size_t luo_json_count(const luo_json *container);
const luo_json *luo_json_first(const luo_json *container);
const luo_json *luo_json_next(const luo_json *member);
const char *luo_json_name(const luo_json *member);
const char *luo_json_string(const luo_json *value);
int64_t luo_json_integer(const luo_json *value, int64_t otherwise);
/* 0, or -1 when it is no u64 as a decimal string. */
int luo_json_u64(const luo_json *value, uint64_t *number);

#ifdef __cplusplus
}
#endif

#endif
