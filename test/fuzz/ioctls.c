/*
 * Makes hostile calls of live update, as it is told on its standard input: lines of one input, and a line `end`. Answers
 * one line for each input: `fine` and how many calls it was, or what was wrong. An answer is wrong when it is an errno
 * that the kernel has not for this call, when memory was written to that the answer is not in, or when a descriptor was
 * left, or is not what it should be. Afterwards, whatever was done, a sane program must find everything as it should be.
 *
 *   open S              the device, at slot S              close S, dup S T
 *   file S KIND         memory, pipe, socket, null, path (O_PATH), sealed
 *   call D S COMMAND PLACE OFFSET SIZE FD BYTES
 *                       ioctl of slot S; the struct is at OFFSET of PLACE: SIZE, FD (a number, or s3 for slot 3), BYTES in
 *                       hexadecimal (- for none). A descriptor in the answer goes to slot D
 *   tight D S ...       the same, and no more descriptors may be opened
 *   race S ...          the same many times, while another thread closes slot S, and takes the memory away
 *   path PLACE OFFSET FLAGS BYTES      openat of what is there
 *   write S PLACE OFFSET LENGTH
 *   repeat N LINE       the line N times
 *
 * and those of several processes (`ioctls-processes.h`), of which this one begins and ends each input. Its argument says
 * whether a generation before has handed over what `hand_over` makes. `inventory` is a line for this process alone.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CREATE 0xBA00
#define RETRIEVE_SESSION 0xBA01
#define PRESERVE 0xBA40
#define RETRIEVE 0xBA41
#define FINISH 0xBA42
#define NAME 0xBA43

#define SLOTS 8
#define PAGE 4096
#define MAX_LINE 1024
#define MAX_BYTES 128
/* Of the struct and what is behind it, which only an answer may change. */
#define WATCHED 256
#define BIG (8u << 20)
#define RACE_CALLS 24
#define LIMIT 256
#define HANDED_OVER 3

static int slots[SLOTS];
/* Of all processes. */
static struct shared {
	unsigned calls;
	/* Calls that asked for the session handed-N. */
	unsigned asked[HANDED_OVER];
	char complaint[512];
} *shared;

static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void complain(const char *format, ...)
{
	va_list arguments;
	if (shared->complaint[0])
		return;
	va_start(arguments, format);
	vsnprintf(shared->complaint, sizeof(shared->complaint), format, arguments);
	va_end(arguments);
}

/* --- memory --------------------------------------------------------------------------------------------------------- */

/* Two pages, nothing, one page, one to read, one for nobody; and the same memory where it is never taken away. */
static uint8_t *arena, *kept, *big;

static void make_memory(void)
{
	int memory = memfd_create("arena", 0);
	if (ftruncate(memory, 6 * PAGE) != 0)
		abort();
	arena = mmap(NULL, 6 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	kept = mmap(NULL, 6 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	close(memory);
	big = mmap(NULL, BIG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	munmap(arena + 2 * PAGE, PAGE);
	mprotect(arena + 5 * PAGE, PAGE, PROT_NONE);
}

/* Where a place begins; an offset counts from there, and from the end of what is there for an edge. */
static uintptr_t address_of(const char *place, long offset)
{
	static const struct { const char *name; uintptr_t address; } fixed[] = {
		{ "null", 0 }, { "kernel", 0xffff888000000000u }, { "top", UINTPTR_MAX - 7 },
		{ "high", 0x0100000000000000u }, { "end", 0x00007ffffffff000u },
	};
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		if (strcmp(place, fixed[i].name) == 0)
			return fixed[i].address + (uintptr_t)offset;
	if (strcmp(place, "hole") == 0)
		return (uintptr_t)(arena + 2 * PAGE + offset);
	if (strcmp(place, "edge") == 0)
		return (uintptr_t)(arena + 2 * PAGE - offset);
	if (strcmp(place, "readonly") == 0)
		return (uintptr_t)(arena + 4 * PAGE + offset);
	if (strcmp(place, "half-readonly") == 0)
		return (uintptr_t)(arena + 4 * PAGE - offset);
	if (strcmp(place, "none") == 0)
		return (uintptr_t)(arena + 5 * PAGE + offset);
	if (strcmp(place, "big") == 0)
		return (uintptr_t)(big + offset);
	return (uintptr_t)(arena + PAGE / 2 + offset);
}

/* Bytes at an address, as far as memory is there. */
static void fill(uintptr_t address, const uint8_t *bytes, size_t length)
{
	uintptr_t start = (uintptr_t)arena, end = start + 5 * PAGE, hole = start + 2 * PAGE;
	bool isBig = address >= (uintptr_t)big && address - (uintptr_t)big <= BIG - MAX_BYTES;
	mprotect(arena + 4 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < length; i++) {
		uintptr_t at = address + i;
		if (isBig || (at >= start && at < end && (at < hole || at >= hole + PAGE)))
			*(uint8_t *)at = bytes[i];
	}
	mprotect(arena + 4 * PAGE, PAGE, PROT_READ);
}

/* --- what a kernel answers ------------------------------------------------------------------------------------------ */

static const struct { unsigned command; int errnos[20]; } ANSWERS[] = {
	{ CREATE, { EEXIST, ENOSPC, EMFILE } },
	{ RETRIEVE_SESSION, { ENOENT, EMFILE } },
	{ PRESERVE, { EEXIST, EBADF, ENOENT, EBUSY, ENOSPC, EOPNOTSUPP, EFBIG } },
	{ RETRIEVE, { ENOENT, EMFILE } },
	{ FINISH, { EBUSY } },
	{ NAME, { 0 } },
};

/* One that any call has, on whatever; else one of this call. */
static bool is_answer(unsigned command, int error)
{
	static const int any[] = { EFAULT, EINVAL, ENOTTY, E2BIG, EBADF };
	for (size_t i = 0; i < sizeof(any) / sizeof(any[0]); i++)
		if (any[i] == error)
			return true;
	for (size_t i = 0; i < sizeof(ANSWERS) / sizeof(ANSWERS[0]); i++)
		for (size_t j = 0; ANSWERS[i].command == command && ANSWERS[i].errnos[j]; j++)
			if (ANSWERS[i].errnos[j] == error)
				return true;
	return false;
}

static bool gives_descriptor(unsigned command)
{
	return command == CREATE || command == RETRIEVE_SESSION || command == RETRIEVE;
}

/* --- descriptors ---------------------------------------------------------------------------------------------------- */

static int count_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int count = 0;
	while (directory && readdir(directory))
		count++;
	if (directory)
		closedir(directory);
	return count;
}

static void put(int slot, int fd)
{
	if (slots[slot] >= 0)
		close(slots[slot]);
	slots[slot] = fd;
}

static int slot_of(const char *text)
{
	unsigned long slot = strtoul(text, NULL, 10);
	return (int)(slot % SLOTS);
}

static int open_device(void) { return (int)syscall(SYS_openat, AT_FDCWD, "/dev/liveupdate", O_RDWR, 0); }

static int open_file(const char *kind)
{
	int pair[2] = { -1, -1 };
	if (strcmp(kind, "pipe") == 0 && pipe(pair) == 0)
		close(pair[1]);
	else if (strcmp(kind, "socket") == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0)
		close(pair[1]);
	else if (strcmp(kind, "null") == 0)
		return open("/dev/null", O_RDWR);
	else if (strcmp(kind, "path") == 0)
		return open("/", O_PATH);
	if (pair[0] >= 0)
		return pair[0];
	pair[0] = memfd_create("fuzz", MFD_ALLOW_SEALING);
	if (strcmp(kind, "sealed") == 0)
		fcntl(pair[0], F_ADD_SEALS, F_SEAL_SEAL);
	return pair[0];
}

/* --- calls ---------------------------------------------------------------------------------------------------------- */

struct call {
	int slot;
	unsigned command;
	uintptr_t address;
	uint32_t size;
	uint8_t bytes[MAX_BYTES];
	size_t length;
};

static size_t from_hex(const char *hex, uint8_t *to, size_t room)
{
	size_t length = 0;
	unsigned byte;
	while (length < room && sscanf(hex + 2 * length, "%2x", &byte) == 1)
		to[length++] = (uint8_t)byte;
	return length;
}

static bool read_call(const char *line, struct call *call)
{
	char slot[16], place[32], fd[32], hex[2 * MAX_BYTES + 1];
	unsigned long size;
	long offset;
	int32_t number;
	if (sscanf(line, "%15s %x %31s %ld %lu %31s %256s", slot, &call->command, place, &offset, &size, fd, hex) != 7)
		return false;
	call->slot = slot_of(slot);
	call->address = address_of(place, offset);
	call->size = (uint32_t)size;
	number = fd[0] == 's' ? slots[slot_of(fd + 1)] : (int32_t)strtol(fd, NULL, 10);
	memcpy(call->bytes, &call->size, 4);
	memcpy(call->bytes + 4, &number, 4);
	call->length = 8 + from_hex(hex, call->bytes + 8, sizeof(call->bytes) - 8);
	return true;
}

static bool is_watched(uintptr_t address)
{
	uintptr_t start = (uintptr_t)arena;
	return address >= start && address <= start + 2 * PAGE - WATCHED;
}

static int make_call(const struct call *call)
{
	const char *name = (const char *)call->bytes + 8;
	for (unsigned i = 0; i < HANDED_OVER; i++)
		shared->asked[i] += call->command == RETRIEVE_SESSION && name[0] == 'h' && name[7] == (char)('0' + i);
	shared->calls++;
	return (int)syscall(SYS_ioctl, slots[call->slot], (unsigned long)call->command, call->address);
}

/* Answers the descriptor that it gave, or -1. */
static int checked_call(const struct call *call)
{
	static const uint8_t zeros[WATCHED];
	uint8_t before[WATCHED];
	bool watched = is_watched(call->address);
	int result, error, fd = -1;
	fill(call->address, zeros, WATCHED > MAX_BYTES ? MAX_BYTES : WATCHED);
	fill(call->address, call->bytes, call->length);
	if (watched)
		memcpy(before, (void *)call->address, WATCHED);
	result = make_call(call);
	error = result == 0 ? 0 : errno;
	if (result != 0 && !is_answer(call->command, error))
		complain("ioctl 0x%x answered errno %d (%s)", call->command, error, strerror(error));
	if (watched) {
		const uint8_t *after = (void *)call->address;
		/* The struct is 72 bytes at most, and its caller's has `size`. */
		size_t may = result != 0 ? 0 : call->size < 72 ? call->size : 72;
		for (size_t i = 0; i < WATCHED; i++)
			if (before[i] != after[i] && i >= may)
				complain("ioctl 0x%x answered %d (%s) and wrote to byte %zu", call->command, result,
					 strerror(error), i);
	}
	if (result == 0 && gives_descriptor(call->command)) {
		memcpy(&fd, (void *)(call->address + 4), sizeof(fd));
		if (fcntl(fd, F_GETFD) != FD_CLOEXEC)
			complain("ioctl 0x%x gave descriptor %d, which is none, or is not close-on-exec", call->command, fd);
	}
	return fd;
}

static void tight_call(int slot, const struct call *call)
{
	struct rlimit limit, tight;
	int free_number = dup(0);
	close(free_number);
	getrlimit(RLIMIT_NOFILE, &limit);
	tight = limit;
	tight.rlim_cur = (rlim_t)free_number;
	setrlimit(RLIMIT_NOFILE, &tight);
	int fd = checked_call(call);
	setrlimit(RLIMIT_NOFILE, &limit);
	if (fd >= 0)
		put(slot, fd);
}

#include "ioctls-processes.h"

/* --- races ---------------------------------------------------------------------------------------------------------- */

static volatile bool racing;

static void *disturb(void *argument)
{
	int number = *(int *)argument, copy = dup(number), other = open("/dev/null", O_RDWR);
	while (racing) {
		mprotect(arena, PAGE, PROT_NONE);
		dup2(other, number);
		mprotect(arena, PAGE, PROT_READ);
		close(number);
		mprotect(arena, PAGE, PROT_READ | PROT_WRITE);
		dup2(copy, number);
	}
	mprotect(arena, PAGE, PROT_READ | PROT_WRITE);
	dup2(copy, number);
	close(copy);
	close(other);
	return NULL;
}

/* What an answer did not tell, since its memory was taken away before, is the program's own to lose. */
static void close_others(void)
{
	for (int fd = 3; fd < LIMIT; fd++) {
		bool known = is_kept(fd);
		for (int slot = 0; slot < SLOTS; slot++)
			known = known || slots[slot] == fd;
		if (!known)
			close(fd);
	}
}

/* Any descriptor may be the one that is closed meanwhile: only the errno is looked at, and what is left. */
static void race(const struct call *call)
{
	pthread_t thread;
	int number = slots[call->slot];
	if (number < 0)
		return;
	racing = true;
	if (pthread_create(&thread, NULL, disturb, &number) != 0)
		abort();
	for (int i = 0; i < RACE_CALLS; i++) {
		int fd = -1;
		if (make_call(call) != 0) {
			if (!is_answer(call->command, errno))
				complain("ioctl 0x%x in a race answered %s", call->command, strerror(errno));
			continue;
		}
		if (gives_descriptor(call->command) && is_watched(call->address))
			memcpy(&fd, kept + (call->address - (uintptr_t)arena) + 4, sizeof(fd));
		if (fd > 2)
			close(fd);
	}
	racing = false;
	pthread_join(thread, NULL);
	close_others();
}

/* --- lines ---------------------------------------------------------------------------------------------------------- */

static void open_path(const char *rest)
{
	char place[32], hex[2 * MAX_BYTES + 1];
	uint8_t bytes[MAX_BYTES] = { 0 };
	unsigned flags;
	long offset;
	if (sscanf(rest, "%31s %ld %x %256s", place, &offset, &flags, hex) != 4)
		return complain("no such line: path %s", rest);
	uintptr_t address = address_of(place, offset);
	from_hex(hex, bytes, sizeof(bytes) - 1);
	fill(address, bytes, sizeof(bytes));
	shared->calls++;
	int fd = (int)syscall(SYS_openat, AT_FDCWD, address, flags, 0600);
	if (fd < 0 && (errno == ENOSYS || errno == EIO || errno == ENODEV || errno == ESRCH))
		complain("openat answered %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void write_to(const char *rest)
{
	char slot[16], place[32];
	unsigned length;
	long offset;
	if (sscanf(rest, "%15s %31s %ld %u", slot, place, &offset, &length) != 4)
		return complain("no such line: write %s", rest);
	shared->calls++;
	if (send(slots[slot_of(slot)], (void *)address_of(place, offset), length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return;
}

static void run(const char *line)
{
	char verb[16], first[16] = "", second[16] = "";
	struct call call = { 0 };
	int after = 0;
	if (sscanf(line, "%15s %n%15s %15s", verb, &after, first, second) < 2)
		return complain("no such line: %s", line);
	const char *rest = line + after;
	/* Of call and tight, behind the slot for the answer. */
	const char *behind = strchr(rest, ' ');
	if (strcmp(verb, "open") == 0) {
		/* Its own may be the one that is open. */
		put(slot_of(first), -1);
		put(slot_of(first), open_device());
	} else if (strcmp(verb, "close") == 0) {
		put(slot_of(first), -1);
	} else if (strcmp(verb, "dup") == 0) {
		put(slot_of(second), dup(slots[slot_of(first)]));
	} else if (strcmp(verb, "file") == 0) {
		put(slot_of(first), open_file(second));
	} else if (strcmp(verb, "path") == 0) {
		open_path(rest);
	} else if (strcmp(verb, "write") == 0) {
		write_to(rest);
	} else if (strcmp(verb, "race") == 0 && read_call(rest, &call)) {
		fill(call.address, call.bytes, call.length);
		race(&call);
	} else if (strcmp(verb, "call") == 0 && behind && read_call(behind, &call)) {
		int fd = checked_call(&call);
		if (fd >= 0)
			put(slot_of(first), fd);
	} else if (strcmp(verb, "tight") == 0 && behind && read_call(behind, &call)) {
		tight_call(slot_of(first), &call);
	} else if (strcmp(verb, "repeat") == 0 && behind) {
		for (unsigned long times = strtoul(first, NULL, 10); times > 0; times--)
			run(behind + 1);
	} else if (!run_process_line(verb, rest)) {
		complain("no such line: %s", line);
	}
}

/* What a program does that means well. */
static void be_sane(void)
{
	struct call create = { .slot = 0, .command = CREATE, .address = (uintptr_t)arena, .size = 72 };
	struct call preserve = { .slot = 1, .command = PRESERVE, .address = (uintptr_t)arena, .size = 16 };
	struct call name = { .slot = 1, .command = NAME, .address = (uintptr_t)arena, .size = 72 };
	put(0, open_device());
	if (slots[0] < 0)
		return complain("afterwards the device cannot be opened: %s", strerror(errno));
	memcpy(create.bytes, &create.size, 4);
	memcpy(create.bytes + 8, "sane", 5);
	create.length = 72;
	put(1, checked_call(&create));
	put(2, open_file("memory"));
	memcpy(preserve.bytes, &preserve.size, 4);
	memcpy(preserve.bytes + 4, &slots[2], 4);
	preserve.length = 16;
	fill(preserve.address, preserve.bytes, preserve.length);
	if (slots[1] < 0 || make_call(&preserve) != 0)
		return complain("afterwards nothing can be preserved: %s", strerror(errno));
	memcpy(name.bytes, &name.size, 4);
	name.length = 72;
	fill(name.address, name.bytes, name.length);
	if (make_call(&name) != 0 || strcmp((char *)arena + 8, "sane") != 0)
		complain("afterwards a session has no name: %s", strerror(errno));
}

static void close_all(void)
{
	for (int slot = 0; slot < SLOTS; slot++)
		put(slot, -1);
}

int main(int argc, char **argv)
{
	struct rlimit limit = { LIMIT, LIMIT };
	char line[MAX_LINE];
	int before;
	for (int slot = 0; slot < SLOTS; slot++)
		slots[slot] = -1;
	setrlimit(RLIMIT_NOFILE, &limit);
	setvbuf(stdout, NULL, _IOLBF, 0);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	make_memory();
	close_others();
	hand_over(argc > 1 && strcmp(argv[1], "later") == 0);
	before = count_descriptors();
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (strcmp(line, "inventory") == 0)
			find_what_was_handed_over();
		else if (strcmp(line, "end") != 0)
			run(line);
		if (strcmp(line, "end") != 0)
			continue;
		end_processes();
		close_all();
		be_sane();
		close_all();
		if (count_descriptors() != before)
			complain("descriptors are left: %d more than before", count_descriptors() - before);
		if (shared->complaint[0])
			printf("wrong: %s\n", shared->complaint);
		else
			printf("fine %u\n", shared->calls);
		shared->complaint[0] = 0;
		shared->calls = 0;
	}
	return 0;
}
