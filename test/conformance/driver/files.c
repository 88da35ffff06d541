/* Memory files, descriptors of every kind, and limits. */
#include "driver.h"
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x8
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10
#endif
#ifndef F_DUPFD_QUERY
#define F_DUPFD_QUERY 1027
#endif
#define MAX_READ 1024

static void close_it(struct step *step)
{
	answer_result(close(fd_of(&step->words[0])));
	unbind_fd(&step->words[0]);
}

static void dup_it(struct step *step) { bind_result(&step->words[0], dup(fd_of(&step->words[1]))); }

/* Another open file of the same inode. */
static void reopen(struct step *step)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd_of(&step->words[1]));
	bind_result(&step->words[0], open(path, has_word(step, "readonly") ? O_RDONLY : O_RDWR));
}

static unsigned memfd_flags(const struct word *word)
{
	if (!word)
		return MFD_ALLOW_SEALING | MFD_EXEC;
	unsigned flags = 0;
	if (strstr(word->text, "sealing"))
		flags |= MFD_ALLOW_SEALING;
	if (strstr(word->text, "noexec"))
		flags |= MFD_NOEXEC_SEAL;
	else
		flags |= MFD_EXEC;
	if (strstr(word->text, "hugetlb"))
		flags |= MFD_HUGETLB;
	return flags;
}

static void memfd(struct step *step)
{
	const struct word *value = value_of(step, "flags");
	int fd = memfd_create("conformance", memfd_flags(value));
	if (fd >= 0 && (value = value_of(step, "text")) && write(fd, value->text, value->length) < 0)
		fail("write to a memory file");
	if (fd >= 0 && (value = value_of(step, "size")) && ftruncate(fd, number_of(value)) < 0)
		fail("set the size of a memory file");
	if (fd >= 0 && (value = value_of(step, "pos")) && lseek(fd, number_of(value), SEEK_SET) < 0)
		fail("set the position of a memory file");
	if (fd >= 0 && (value = value_of(step, "seals")) && fcntl(fd, F_ADD_SEALS, (int)number_of(value)) < 0)
		fail("seal a memory file");
	bind_result(&step->words[0], fd);
}

/* file V KIND: what is no memory file, or nearly one. */
static void file(struct step *step)
{
	const char *kind = step->words[1].text;
	int ends[2], fd = -1;
	errno = EINVAL;
	if (strcmp(kind, "pipe") == 0) {
		fd = pipe(ends) < 0 ? -1 : ends[0];
		close(fd < 0 ? -1 : ends[1]);
	} else if (strcmp(kind, "socket") == 0)
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
	else if (strcmp(kind, "eventfd") == 0)
		fd = eventfd(0, 0);
	else if (strcmp(kind, "epoll") == 0)
		fd = epoll_create1(0);
	else if (strcmp(kind, "timerfd") == 0)
		fd = timerfd_create(CLOCK_MONOTONIC, 0);
	else if (strcmp(kind, "directory") == 0)
		fd = open("/", O_RDONLY | O_DIRECTORY);
	else if (strcmp(kind, "path") == 0)
		fd = open("/", O_PATH);
	else if (strcmp(kind, "null") == 0)
		fd = open("/dev/null", O_RDWR);
	else if (strcmp(kind, "proc") == 0)
		fd = open("/proc/self/status", O_RDONLY);
	else if (strcmp(kind, "shm") == 0 || strcmp(kind, "shm-unlinked") == 0) {
		/* Of a run that was cut off. */
		unlink("/dev/shm/conformance");
		fd = open("/dev/shm/conformance", O_RDWR | O_CREAT | O_EXCL, 0600);
		if (strcmp(kind, "shm-unlinked") == 0)
			unlink("/dev/shm/conformance");
	} else if (strcmp(kind, "shm-tmpfile") == 0)
		fd = open("/dev/shm", O_RDWR | O_TMPFILE, 0600);
	bind_result(&step->words[0], fd);
}

/* --- contents ----------------------------------------------------------------------------------------------------- */

static void write_it(struct step *step)
{
	answer_result(write(fd_of(&step->words[0]), step->words[1].text, step->words[1].length));
}

static void pwrite_it(struct step *step)
{
	struct word *text = &step->words[2];
	answer_result(pwrite(fd_of(&step->words[0]), text->text, text->length, number_of(&step->words[1])));
}

static void answer_read(const char *bytes, ssize_t length)
{
	if (length < 0)
		answer_result(-1);
	else
		answer_bytes("ok", bytes, length);
}

static size_t length_of(const struct word *word)
{
	size_t length = number_of(word);
	return length < MAX_READ ? length : MAX_READ;
}

static void read_it(struct step *step)
{
	char bytes[MAX_READ];
	answer_read(bytes, read(fd_of(&step->words[0]), bytes, length_of(&step->words[1])));
}

static void pread_it(struct step *step)
{
	char bytes[MAX_READ];
	answer_read(bytes, pread(fd_of(&step->words[0]), bytes, length_of(&step->words[2]), number_of(&step->words[1])));
}

static void answer_number(long number, const char *format)
{
	if (number < 0)
		answer_result(-1);
	else
		answer(format, number);
}

static void seek(struct step *step)
{
	answer_number(lseek(fd_of(&step->words[0]), number_of(&step->words[1]), SEEK_SET), "ok %ld");
}

static void position(struct step *step) { answer_number(lseek(fd_of(&step->words[0]), 0, SEEK_CUR), "ok %ld"); }

static void size(struct step *step)
{
	struct stat stat;
	int result = fstat(fd_of(&step->words[0]), &stat);
	answer_number(result < 0 ? -1 : stat.st_size, "ok %ld");
}

static void allocated(struct step *step)
{
	struct stat stat;
	int result = fstat(fd_of(&step->words[0]), &stat);
	answer_number(result < 0 ? -1 : stat.st_blocks * 512, "ok %ld");
}

static void type(struct step *step)
{
	struct stat stat;
	int result = fstat(fd_of(&step->words[0]), &stat);
	answer_number(result < 0 ? -1 : (long)(stat.st_mode & S_IFMT), "ok %lo");
}

static void seals(struct step *step) { answer_number(fcntl(fd_of(&step->words[0]), F_GET_SEALS), "ok 0x%lx"); }

static void seal(struct step *step)
{
	answer_result(fcntl(fd_of(&step->words[0]), F_ADD_SEALS, (int)number_of(&step->words[1])));
}

static void truncate_it(struct step *step)
{
	answer_result(ftruncate(fd_of(&step->words[0]), number_of(&step->words[1])));
}

static void allocate(struct step *step)
{
	int mode = has_word(step, "punch") ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0;
	answer_result(fallocate(fd_of(&step->words[0]), mode, number_of(&step->words[1]), number_of(&step->words[2])));
}

static void map(struct step *step)
{
	int protection = has_word(step, "write") ? PROT_READ | PROT_WRITE : PROT_READ;
	void *at = mmap(NULL, 4096, protection, MAP_SHARED, fd_of(&step->words[0]), 0);
	answer_result(at == MAP_FAILED ? -1 : 0);
	if (at != MAP_FAILED)
		munmap(at, 4096);
}

/* --- descriptors -------------------------------------------------------------------------------------------------- */

static void cloexec(struct step *step)
{
	int flags = fcntl(fd_of(&step->words[0]), F_GETFD);
	answer_number(flags < 0 ? -1 : flags & FD_CLOEXEC, "ok %ld");
}

static void mode(struct step *step)
{
	static const char *const modes[] = { "ok rdonly", "ok wronly", "ok rdwr", "ok neither" };
	int flags = fcntl(fd_of(&step->words[0]), F_GETFL);
	if (flags < 0)
		answer_result(-1);
	else
		answer("%s", modes[flags & O_ACCMODE]);
}

static void same_file(struct step *step)
{
	answer_number(fcntl(fd_of(&step->words[0]), F_DUPFD_QUERY, fd_of(&step->words[1])), "ok %ld");
}

static void poll_it(struct step *step)
{
	struct pollfd poll_fd = { .fd = fd_of(&step->words[0]), .events = POLLIN | POLLOUT };
	int result = poll(&poll_fd, 1, 0);
	answer_number(result < 0 ? -1 : poll_fd.revents, "ok 0x%lx");
}

static void link_of(struct step *step)
{
	char path[64], to[256];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd_of(&step->words[0]));
	ssize_t length = readlink(path, to, sizeof(to));
	/* The number of a socket is nobody's business. */
	if (length > 7 && memcmp(to, "socket:", 7) == 0)
		length = 7;
	answer_read(to, length);
}

/* Of those that are not this program's own. */
static void count_fds(struct step *step)
{
	(void)step;
	int count = 0;
	DIR *directory = opendir("/proc/self/fd");
	if (!directory)
		fail("list the descriptors");
	for (struct dirent *entry; (entry = readdir(directory));)
		if (entry->d_name[0] != '.' && atoi(entry->d_name) > 2 && atoi(entry->d_name) < OWN_FDS &&
		    atoi(entry->d_name) != dirfd(directory))
			count++;
	closedir(directory);
	answer("ok %d", count);
}

static rlim_t fds_before;

static void limit_fds(rlim_t count)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		fail("read the limit of descriptors");
	if (fds_before == 0)
		fds_before = limit.rlim_cur;
	limit.rlim_cur = count;
	answer_result(setrlimit(RLIMIT_NOFILE, &limit));
}

static void no_more_fds(struct step *step)
{
	(void)step;
	int lowest = dup(0);
	close(lowest);
	limit_fds(lowest);
}

static void more_fds(struct step *step)
{
	(void)step;
	limit_fds(fds_before);
}

static void cd(struct step *step) { answer_result(chdir(step->words[0].text)); }

static void make_link(struct step *step)
{
	unlink(step->words[1].text);
	answer_result(symlink(step->words[0].text, step->words[1].text));
}

static void remove_link(struct step *step) { answer_result(unlink(step->words[0].text)); }

/* --- the machine -------------------------------------------------------------------------------------------------- */

static void reboot_it(struct step *step)
{
	struct word *words = step->words;
	answer_result(syscall(SYS_reboot, number_of(&words[0]), number_of(&words[1]), number_of(&words[2]), NULL));
}

static void kexec_file_load(struct step *step)
{
	answer_result(syscall(SYS_kexec_file_load, fd_of(&step->words[0]), -1, 1, "", number_of(&step->words[1])));
}

static void foreign_call(struct step *step)
{
	/* getpid of x32, an ABI that kernels know or not. */
	(void)step;
	answer_result(syscall(0x40000000 | SYS_getpid));
}

static void old_call(struct step *step)
{
	(void)step;
#ifdef __x86_64__
	/* getpid of i386: kernels without that ABI send SIGSEGV. */
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
	answer(result > 0 ? "ok" : "error");
#endif
}

const struct verb file_verbs[] = {
	{ "close", close_it },
	{ "dup", dup_it },
	{ "reopen", reopen },
	{ "memfd", memfd },
	{ "file", file },
	{ "write", write_it },
	{ "pwrite", pwrite_it },
	{ "read", read_it },
	{ "pread", pread_it },
	{ "seek", seek },
	{ "position", position },
	{ "size", size },
	{ "allocated", allocated },
	{ "type", type },
	{ "seals", seals },
	{ "seal", seal },
	{ "truncate", truncate_it },
	{ "allocate", allocate },
	{ "map", map },
	{ "cloexec", cloexec },
	{ "mode", mode },
	{ "same-file", same_file },
	{ "poll", poll_it },
	{ "link", link_of },
	{ "count-fds", count_fds },
	{ "no-more-fds", no_more_fds },
	{ "more-fds", more_fds },
	{ "cd", cd },
	{ "make-link", make_link },
	{ "remove", remove_link },
	{ "reboot", reboot_it },
	{ "kexec-file-load", kexec_file_load },
	{ "call-x32", foreign_call },
	{ "call-i386", old_call },
	{ NULL, NULL },
};
