/* See kinds.h. Where a kind has no room for a number of our choice, the number is what tells one file from another. */
#define _GNU_SOURCE
#include "kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

enum { PAGE = 4096, HUGE_PAGE = 2 * 1024 * 1024 };

static int close_and_fail(int fd) {
  if (fd >= 0) close(fd);
  return -1;
}

/* --- memory and files: the number is at both ends ---------------------------------------------------------------- */

static int write_ends(int fd, long value) {
  struct stat status;
  if (fstat(fd, &status) != 0 || pwrite(fd, &value, sizeof value, 0) != sizeof value) return -1;
  return pwrite(fd, &value, sizeof value, status.st_size - (off_t)sizeof value) == sizeof value ? 0 : -1;
}

static long read_ends(int fd) {
  struct stat status;
  long first, last;
  if (fstat(fd, &status) != 0 || pread(fd, &first, sizeof first, 0) != sizeof first) return NO_VALUE;
  if (pread(fd, &last, sizeof last, status.st_size - (off_t)sizeof last) != sizeof last) return NO_VALUE;
  return first == last ? first : NO_VALUE;
}

static int sized(int fd, long value, off_t size) {
  if (fd < 0 || ftruncate(fd, size) != 0 || write_ends(fd, value) != 0) return close_and_fail(fd);
  return fd;
}

static int make_memfd(long value) { return sized(memfd_create("soak", MFD_CLOEXEC), value, PAGE); }

/* Huge pages cannot be written, only mapped. */
static int set_hugetlb(int fd, long value) {
  long *memory = mmap(NULL, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return -1;
  memory[0] = value;
  munmap(memory, HUGE_PAGE);
  return 0;
}

static long get_hugetlb(int fd) {
  long *memory = mmap(NULL, HUGE_PAGE, PROT_READ, MAP_SHARED, fd, 0), value;
  if (memory == MAP_FAILED) return NO_VALUE;
  value = memory[0];
  munmap(memory, HUGE_PAGE);
  return value;
}

static int make_hugetlb(long value) {
  int fd = memfd_create("soak", MFD_CLOEXEC | MFD_HUGETLB);
  if (fd < 0 || ftruncate(fd, HUGE_PAGE) != 0 || set_hugetlb(fd, value) != 0) return close_and_fail(fd);
  return fd;
}

static int temporary(const char *pattern) {
  char path[64];
  int fd;
  snprintf(path, sizeof path, "%s", pattern);
  fd = mkostemp(path, O_CLOEXEC);
  if (fd >= 0) unlink(path);
  return fd;
}

static int make_shmem(long value) { return sized(temporary("/dev/shm/luo-soak-XXXXXX"), value, PAGE); }

/* Its position too. */
static int set_file(int fd, long value) {
  if (write_ends(fd, value) != 0 || lseek(fd, value, SEEK_SET) != value) return -1;
  return 0;
}

static long get_file(int fd) {
  long value = read_ends(fd);
  return lseek(fd, 0, SEEK_CUR) == value ? value : NO_VALUE;
}

static int make_file(long value) {
  int fd = sized(temporary("./soak-XXXXXX"), value, PAGE);
  if (fd >= 0 && set_file(fd, value) != 0) return close_and_fail(fd);
  return fd;
}

static int make_directory(long value) {
  (void)value;
  return open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static long get_inode(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 ? (long)status.st_ino : NO_VALUE;
}

/* --- sockets: the number is in what arrived and was not read ----------------------------------------------------- */

static int send_value(int fd, long value) {
  return send(fd, &value, sizeof value, MSG_NOSIGNAL) == sizeof value ? 0 : -1;
}

static long peek_value(int fd) {
  long value;
  return recv(fd, &value, sizeof value, MSG_PEEK | MSG_DONTWAIT) == sizeof value ? value : NO_VALUE;
}

static int bound(int type, int protocol, struct sockaddr_in *address) {
  socklen_t size = sizeof *address;
  int fd = socket(AF_INET, type | SOCK_CLOEXEC, protocol);
  memset(address, 0, sizeof *address);
  address->sin_family = AF_INET;
  address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (fd < 0 || bind(fd, (struct sockaddr *)address, sizeof *address) != 0 ||
      getsockname(fd, (struct sockaddr *)address, &size) != 0) {
    return close_and_fail(fd);
  }
  return fd;
}

/* Even: a connection; odd: a listener, whose number is its port. */
static int make_stream(long value, int protocol) {
  struct sockaddr_in address;
  int client, accepted = -1, listener = bound(SOCK_STREAM, protocol, &address);
  if (listener < 0 || listen(listener, 1) != 0) return close_and_fail(listener);
  if (value % 2 == 1) return listener;
  client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, protocol);
  if (client >= 0 && connect(client, (struct sockaddr *)&address, sizeof address) == 0) {
    accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (accepted >= 0 && (send_value(client, value) != 0 || shutdown(client, SHUT_WR) != 0)) {
      accepted = close_and_fail(accepted);
    }
    /* It comes over the loopback device, which may take a moment. */
    if (accepted >= 0) recv(accepted, &value, 1, MSG_PEEK);
  }
  close_and_fail(client);
  close(listener);
  return accepted;
}

static int make_tcp(long value) { return make_stream(value, 0); }
static int make_mptcp(long value) { return make_stream(value, IPPROTO_MPTCP); }

static long get_stream(int fd) {
  struct sockaddr_in address;
  socklen_t size = sizeof(int);
  int listening = 0;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) != 0) return NO_VALUE;
  if (!listening) return peek_value(fd);
  size = sizeof address;
  return getsockname(fd, (struct sockaddr *)&address, &size) == 0 ? ntohs(address.sin_port) : NO_VALUE;
}

static int make_udp(long value) {
  struct sockaddr_in address;
  int fd = bound(SOCK_DGRAM, 0, &address);
  if (fd < 0) return -1;
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 || send_value(fd, value) != 0) {
    return close_and_fail(fd);
  }
  return fd;
}

static int make_unix(long value) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) != 0) return -1;
  if (send_value(pair[1], value) != 0) pair[0] = close_and_fail(pair[0]);
  close(pair[1]);
  return pair[0];
}

/* --- pipes: the number is in them -------------------------------------------------------------------------------- */

static long tee_value(int fd) {
  int copy[2];
  long value = NO_VALUE;
  if (pipe2(copy, O_CLOEXEC) != 0) return NO_VALUE;
  if (tee(fd, copy[1], sizeof value, SPLICE_F_NONBLOCK) != sizeof value || read(copy[0], &value, sizeof value) < 0) {
    value = NO_VALUE;
  }
  close(copy[0]);
  close(copy[1]);
  return value;
}

static int make_pipe(long value) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return -1;
  if (write(ends[1], &value, sizeof value) != sizeof value) ends[0] = close_and_fail(ends[0]);
  close(ends[1]);
  return ends[0];
}

static int make_fifo(long value) {
  char path[64];
  int fd = -1;
  snprintf(path, sizeof path, "./fifo-%ld", (long)getpid());
  if (mkfifo(path, 0600) != 0) return -1;
  fd = open(path, O_RDWR | O_CLOEXEC);
  unlink(path);
  if (fd >= 0 && write(fd, &value, sizeof value) != sizeof value) return close_and_fail(fd);
  return fd;
}

/* --- objects of the kernel --------------------------------------------------------------------------------------- */

/* A number of /proc/self/fdinfo, after `key`. */
static long fd_info(int fd, const char *key, int base) {
  char path[64], line[256];
  long value = NO_VALUE;
  FILE *file;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  file = fopen(path, "re");
  if (!file) return NO_VALUE;
  while (value == NO_VALUE && fgets(line, sizeof line, file)) {
    const char *found = strstr(line, key);
    if (found) value = strtol(found + strlen(key), NULL, base);
  }
  fclose(file);
  return value;
}

static int make_eventfd(long value) { return eventfd((unsigned)value, EFD_CLOEXEC | EFD_NONBLOCK); }
static long get_eventfd(int fd) { return fd_info(fd, "eventfd-count:", 16); }

static int set_eventfd(int fd, long value) {
  eventfd_t count;
  if (eventfd_read(fd, &count) != 0 && errno != EAGAIN) return -1;
  return eventfd_write(fd, (eventfd_t)value);
}

static int set_timerfd(int fd, long value) {
  /* It does not run out while anybody looks. */
  struct itimerspec time = {{value, 0}, {1000000, 0}};
  return timerfd_settime(fd, 0, &time, NULL);
}

static int make_timerfd(long value) {
  int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
  if (fd >= 0 && set_timerfd(fd, value) != 0) return close_and_fail(fd);
  return fd;
}

static long get_timerfd(int fd) {
  struct itimerspec time;
  return timerfd_gettime(fd, &time) == 0 ? (long)time.it_interval.tv_sec : NO_VALUE;
}

static int make_inotify(long value) {
  int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (fd >= 0 && inotify_add_watch(fd, "/proc/self", (unsigned)value & IN_ALL_EVENTS) < 0) return close_and_fail(fd);
  return fd;
}

static long get_inotify(int fd) { return fd_info(fd, " mask:", 16); }

static int make_pidfd(long value) {
  (void)value;
  return (int)syscall(SYS_pidfd_open, getppid(), 0);
}

static long get_pidfd(int fd) { return fd_info(fd, "Pid:", 10); }

/* --- terminals --------------------------------------------------------------------------------------------------- */

static int make_master(long value) {
  struct winsize size = {0, 0, 0, 0};
  int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  size.ws_row = (unsigned short)value;
  if (fd >= 0 && ioctl(fd, TIOCSWINSZ, &size) != 0) return close_and_fail(fd);
  return fd;
}

static int set_master(int fd, long value) {
  struct winsize size = {0, 0, 0, 0};
  size.ws_row = (unsigned short)value;
  return ioctl(fd, TIOCSWINSZ, &size);
}

static long get_master(int fd) {
  struct winsize size;
  return ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_row : NO_VALUE;
}

/* The other side has ended, and it stays what it was. */
static int make_slave(long value) {
  int slave, master = make_master(value);
  char *name;
  if (master < 0 || unlockpt(master) != 0 || !(name = ptsname(master))) return close_and_fail(master);
  slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
  close(master);
  return slave;
}

static long get_slave(int fd) {
  struct stat status;
  return fstat(fd, &status) == 0 ? (long)minor(status.st_rdev) : NO_VALUE;
}

const soak_kind SOAK_KINDS[] = {
    {"memfd", make_memfd, read_ends, write_ends},
    {"shmem", make_shmem, read_ends, write_ends},
    {"hugetlb", make_hugetlb, get_hugetlb, set_hugetlb},
    {"tcp", make_tcp, get_stream, NULL},
    {"mptcp", make_mptcp, get_stream, NULL},
    {"udp", make_udp, peek_value, NULL},
    {"unix", make_unix, peek_value, NULL},
    {"pipe", make_pipe, tee_value, NULL},
    {"fifo", make_fifo, tee_value, NULL},
    {"eventfd", make_eventfd, get_eventfd, set_eventfd},
    {"timerfd", make_timerfd, get_timerfd, set_timerfd},
    {"inotify", make_inotify, get_inotify, NULL},
    {"pidfd", make_pidfd, get_pidfd, NULL},
    {"file", make_file, get_file, set_file},
    {"directory", make_directory, get_inode, NULL},
    {"pty-master", make_master, get_master, set_master},
    {"pty-slave", make_slave, get_slave, NULL},
};
const int SOAK_KIND_COUNT = sizeof SOAK_KINDS / sizeof *SOAK_KINDS;
