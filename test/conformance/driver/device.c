/* Live update's own calls: well-formed, malformed, and of many threads at once. */
#include "driver.h"
#include <linux/openat2.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define CREATE 0xBA00
#define RETRIEVE_SESSION 0xBA01
#define PRESERVE 0xBA40
#define RETRIEVE 0xBA41
#define FINISH 0xBA42
#define NAME 0xBA43

#define PAGE 4096
#define THREADS 8

struct session_call { uint32_t size; int32_t fd; char name[64]; };
struct file_call { uint32_t size; int32_t fd; uint64_t token; };
struct finish_call { uint32_t size; uint32_t reserved; };

/* --- opening ------------------------------------------------------------------------------------------------------ */

static int flags_of(const struct word *word)
{
	static const struct { const char *name; int flag; } known[] = {
		{ "rdonly", O_RDONLY }, { "wronly", O_WRONLY }, { "rdwr", O_RDWR }, { "accmode", O_ACCMODE },
		{ "cloexec", O_CLOEXEC }, { "creat", O_CREAT }, { "excl", O_EXCL }, { "directory", O_DIRECTORY },
		{ "path", O_PATH }, { "trunc", O_TRUNC }, { "append", O_APPEND }, { "nonblock", O_NONBLOCK },
		{ "nofollow", O_NOFOLLOW }, { "sync", O_SYNC }, { "noctty", O_NOCTTY }, { "tmpfile", O_TMPFILE },
	};
	int flags = 0;
	char text[256];
	if (word->length == 0)
		return O_RDWR;
	snprintf(text, sizeof(text), "%s", word->text);
	for (char *name = strtok(text, ","); name; name = strtok(NULL, ","))
		for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
			if (strcmp(known[i].name, name) == 0)
				flags |= known[i].flag;
	return flags;
}

static const char *path_of(const struct word *word) { return word->length ? word->text : "/dev/liveupdate"; }

static void open_it(struct step *step)
{
	bind_result(&step->words[0],
		    syscall(SYS_openat, AT_FDCWD, path_of(&step->words[1]), flags_of(&step->words[2]), 0600));
}

static void open_old(struct step *step)
{
	bind_result(&step->words[0], syscall(SYS_open, path_of(&step->words[1]), flags_of(&step->words[2]), 0600));
}

static void open_at(struct step *step)
{
	bind_result(&step->words[0], syscall(SYS_openat, fd_of(&step->words[1]), path_of(&step->words[2]),
					     flags_of(&step->words[3]), 0600));
}

static void open_at2(struct step *step)
{
	struct open_how how = { .flags = flags_of(&step->words[2]) };
	bind_result(&step->words[0], syscall(SYS_openat2, AT_FDCWD, path_of(&step->words[1]), &how, sizeof(how)));
}

static void creat_it(struct step *step)
{
	bind_result(&step->words[0], syscall(SYS_creat, path_of(&step->words[1]), 0600));
}

/* --- as they are meant -------------------------------------------------------------------------------------------- */

/* A name that fills all 64 bytes has no NUL. */
static int session_call(int device, unsigned command, const struct word *name)
{
	struct session_call call = { .size = sizeof(call), .fd = -1 };
	memcpy(call.name, name->text, name->length < 64 ? name->length : 64);
	int result = ioctl(device, command, &call);
	return result < 0 ? result : call.fd;
}

static void create(struct step *step)
{
	bind_result(&step->words[0], session_call(fd_of(&step->words[1]), CREATE, &step->words[2]));
}

static void retrieve_session(struct step *step)
{
	bind_result(&step->words[0], session_call(fd_of(&step->words[1]), RETRIEVE_SESSION, &step->words[2]));
}

static void preserve(struct step *step)
{
	struct file_call call = { sizeof(call), fd_of(&step->words[1]), number_of(&step->words[2]) };
	answer_result(ioctl(fd_of(&step->words[0]), PRESERVE, &call));
}

static void retrieve(struct step *step)
{
	struct file_call call = { sizeof(call), -1, number_of(&step->words[2]) };
	int result = ioctl(fd_of(&step->words[1]), RETRIEVE, &call);
	bind_result(&step->words[0], result < 0 ? result : call.fd);
}

static void finish(struct step *step)
{
	struct finish_call call = { sizeof(call), number_of(&step->words[1]) };
	answer_result(ioctl(fd_of(&step->words[0]), FINISH, &call));
}

static void name(struct step *step)
{
	struct session_call call = { sizeof(call), number_of(&step->words[1]), "" };
	int result = ioctl(fd_of(&step->words[0]), NAME, &call);
	answer_result(result);
	if (result >= 0)
		answer_bytes("ok", call.name, strnlen(call.name, sizeof(call.name)));
}

/* --- malformed ---------------------------------------------------------------------------------------------------- */

static void put(char *at, size_t length, size_t offset, const void *bytes, size_t count)
{
	if (offset + count <= length)
		memcpy(at + offset, bytes, count);
}

static void put_fields(struct step *step, char *at, size_t length)
{
	const struct word *value = value_of(step, "size");
	uint32_t size = value ? number_of(value) : length;
	put(at, length, 0, &size, sizeof(size));
	if ((value = value_of(step, "reserved"))) {
		uint32_t reserved = number_of(value);
		put(at, length, 4, &reserved, sizeof(reserved));
	}
	if ((value = value_of(step, "fd"))) {
		int32_t fd = fd_of(value);
		put(at, length, 4, &fd, sizeof(fd));
	}
	if ((value = value_of(step, "token"))) {
		uint64_t token = number_of(value);
		put(at, length, 8, &token, sizeof(token));
	}
	if ((value = value_of(step, "name")))
		put(at, length, 8, value->text, value->length);
	if ((value = value_of(step, "last")) && length > 0)
		at[length - 1] = number_of(value);
}

/* The answer with the struct in hexadecimal; the number of a new descriptor in it is nobody's business. */
static void answer_struct(const char *at, size_t length, int has_fd)
{
	char text[2 * 256 + 1] = "";
	for (size_t i = 0; i < length && i < 256; i++)
		if (has_fd && i >= 4 && i < 8)
			strcat(text, "..");
		else
			sprintf(text + strlen(text), "%02x", (unsigned char)at[i]);
	answer("ok %s", text);
}

/* A struct that ends where its memory ends: what is behind it cannot be read. */
static void raw_ioctl(struct step *step)
{
	int fd = fd_of(&step->words[0]);
	unsigned command = number_of(&step->words[1]);
	const struct word *value = value_of(step, "at");
	if (value) {
		answer_result(ioctl(fd, command, (void *)number_of(value)));
		return;
	}
	value = value_of(step, "len");
	size_t length = value ? number_of(value) : 72, room = (length + PAGE - 1) / PAGE * PAGE;
	char *area = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED)
		fail("map memory");
	mprotect(area + room, PAGE, PROT_NONE);
	char *at = area + room - length;
	put_fields(step, at, length);
	if (has_word(step, "readonly"))
		mprotect(area, room, PROT_READ);
	int result = ioctl(fd, command, at);
	answer_result(result);
	int number = command & 0xff, has_fd = number == 0 || number == 1 || number == 0x41;
	if (result >= 0 && has_word(step, "dump"))
		answer_struct(at, length, has_fd);
	value = value_of(step, "bind");
	if (result >= 0 && value)
		bind_fd(value, *(int32_t *)(at + 4));
	munmap(area, room + PAGE);
}

/* --- many threads ------------------------------------------------------------------------------------------------- */

static struct race {
	pthread_barrier_t start;
	int fd, file;
	const struct word *name;
	unsigned command;
	uint64_t token;
	int same_token;
} race;

struct racer {
	pthread_t thread;
	int number, result, error;
};

static void *racing(void *argument)
{
	struct racer *racer = argument;
	pthread_barrier_wait(&race.start);
	if (race.command == PRESERVE) {
		struct file_call call = { sizeof(call), race.file, race.token + (race.same_token ? 0 : racer->number) };
		racer->result = ioctl(race.fd, PRESERVE, &call);
	} else
		racer->result = session_call(race.fd, race.command, race.name);
	racer->error = errno;
	return NULL;
}

static void run_race(const struct word *winner)
{
	struct racer racers[THREADS];
	int won = 0, lost = 0, same = 1, error = 0;
	pthread_barrier_init(&race.start, NULL, THREADS);
	for (int i = 0; i < THREADS; i++) {
		racers[i].number = i;
		if (pthread_create(&racers[i].thread, NULL, racing, &racers[i]) != 0)
			fail("start a thread");
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(racers[i].thread, NULL);
	for (int i = 0; i < THREADS; i++) {
		if (racers[i].result >= 0) {
			won++;
			if (winner && won == 1)
				bind_fd(winner, racers[i].result);
			continue;
		}
		same = same && (lost == 0 || racers[i].error == error);
		error = racers[i].error;
		lost++;
	}
	pthread_barrier_destroy(&race.start);
	answer("%d ok, %d %s", won, lost, lost == 0 ? "-" : same ? strerrorname_np(error) : "different errors");
}

static void race_create(struct step *step)
{
	race = (struct race){ .fd = fd_of(&step->words[1]), .name = &step->words[2], .command = CREATE };
	run_race(&step->words[0]);
}

static void race_retrieve_session(struct step *step)
{
	race = (struct race){ .fd = fd_of(&step->words[1]), .name = &step->words[2], .command = RETRIEVE_SESSION };
	run_race(&step->words[0]);
}

/* The same file at different tokens, or at the same one. */
static void race_preserve(struct step *step)
{
	race = (struct race){ .fd = fd_of(&step->words[0]),
			      .file = fd_of(&step->words[1]),
			      .token = number_of(&step->words[2]),
			      .same_token = has_word(step, "same"),
			      .command = PRESERVE };
	run_race(NULL);
}

/* --- hostile ------------------------------------------------------------------------------------------------------ */

static volatile int flipping;

static void *flip(void *argument)
{
	volatile struct session_call *call = argument;
	for (unsigned turn = 0; flipping; turn++) {
		call->size = turn % 7 == 0 ? 0xffffffff : 72;
		call->name[turn % 64] = turn % 3 ? 'x' : 0;
		call->fd = turn;
	}
	return NULL;
}

/* Creates sessions of names that another thread changes meanwhile. What was answered, other than what may be. */
static void flip_create(struct step *step)
{
	static struct session_call call;
	pthread_t thread;
	int device = fd_of(&step->words[0]), strange = 0;
	flipping = 1;
	if (pthread_create(&thread, NULL, flip, &call) != 0)
		fail("start a thread");
	for (uint64_t i = 0, times = number_of(&step->words[1]); i < times; i++) {
		errno = 0;
		int result = ioctl(device, CREATE, &call);
		int known = errno == EINVAL || errno == EEXIST || errno == E2BIG || errno == EFAULT;
		if (result < 0 && !known)
			strange = errno;
	}
	flipping = 0;
	pthread_join(thread, NULL);
	answer("%s", strange ? strerrorname_np(strange) : "ok");
}

/* Each in the middle of some call, of which there are all kinds; the parent sees them come and go. */
static void kill_storm(struct step *step)
{
	int device = fd_of(&step->words[0]);
	for (uint64_t i = 0, times = number_of(&step->words[1]); i < times; i++) {
		pid_t child = fork();
		if (child < 0)
			fail("fork");
		if (child == 0)
			for (unsigned turn = 0;; turn++) {
				char text[64] = "";
				struct word name = { text, sprintf(text, "storm %u", turn % 5) };
				int session = session_call(device, CREATE, &name);
				struct file_call call = { sizeof(call), memfd_create("storm", 0), turn };
				ioctl(session, PRESERVE, &call);
				close(open("/dev/liveupdate", O_RDWR));
				close(call.fd);
				close(turn % 3 ? session : -1);
			}
		usleep(100 * (i * 37 % 97));
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	answer("ok");
}

/* The call again and again, until it answers something else. */
static void flood(struct step *step)
{
	for (;;) {
		int fd = session_call(fd_of(&step->words[0]), CREATE, &step->words[1]);
		if (fd < 0)
			break;
		close(fd);
	}
	answer_result(-1);
}

const struct verb device_verbs[] = {
	{ "open", open_it },
	{ "open-old", open_old },
	{ "openat", open_at },
	{ "openat2", open_at2 },
	{ "creat", creat_it },
	{ "create", create },
	{ "retrieve-session", retrieve_session },
	{ "preserve", preserve },
	{ "retrieve", retrieve },
	{ "finish", finish },
	{ "name", name },
	{ "ioctl", raw_ioctl },
	{ "race-create", race_create },
	{ "race-retrieve-session", race_retrieve_session },
	{ "race-preserve", race_preserve },
	{ "flip-create", flip_create },
	{ "kill-storm", kill_storm },
	{ "flood", flood },
	{ NULL, NULL },
};
