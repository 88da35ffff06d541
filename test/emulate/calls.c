/*
 * Makes the calls of live update's interface in orders that matter, and prints what each answers: "name: 0", or the
 * errno. Nothing in it knows of an emulator: it runs on a kernel as well.
 *
 *   calls              everything that needs no kexec
 *   calls keep         preserves files, and leaves a process behind that keeps the sessions
 *   calls claim        after the kexec: what came back
 *   calls hold         preserves a file, and waits for ever; "hold more" makes a call for each byte of its input,
 *                      "hold tick" makes one again and again
 *   calls reboot       preserves nothing, and does a kexec by the system call
 *   calls foreign      a system call of another ABI of the machine
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x10
#endif

#define DEVICE "/dev/liveupdate"
#define CREATE 0xBA00
#define RETRIEVE_SESSION 0xBA01
#define PRESERVE 0xBA40
#define RETRIEVE 0xBA41
#define FINISH 0xBA42
#define NAME 0xBA43

struct session { uint32_t size; int32_t fd; char name[64]; char more[8]; };
struct file { uint32_t size; int32_t fd; uint64_t token; };
struct finish { uint32_t size; uint32_t reserved; };

static void say(const char *what, int result)
{
	if (result < 0)
		printf("%s: %s\n", what, strerrorname_np(errno));
	else
		printf("%s: 0\n", what);
	fflush(stdout);
}

static int session_call(int device, unsigned command, const char *name, size_t length, int *fd)
{
	struct session s = { .size = 72, .fd = -7 };
	memcpy(s.name, name, length);
	int result = ioctl(device, command, &s);
	*fd = result < 0 ? -1 : s.fd;
	return result;
}

static int create(int device, const char *name)
{
	int fd, result = session_call(device, CREATE, name, strlen(name), &fd);
	return result < 0 ? result : fd;
}

static int claim(int device, const char *name)
{
	int fd, result = session_call(device, RETRIEVE_SESSION, name, strlen(name), &fd);
	return result < 0 ? result : fd;
}

static int preserve(int session, int fd, uint64_t token)
{
	struct file f = { sizeof(f), fd, token };
	return ioctl(session, PRESERVE, &f);
}

static int retrieve(int session, uint64_t token)
{
	struct file f = { sizeof(f), -1, token };
	int result = ioctl(session, RETRIEVE, &f);
	return result < 0 ? result : f.fd;
}

static int finish(int session, uint32_t reserved)
{
	struct finish f = { sizeof(f), reserved };
	return ioctl(session, FINISH, &f);
}

static int memfd(const char *text)
{
	int fd = memfd_create("calls", MFD_ALLOW_SEALING | MFD_EXEC);
	if (write(fd, text, strlen(text)) < 0)
		exit(2);
	return fd;
}

static int cloexec(int fd) { return fcntl(fd, F_GETFD) & FD_CLOEXEC; }

static void calls(void)
{
	int device = open(DEVICE, O_RDWR), fd;
	char name[64];
	say("open", device);
	say("open again", open(DEVICE, O_RDWR));
	printf("close-on-exec of the device: %d\n", cloexec(device));
	int dupped = dup(device);
	close(device);
	say("open while a copy is there", open(DEVICE, O_RDWR));
	close(dupped);
	device = open(DEVICE, O_RDWR | O_CLOEXEC);
	say("open after the last close", device);
	printf("close-on-exec when asked for: %d\n", cloexec(device));
	close(device);
	say("chdir", chdir("/dev"));
	device = openat(AT_FDCWD, "../dev/./liveupdate", O_RDWR);
	say("open by a way round", device);

	/* Names. */
	memset(name, 'n', sizeof(name));
	say("a name of 0 bytes", session_call(device, CREATE, name, 0, &fd));
	say("a name of 1 byte", session_call(device, CREATE, name, 1, &fd));
	say("a name of 63 bytes", session_call(device, CREATE, name, 63, &fd));
	struct { uint32_t size, reserved; char name[64]; } got = { 72, 0, "" };
	say("get name", ioctl(fd, NAME, &got));
	printf("the name has %zu bytes\n", strlen(got.name));
	got.reserved = 1;
	say("get name, reserved 1", ioctl(fd, NAME, &got));
	say("a name of 64 bytes", session_call(device, CREATE, name, 64, &fd));
	say("a name that is not UTF-8", session_call(device, CREATE, "\xff\xfe", 2, &fd));
	got.reserved = 0;
	ioctl(fd, NAME, &got);
	printf("it is %s\n", strcmp(got.name, "\xff\xfe") == 0 ? "the same" : "another");
	int a = create(device, "a");
	say("create a", a);
	printf("close-on-exec of a session: %d\n", cloexec(a));
	say("create a again", create(device, "a"));
	say("retrieve session a", claim(device, "a"));

	/* Structs. */
	struct session s = { .size = 71, .name = "s" };
	say("a size too small", ioctl(device, CREATE, &s));
	s.size = 80;
	say("a larger struct, zeros behind", ioctl(device, CREATE, &s));
	s.more[7] = 1;
	say("a larger struct, not zero", ioctl(device, CREATE, &s));
	say("a bad pointer", ioctl(device, CREATE, (void *)8));
	say("a pointer to nothing, unknown command", ioctl(device, 0xBA3F, (void *)8));
	s.size = 72;
	say("an unknown command", ioctl(device, 0xBA02, &s));
	say("other bits", ioctl(device, 0x4004BA00, &s));
	say("other bits, a bad pointer", ioctl(device, 0x4004BA00, (void *)8));
	s.size = 1;
	say("wrong direction, a size too small", ioctl(a, FINISH, &s));
	s.size = 72;
	say("a session's command on the device", ioctl(device, PRESERVE, &s));
	say("a device's command on a session", ioctl(a, CREATE, &s));

	/* Files. */
	int one = memfd("one"), two = memfd("two");
	say("preserve", preserve(a, one, 1));
	say("preserve the same token", preserve(a, two, 1));
	say("preserve the same file", preserve(a, one, 2));
	int b = create(device, "b");
	say("preserve it in another session", preserve(b, one, 1));
	say("preserve fd -1", preserve(a, -1, 3));
	say("preserve fd 999", preserve(a, 999, 3));
	say("preserve O_PATH", preserve(a, open("/", O_PATH), 3));
	int ends[2];
	if (pipe(ends) < 0)
		exit(2);
	say("preserve a pipe", preserve(a, ends[0], 3));
	say("preserve /dev/null", preserve(a, open("/dev/null", O_RDONLY), 3));
	say("preserve the session", preserve(a, a, 3));
	say("the largest token", preserve(a, two, UINT64_MAX));
	say("retrieve of an outgoing session", retrieve(a, 1));
	say("finish an outgoing session", finish(a, 0));

	/* Releases. */
	int copy = dup(a);
	close(a);
	say("preserve by a copy", preserve(copy, memfd("three"), 4));
	say("create a while it is there", create(device, "a"));
	close(copy);
	a = create(device, "a");
	say("create a after its last close", a);
	say("preserve what it had", preserve(a, one, 1));
	pid_t child = fork();
	if (child == 0) {
		create(device, "child");
		raise(SIGKILL);
	}
	waitpid(child, NULL, 0);
	say("create what a killed process had", create(device, "child"));
	close(device);
	say("a session outlives its device", preserve(b, memfd("four"), 5));
}

static void keep(void)
{
	int device = open(DEVICE, O_RDWR), session = create(device, "kept"), fd = memfd("contents");
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
	say("preserve", preserve(session, fd, 0xffffffffffffffff));
	say("preserve an empty one", preserve(session, memfd_create("empty", MFD_EXEC), 2));
	/* The position counts as it is at the kexec. */
	lseek(fd, 3, SEEK_SET);
	say("create another", create(device, "unclaimed"));
	if (fork() != 0)
		return;
	setsid();
	for (fd = 0; fd < 3; fd++)
		close(fd);
	for (;;)
		pause();
}

static void claim_all(void)
{
	char text[16] = "";
	int device = open(DEVICE, O_RDWR);
	say("open", device);
	say("create kept, outgoing", create(device, "kept"));
	say("retrieve a session that is not", claim(device, "other"));
	int session = claim(device, "kept");
	say("retrieve session", session);
	say("retrieve it again", claim(device, "kept"));
	say("preserve in it", preserve(session, memfd("x"), 9));
	int fd = retrieve(session, 0xffffffffffffffff), again = retrieve(session, 0xffffffffffffffff);
	say("retrieve", fd);
	printf("close-on-exec: %d\n", cloexec(fd));
	printf("position %d, seals %x\n", (int)lseek(fd, 0, SEEK_CUR), fcntl(fd, F_GET_SEALS));
	printf("size %d\n", (int)lseek(again, 0, SEEK_END));
	printf("the same open file: %s\n", lseek(fd, 0, SEEK_CUR) == 8 ? "yes" : "no");
	printf("contents: %s\n", pread(fd, text, 15, 0) == 8 ? text : "?");
	say("retrieve what is not", retrieve(session, 3));
	say("preserve what was retrieved", preserve(create(device, "new"), fd, 1));
	say("finish, reserved 1", finish(session, 1));
	say("finish", finish(session, 0));
	say("finish again", finish(session, 0));
	say("retrieve after finish", retrieve(session, 2));
	say("retrieve the finished session", claim(device, "kept"));
	close(session);
	say("retrieve the closed session", claim(device, "kept"));
	say("preserve what was finished", preserve(create(device, "newer"), fd, 1));
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "calls";
	if (strcmp(what, "calls") == 0)
		calls();
	else if (strcmp(what, "keep") == 0)
		keep();
	else if (strcmp(what, "claim") == 0)
		claim_all();
	else if (strcmp(what, "hold") == 0) {
		int device = open(DEVICE, O_RDWR), session = create(device, "held");
		printf("pid %d\n", getpid());
		say("preserve", preserve(session, memfd("held"), 1));
		if (argc > 2 && strcmp(argv[2], "tick") == 0)
			for (; usleep(20000) == 0;)
				say("create", create(device, "more"));
		if (argc > 2)
			while (getchar() != EOF)
				say("create", create(device, "more"));
		for (;;)
			pause();
	} else if (strcmp(what, "reboot") == 0) {
		say("reboot, nothing loaded", syscall(SYS_reboot, 0xfee1dead, 0x28121969, 0x45584543, 0));
		say("kexec_file_load", syscall(SYS_kexec_file_load, -1, -1, 0, 0, 0));
		say("reboot, wrong magic", syscall(SYS_reboot, 1, 0x28121969, 0x45584543, 0));
		syscall(SYS_reboot, 0xfee1dead, 0x28121969, 0x45584543, 0);
		printf("still here\n");
	} else if (strcmp(what, "foreign") == 0) {
		/* getpid of x32, an ABI that kernels know or not. */
		printf("still here: %ld\n", syscall(0x40000000 | SYS_getpid));
	}
	return 0;
}
