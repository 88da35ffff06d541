/*
 * Does with the C client what a test asks for on its standard input, a line each: SOCKET call|join|claim|events|late.
 * Says on one line how it ended and whether descriptors were left.
 */
#define _GNU_SOURCE
#include "../../clients/c/liveupdate.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define LATE_MS 200

static int count_fds(void) {
  DIR *directory = opendir("/proc/self/fd");
  int count = 0;
  if (!directory) return -1;
  while (readdir(directory)) count++;
  closedir(directory);
  return count;
}

static int call(const char *socket, int64_t timeout_ms, luo_error *error) {
  luo_connection *connection = luo_connect(socket, timeout_ms, error);
  luo_reply *reply;
  int result;
  if (!connection) return -1;
  luo_connection_reconnect(connection, 0);
  result = luo_call(connection, "List", NULL, NULL, 0, &reply, error);
  luo_reply_free(reply);
  if (result != 0 && strcmp(error->code, "LUO_PROTOCOL") == 0) {
    luo_error again;
    if (luo_call(connection, "List", NULL, NULL, 0, &reply, &again) == 0 || strcmp(again.code, "LUO_GONE") != 0) {
      strcpy(error->code, "went on");
    }
  }
  luo_connection_free(connection);
  return result;
}

static int wait_for_event(luo_workload *workload, luo_error *error) {
  luo_event event;
  do {
    struct pollfd polled = {luo_workload_fd(workload), POLLIN, 0};
    poll(&polled, 1, -1);
    if (luo_dispatch(workload, &event, error) != 0) return -1;
  } while (event.kind == LUO_NONE);
  snprintf(error->code, sizeof error->code, "event %d", event.kind);
  return -1;
}

static int join(const char *socket, const char *then, luo_error *error) {
  luo_options options = {"probe", socket, NULL, 0, 0, 0, -1, 0};
  luo_workload *workload;
  luo_files *files = NULL;
  int result = luo_join(&workload, &options, error);
  if (result == 0 && strcmp(then, "claim") == 0) result = luo_claim(workload, &files, error);
  if (result == 0 && strcmp(then, "events") == 0) result = wait_for_event(workload, error);
  luo_files_free(files);
  luo_workload_free(workload);
  return result;
}

int main(void) {
  char path[256], what[16];
  while (scanf("%255s %15s", path, what) == 2) {
    luo_error error = {"", ""};
    int before = count_fds(), result;
    if (strcmp(what, "call") == 0) result = call(path, 0, &error);
    else if (strcmp(what, "late") == 0) result = call(path, LATE_MS, &error);
    else result = join(path, what, &error);
    printf("%s, %d left\n", result == 0 ? "fine" : error.code, count_fds() - before);
    fflush(stdout);
  }
  return 0;
}
