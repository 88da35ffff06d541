/*
 * A version that lets go whenever it is asked to, with its standard input for updates only, and says what it is told:
 *
 *     wait LUOD_SOCKET RECONNECT_MS KEXEC_WAIT_MS
 */
#include "../../clients/c/liveupdate.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const KINDS[] = {"", "prepare", "resume", "release", "lost"};

int main(int argc, char **argv) {
  luo_options options = {"wait", NULL, NULL, 0, 0, 0, 0, 0};
  luo_item item = {.token = 1, .fd = 0, .until_update = true};
  luo_workload *workload;
  luo_error error;
  luo_event event;
  int result;
  if (argc != 4) return 2;
  options.socket = argv[1];
  options.reconnect_ms = atoi(argv[2]);
  options.kexec_wait_ms = atoi(argv[3]);
  result = luo_join(&workload, &options, &error);
  while (result == 0 && luo_workload_fd(workload) >= 0) {
    struct pollfd polled = {luo_workload_fd(workload), POLLIN, 0};
    poll(&polled, 1, -1);
    while ((result = luo_dispatch(workload, &event, &error)) == 0 && event.kind != LUO_NONE) {
      bool for_kexec = event.purpose == LUO_FOR_KEXEC;
      printf("%s%s\n", KINDS[event.kind], for_kexec ? " for kexec" : "");
      fflush(stdout);
      if (event.kind == LUO_PREPARE && luo_ready(workload, &item, for_kexec ? 0 : 1, &error) != 0) return 3;
    }
  }
  if (result != 0) fprintf(stderr, "%s (%s)\n", error.message, error.code);
  luo_workload_free(workload);
  return result != 0;
}
