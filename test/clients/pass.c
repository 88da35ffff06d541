/*
 * Makes a session with a memory file in it, passes it on to whoever listens at a socket, and waits for its own end:
 *
 *     pass LUOD_SOCKET SESSION LISTENER_SOCKET
 */
#define _GNU_SOURCE
#include "../../clients/c/liveupdate.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { TOKEN = 7 };
static const char CONTENT[] = "made in C";

static int pass(const char *path, int fd) {
  struct sockaddr_un address;
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof fd)];
  } control;
  char byte = 0;
  struct iovec part = {&byte, 1};
  struct msghdr message;
  int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  memset(&address, 0, sizeof address);
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  if (connection < 0 || connect(connection, (struct sockaddr *)&address, sizeof address) != 0) return -1;
  memset(&message, 0, sizeof message);
  memset(&control, 0, sizeof control);
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  CMSG_FIRSTHDR(&message)->cmsg_level = SOL_SOCKET;
  CMSG_FIRSTHDR(&message)->cmsg_type = SCM_RIGHTS;
  CMSG_FIRSTHDR(&message)->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &fd, sizeof fd);
  return sendmsg(connection, &message, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

int main(int argc, char **argv) {
  luo_error error;
  luo_connection *connection;
  luo_session *session;
  luo_item item = {.token = TOKEN, .fd = -1, .format = "greeting/1", .until_update = true};
  luo_files *files;
  if (argc != 4) return 2;
  item.fd = memfd_create("greeting", MFD_CLOEXEC);
  if (item.fd < 0 || write(item.fd, CONTENT, sizeof CONTENT - 1) < 0) return 3;
  if (!(connection = luo_connect(argv[1], 0, &error)) ||
      !(session = luo_session_create(connection, argv[2], 0, NULL, &error)) ||
      luo_preserve(session, &item, 1, &error) != 0 || luo_session_files(session, &files, &error) != 0) {
    fprintf(stderr, "%s (%s)\n", error.message, error.code);
    return 1;
  }
  printf("%d, %s, until update: %d\n", (int)files->count, files->file->kind, files->file->until_update);
  fflush(stdout);
  luo_files_free(files);
  if (pass(argv[3], luo_session_fd(session)) != 0) return 4;
  pause();
  return 0;
}
