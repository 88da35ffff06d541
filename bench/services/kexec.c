/*
 * One side of a kexec that is measured, in a virtual machine: what starts the service, asks it, and says when.
 *
 *     kexec before|after bare
 *     kexec before|after luod NODE LUOD LUOCTL SERVICE PORT
 *
 * bare: the memory crosses in a session of the kernel that this program makes itself, and a child of it is the service.
 * luod: luod and `luoctl run` are started one after the other, as an init would. `before` has the service answer, loads
 * the next kernel, and does the kexec; `after` asks until there is an answer. Prints { mark, init_ms, monotonic_ms,
 * realtime_ms } a line: init_ms is from the machine's init. Whatever fails is said, and the exit code is 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* As the service under luod has. */
#define MEMORY_BYTES (16 << 20)
#define BARE_PORT 8080
#define KERNEL "/run/machine/kernel"
#define INITRD "/run/machine/initrd"
#define BOOT " luo.boot=1"
#define RETRY_US 2000
#define LIMIT_MS 120000
#define READY_FD 3
#ifndef MFD_EXEC
#define MFD_EXEC 0x10U
#endif
/* Of linux/liveupdate.h. */
#define LIVEUPDATE(command) _IO(0xBA, command)
#define CREATE_SESSION LIVEUPDATE(0x00)
#define RETRIEVE_SESSION LIVEUPDATE(0x01)
#define PRESERVE_FD LIVEUPDATE(0x40)
#define RETRIEVE_FD LIVEUPDATE(0x41)
#define FINISH LIVEUPDATE(0x42)

struct session {
	uint32_t size;
	int32_t fd;
	char name[64];
};

struct file {
	uint32_t size;
	int32_t fd;
	uint64_t token;
};

struct finish {
	uint32_t size, reserved;
};

static double clock_ms(clockid_t clock)
{
	struct timespec now;
	clock_gettime(clock, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void mark(const char *name)
{
	printf("{\"mark\":\"%s\",\"init_ms\":%s,\"monotonic_ms\":%.3f,\"realtime_ms\":%.3f}\n", name, getenv("INIT_MS"),
	       clock_ms(CLOCK_MONOTONIC), clock_ms(CLOCK_REALTIME));
	fflush(stdout);
}

static int must(const char *what, int result)
{
	if (result >= 0)
		return result;
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

/* Answers with the child's descriptor to say that it is ready, or -1 when it has none. */
static int start(char *const *command, int with_ready)
{
	int ends[2] = { -1, -1 };
	if (with_ready)
		must("pipe", pipe2(ends, O_CLOEXEC));
	if (must("fork", fork()) == 0) {
		if (with_ready && ends[1] != READY_FD)
			dup2(ends[1], READY_FD);
		else if (with_ready)
			fcntl(READY_FD, F_SETFD, 0);
		execv(command[0], command);
		_exit(127);
	}
	if (with_ready)
		close(ends[1]);
	return ends[0];
}

static void run(char *const *command)
{
	char line[4096] = "";
	for (; *command; command++)
		snprintf(line + strlen(line), sizeof(line) - strlen(line), "'%s' ", *command);
	if (system(line) != 0)
		must(line, -1);
}

static void serve(int memory)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(BARE_PORT),
				       .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int on = 1, listener = must("socket", socket(AF_INET, SOCK_STREAM, 0));
	char *bytes = mmap(NULL, MEMORY_BYTES, PROT_READ, MAP_SHARED, memory, 0), asked[1024], answer[64];
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	must("bind", bind(listener, (struct sockaddr *)&address, sizeof(address)));
	must("listen", listen(listener, 16));
	for (;;) {
		int connection = must("accept", accept(listener, NULL, NULL));
		must("read", read(connection, asked, sizeof(asked)));
		int length = snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%02d\n", *bytes);
		must("write", write(connection, answer, length));
		close(connection);
	}
}

/* Asks until there is an answer. */
static void ask(int port)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: kexec\r\nConnection: close\r\n\r\n";
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port),
				       .sin_addr = { htonl(INADDR_LOOPBACK) } };
	for (double end = clock_ms(CLOCK_MONOTONIC) + LIMIT_MS; clock_ms(CLOCK_MONOTONIC) < end; usleep(RETRY_US)) {
		char answer[16] = "";
		int fd = must("socket", socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
		int answered = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
			       write(fd, request, sizeof(request) - 1) > 0 && read(fd, answer, sizeof(answer) - 1) > 0;
		close(fd);
		if (answered && strncmp(answer, "HTTP/1.1 200", 12) == 0)
			return mark("answer");
	}
	errno = ETIMEDOUT;
	must("ask the service", -1);
}

static void load(void)
{
	static char line[4096];
	int fd = must("/proc/cmdline", open("/proc/cmdline", O_RDONLY | O_CLOEXEC));
	int length = must("/proc/cmdline", read(fd, line, sizeof(line) - sizeof(BOOT)));
	line[length] = 0;
	line[strcspn(line, "\n")] = 0;
	strcat(line, BOOT);
	int kernel = must(KERNEL, open(KERNEL, O_RDONLY)), initrd = must(INITRD, open(INITRD, O_RDONLY));
	must("kexec_file_load", syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0));
}

static void bare_before(void)
{
	int device = must("/dev/liveupdate", open("/dev/liveupdate", O_RDWR | O_CLOEXEC));
	int memory = must("memfd_create", memfd_create("store", MFD_CLOEXEC | MFD_EXEC));
	char first = 42;
	must("ftruncate", ftruncate(memory, MEMORY_BYTES));
	must("write", pwrite(memory, &first, 1, 0));
	if (must("fork", fork()) == 0)
		serve(memory);
	ask(BARE_PORT);
	load();
	mark("asked");
	struct session session = { .size = sizeof(session), .name = "bench" };
	must("create", ioctl(device, CREATE_SESSION, &session));
	struct file file = { .size = sizeof(file), .fd = memory, .token = 1 };
	must("preserve", ioctl(session.fd, PRESERVE_FD, &file));
	mark("rebooting");
	tcdrain(STDOUT_FILENO);
	must("reboot", reboot(RB_KEXEC));
}

static void bare_after(void)
{
	mark("begun");
	int device = must("/dev/liveupdate", open("/dev/liveupdate", O_RDWR | O_CLOEXEC));
	struct session session = { .size = sizeof(session), .name = "bench" };
	must("retrieve the session", ioctl(device, RETRIEVE_SESSION, &session));
	struct file file = { .size = sizeof(file), .token = 1 };
	must("retrieve", ioctl(session.fd, RETRIEVE_FD, &file));
	struct finish finish = { .size = sizeof(finish) };
	must("finish", ioctl(session.fd, FINISH, &finish));
	mark("claimed");
	if (must("fork", fork()) == 0)
		serve(file.fd);
	ask(BARE_PORT);
}

int main(int argc, char **argv)
{
	int after = argc > 2 && strcmp(argv[1], "after") == 0, bare = argc == 3;
	if (bare) {
		if (after)
			bare_after();
		else
			bare_before();
		return 0;
	}
	if (argc != 8)
		return 2;
	char *node = argv[3], *luoctl = argv[5];
	char *luod[] = { node, argv[4], "--backend", "kernel", "--ready-fd", "3", NULL };
	char *service[] = { node, luoctl, "run", "bench", "--keep", "600s", "--", node, argv[6], NULL };
	setenv("BENCH_PORT", argv[7], 1);
	mark("begun");
	char ready;
	if (read(start(luod, 1), &ready, 1) != 1)
		must("start luod", -1);
	mark("ready");
	start(service, 0);
	ask(atoi(argv[7]));
	if (after) {
		run((char *[]){ node, luoctl, "history", "--json", NULL });
		return 0;
	}
	run((char *[]){ node, luoctl, "kexec", "load", KERNEL, "--initrd", INITRD, "--append", BOOT + 1, NULL });
	mark("asked");
	run((char *[]){ node, luoctl, "kexec", NULL });
	return 1;
}
