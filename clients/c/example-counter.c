/*
 * A server that counts its visitors, in memory that survives it: each connection adds one and is told the number.
 * SPDX-License-Identifier: Apache-2.0
 *
 *     cc -o counter example-counter.c liveupdate.c
 *     luoctl run counter -- ./counter 8080
 *     luoctl update counter -- ./counter 8080
 *
 * It runs alone, too. There is one rule: the state is changed only between a commit and the next `prepare`.
 */
#define _GNU_SOURCE
#include "liveupdate.h"

#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { COUNTER = 1, LISTENER = 2 }; /* tokens */
#define FORMAT "counter/1"
#define BACKLOG 1024

static void die(const char *what, const luo_error *error) {
  if (error) fprintf(stderr, "counter: %s: %s (%s)\n", what, error->message, error->code);
  else perror(what);
  exit(1);
}

static int listen_at(const char *port) {
  struct sockaddr_in address = {0};
  int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  address.sin_family = AF_INET;
  address.sin_port = htons((unsigned short)atoi(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, BACKLOG) != 0) {
    die("listen", NULL);
  }
  return listener;
}

/* Linux has it since 6.3. A kernel gives back as read-only, after a kexec, what was made not executable. */
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif

static int make_memory(void) {
  int memory = memfd_create("counter", MFD_CLOEXEC | MFD_EXEC);
  if (memory < 0) memory = memfd_create("counter", MFD_CLOEXEC);
  if (memory < 0 || ftruncate(memory, sizeof(unsigned long)) != 0) die("make memory", NULL);
  return memory;
}

/* One connection: the number is counted before it is told. */
static void serve(int listener, unsigned long *counter) {
  char answer[64];
  int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (connection < 0) return;
  snprintf(answer, sizeof answer, "%lu %ld\n", ++*counter, (long)getpid());
  send(connection, answer, strlen(answer), MSG_NOSIGNAL);
  close(connection);
}

int main(int argc, char **argv) {
  const char *accepts[] = {FORMAT};
  luo_options options = {NULL, NULL, accepts, 1, 0, 0, 0, 0};
  luo_workload *workload;
  luo_error error;
  int serving = 1, memory, listener;
  unsigned long *counter;

  if (argc != 2) {
    fprintf(stderr, "usage: counter PORT\n");
    return 2;
  }
  if (luo_join(&workload, &options, &error) < 0) die("join", &error);

  if (!workload || luo_workload_origin(workload) == LUO_NEW) {
    memory = make_memory();
    listener = listen_at(argv[1]);
    if (workload) {
      luo_item items[] = {{.token = COUNTER, .fd = memory, .format = FORMAT}, {.token = LISTENER, .fd = listener}};
      if (luo_preserve(luo_workload_session(workload), items, 2, &error) != 0) die("preserve", &error);
    }
  } else {
    luo_files *files;
    if (luo_claim(workload, &files, &error) != 0) die("claim", &error);
    memory = luo_files_take(files, COUNTER);
    listener = luo_files_take(files, LISTENER);
    luo_files_free(files);
  }
  counter = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
  if (counter == MAP_FAILED) die("map the counter", NULL);
  /* From here on, and not before, the state is ours. */
  if (workload && luo_commit(workload, &error) != 0) die("commit", &error);

  for (;;) {
    struct pollfd polled[] = {{serving ? listener : -1, POLLIN, 0}, {-1, POLLIN, 0}};
    luo_event event = {0};
    if (workload) polled[1].fd = luo_workload_fd(workload);
    if (poll(polled, 2, -1) < 0) continue;
    if (polled[0].revents) serve(listener, counter);
    if (!polled[1].revents) continue;
    do {
      if (luo_dispatch(workload, &event, &error) != 0) die("events", &error);
      switch (event.kind) {
      case LUO_PREPARE:
        /* Nothing is under way between two connections: those that come now wait in the listener's queue. */
        serving = 0;
        if (luo_ready(workload, NULL, 0, &error) != 0) fprintf(stderr, "counter: %s\n", error.message);
        break;
      case LUO_RESUME:
        serving = 1;
        break;
      case LUO_RELEASE:
        if (luo_released(workload, &error) != 0) die("let go", &error);
        munmap(counter, sizeof *counter);
        luo_workload_free(workload);
        return 0;
      case LUO_LOST:
        fprintf(stderr, "counter: luod is gone; there are no updates any more\n");
        serving = 1;
        break;
      case LUO_NONE:
        break;
      }
    } while (event.kind != LUO_NONE);
  }
}
