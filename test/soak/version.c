/*
 * A version of a workload that does what the soak test says, one line at a time on its standard input. If it is asked
 * to, it stops at one point of its life until the test lets it go on or ends it.
 *
 *     version [WHEN CALL]          when: before, after; call: Join, Claim, Commit, Ready, Released
 *     version kinds                all kinds of files, and whether this machine has them
 *
 * It says "at WHEN CALL", "running ORIGIN", "resumed", "died WHY", and an answer to each line. It keeps no file
 * open: only luod has them. It ends with its standard input.
 */
#define _GNU_SOURCE
#include "../../clients/c/liveupdate.h"
#include "kinds.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_SESSIONS 16
#define LINE 256
/* A connection that is with luod only while an update is under way. */
#define CONNECTION UINT64_MAX

static const char *stop_when = "", *stop_call = "";
static int refuses;
static luo_workload *workload;
static luo_error error;
/* The first is the workload's own. */
static struct {
  char name[LUO_MAX_NAME + 1];
  luo_session *session;
} sessions[MAX_SESSIONS];
static size_t session_count;

static void say(const char *text) {
  printf("%s\n", text);
  fflush(stdout);
}

static int say_error(void) {
  printf("error %s %s\n", error.code, error.message);
  fflush(stdout);
  return -1;
}

/* The test reads it if it did not expect that. */
static void die(const char *what) {
  printf("died %s: %s (%s)\n", what, error.message, error.code);
  exit(1);
}

/* Reads by itself: what stdio has read ahead, poll does not know. */
static int read_line(char line[LINE]) {
  size_t length = 0;
  while (length + 1 < LINE && read(0, line + length, 1) == 1) {
    if (line[length] == '\n') {
      line[length] = 0;
      return 0;
    }
    length++;
  }
  return -1;
}

static void point(const char *when, const char *call) {
  char line[LINE];
  if (strcmp(when, stop_when) != 0 || strcmp(call, stop_call) != 0) return;
  stop_when = "";
  printf("at %s %s\n", when, call);
  fflush(stdout);
  if (read_line(line) != 0) exit(0);
}

static void add_session(const char *name, luo_session *session) {
  if (session_count == MAX_SESSIONS) exit(1);
  snprintf(sessions[session_count].name, sizeof sessions[session_count].name, "%s", name);
  sessions[session_count++].session = session;
}

static size_t find(const char *name) {
  for (size_t at = 0; at < session_count; at++) {
    if (strcmp(sessions[at].name, name) == 0) return at;
  }
  fprintf(stderr, "version: no session %s\n", name);
  exit(1);
}

static const soak_kind *kind_of(const char *name) {
  for (int at = 0; at < SOAK_KIND_COUNT; at++) {
    if (strcmp(SOAK_KINDS[at].name, name) == 0) return &SOAK_KINDS[at];
  }
  return NULL;
}

/* --- what the test asks for -------------------------------------------------------------------------------------- */

static void make(luo_session *session, uint64_t token, const soak_kind *kind, long value) {
  luo_item item = {.token = token, .fd = kind->make(value), .format = "soak/1"};
  long made = item.fd < 0 ? NO_VALUE : kind->get(item.fd);
  if (made == NO_VALUE) printf("error LUO_UNSUPPORTED cannot make %s\n", kind->name);
  else if (luo_preserve(session, &item, 1, &error) != 0) say_error();
  else printf("made %ld\n", made);
  if (item.fd >= 0) close(item.fd);
  fflush(stdout);
}

static void set(luo_session *session, uint64_t token, const soak_kind *kind, long value) {
  int fd = luo_retrieve(session, token, &error);
  if (fd < 0) {
    say_error();
    return;
  }
  if (!kind->set) say("made -2");
  else if (kind->set(fd, value) != 0) say("error EIO cannot set");
  else {
    printf("made %ld\n", kind->get(fd));
    fflush(stdout);
  }
  close(fd);
}

static int report_session(const char *name, luo_session *session) {
  luo_files *files;
  if (luo_session_files(session, &files, &error) != 0) return say_error();
  printf("session %s\n", name);
  for (size_t at = 0; at < files->count; at++) {
    const luo_file *file = &files->file[at];
    const soak_kind *kind = kind_of(file->kind);
    int fd = luo_retrieve(session, file->token, &error);
    if (fd < 0) {
      luo_files_free(files);
      return say_error();
    }
    printf("file %" PRIu64 " %s %ld\n", file->token, file->kind, kind ? kind->get(fd) : NO_VALUE);
    close(fd);
  }
  luo_files_free(files);
  return 0;
}

static void report(void) {
  for (size_t at = 0; at < session_count; at++) {
    if (report_session(sessions[at].name, sessions[at].session) != 0) return;
  }
  say("end");
}

static void create(const char *name) {
  luo_session *made = luo_session_create(luo_workload_connection(workload), name, 0, workload, &error);
  if (!made) {
    say_error();
    return;
  }
  add_session(name, made);
  say("made 0");
}

static void close_session(const char *name) {
  size_t at = find(name);
  luo_session_free(sessions[at].session);
  sessions[at] = sessions[--session_count];
  say("made 0");
}

static void leave(void) {
  for (size_t at = 1; at < session_count; at++) luo_session_free(sessions[at].session);
  luo_workload_free(workload);
  exit(0);
}

static void obey(void) {
  char line[LINE], verb[16] = "", name[LUO_MAX_NAME + 1] = "", kind[32] = "";
  uint64_t token = 0;
  long value = 0;
  if (read_line(line) != 0) leave();
  sscanf(line, "%15s %63s %" SCNu64 " %31s %ld", verb, name, &token, kind, &value);
  if (strcmp(verb, "make") == 0) make(sessions[find(name)].session, token, kind_of(kind), value);
  else if (strcmp(verb, "set") == 0) set(sessions[find(name)].session, token, kind_of(kind), value);
  else if (strcmp(verb, "drop") == 0) {
    if (luo_unpreserve(sessions[find(name)].session, &token, 1, &error) != 0) say_error();
    else say("made 0");
  } else if (strcmp(verb, "session") == 0) create(name);
  else if (strcmp(verb, "close") == 0) close_session(name);
  else if (strcmp(verb, "report") == 0) report();
  else if (strcmp(verb, "refuse") == 0) {
    refuses = 1;
    say("made 0");
  } else if (strcmp(verb, "stop") == 0) {
    static char when[16], call[16];
    sscanf(line, "stop %15s %15s", when, call);
    stop_when = when;
    stop_call = call;
    say("made 0");
  } else if (strcmp(verb, "leave") == 0) leave();
  else exit(2);
}

/* --- updates ----------------------------------------------------------------------------------------------------- */

/* luod holds it no longer, if it did: that an update may have ended before is no error. */
static void take_back_connection(void) {
  uint64_t token = CONNECTION;
  if (luo_unpreserve(sessions[0].session, &token, 1, &error) != 0 && strcmp(error.code, "ENOENT") != 0) {
    die("take the connection back");
  }
}

static void ready(void) {
  int pair[2];
  luo_item item = {.token = CONNECTION, .fd = -1};
  if (refuses) {
    refuses = 0;
    if (luo_refuse(workload, "the test says so", &error) != 0) die("refuse");
    return;
  }
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) exit(1);
  item.fd = pair[0];
  point("before", "Ready");
  /* Too late is no error: the test knows. */
  if (luo_ready(workload, &item, 1, &error) != 0 && strcmp(error.code, "LUO_WRONG_STATE") != 0) die("ready");
  close(pair[0]);
  close(pair[1]);
  point("after", "Ready");
}

/* Answers whether there was one. */
static int handle_event(void) {
  luo_event event;
  if (luo_dispatch(workload, &event, &error) != 0) die("events");
  switch (event.kind) {
  case LUO_PREPARE:
    ready();
    break;
  case LUO_RESUME:
    take_back_connection();
    say("resumed");
    break;
  case LUO_RELEASE:
    point("before", "Released");
    if (luo_released(workload, &error) != 0) die("released");
    point("after", "Released");
    leave();
    break;
  case LUO_LOST:
    exit(0);
  case LUO_NONE:
    return 0;
  }
  return 1;
}

static void claim(void) {
  luo_connection *connection = luo_workload_connection(workload);
  luo_files *files;
  point("before", "Claim");
  if (luo_claim(workload, &files, &error) != 0) die("claim");
  point("after", "Claim");
  for (size_t at = 0; at < files->session_count; at++) {
    luo_session *session = luo_session_adopt(connection, files->session[at], workload, &error);
    if (!session) die("adopt a session");
    add_session(files->session[at], session);
  }
  luo_files_free(files);
}

static int list_kinds(void) {
  for (int at = 0; at < SOAK_KIND_COUNT; at++) {
    int fd = SOAK_KINDS[at].make(2);
    printf("%s %s\n", SOAK_KINDS[at].name, fd >= 0 ? "yes" : "no");
    if (fd >= 0) close(fd);
  }
  return 0;
}

int main(int argc, char **argv) {
  static const char *const ORIGINS[] = {"new", "update", "crash"};
  if (argc == 2 && strcmp(argv[1], "kinds") == 0) return list_kinds();
  if (argc == 3) {
    stop_when = argv[1];
    stop_call = argv[2];
  }
  point("before", "Join");
  if (luo_join(&workload, NULL, &error) != 0) die("join");
  point("after", "Join");
  add_session("own", luo_workload_session(workload));
  if (luo_workload_origin(workload) != LUO_NEW) claim();
  point("before", "Commit");
  if (luo_commit(workload, &error) != 0) die("commit");
  point("after", "Commit");
  if (luo_workload_origin(workload) != LUO_NEW) take_back_connection();
  printf("running %s\n", ORIGINS[luo_workload_origin(workload)]);
  fflush(stdout);
  for (;;) {
    struct pollfd polled[] = {{0, POLLIN, 0}, {luo_workload_fd(workload), POLLIN, 0}};
    if (poll(polled, 2, -1) < 0) return 1;
    while (polled[1].revents && handle_event()) continue;
    if (polled[0].revents) obey();
  }
}
