/*
 * Scripts, their parts and their processes.
 *
 *   driver FILE PART   this part of every script in the file that has it; a kexec is between two parts. A script that
 *                      goes on after the kexec leaves a process behind, which holds what it has.
 *   driver             the lines of standard input, as they come
 *
 * Each script runs in a process of its own, and may start more ("spawn p"), which get lines of their own ("p: create
 * …"). They end with it. A script that hangs is killed.
 */
#include "driver.h"
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define MAX_PROCESSES 16
#define MAX_CASES_BYTES (1 << 20)
#define LIMIT_SECONDS 60

static struct process {
	char name[16];
	pid_t pid;
	int channel;
} processes[MAX_PROCESSES];

/* Of a process that is told what to do. */
static int own_channel;

static struct process *find(const char *name)
{
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (strcmp(processes[i].name, name) == 0)
			return &processes[i];
	errno = ESRCH;
	fail(name);
}

/* --- descriptors in messages -------------------------------------------------------------------------------------- */

static int send_fd(int channel, int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = "";
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	return sendmsg(channel, &message, 0) < 0 ? -1 : 0;
}

static int receive_fd(int channel)
{
	int fd;
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { &byte, 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
				  .msg_controllen = sizeof(control) };
	if (recvmsg(channel, &message, 0) <= 0 || message.msg_controllen == 0) {
		errno = EBADF;
		return -1;
	}
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return fd;
}

/* --- processes ---------------------------------------------------------------------------------------------------- */

/* A line comes in, its answer goes out; one that is "take NAME" is followed by a descriptor. */
static void follow(int channel)
{
	static char line[MAX_LINE];
	own_channel = channel;
	for (;;) {
		ssize_t length = recv(channel, line, sizeof(line) - 1, 0);
		if (length <= 0)
			_exit(0);
		line[length] = 0;
		if (strncmp(line, "take ", 5) == 0) {
			struct word name = { line + 5, length - 5 };
			int fd = receive_fd(channel);
			if (fd >= 0)
				bind_fd(&name, fd);
			send(channel, fd < 0 ? "lost" : "ok", fd < 0 ? 4 : 2, 0);
			continue;
		}
		const char *answered = run_line(line);
		send(channel, answered, strlen(answered), 0);
	}
}

static void spawn(struct step *step)
{
	int ends[2];
	struct process *process = find("");
	snprintf(process->name, sizeof(process->name), "%s", step->words[0].text);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		fail("make a channel");
	ends[0] = own_fd(ends[0]);
	ends[1] = own_fd(ends[1]);
	process->pid = fork();
	if (process->pid < 0)
		fail("fork");
	if (process->pid == 0) {
		for (int i = 0; i < MAX_PROCESSES; i++)
			if (processes[i].name[0] && processes[i].channel > 0)
				close(processes[i].channel);
		memset(processes, 0, sizeof(processes));
		close(ends[0]);
		follow(ends[1]);
	}
	close(ends[1]);
	process->channel = ends[0];
	answer("ok");
}

static void end(struct process *process, int signal)
{
	if (signal)
		kill(process->pid, signal);
	close(process->channel);
	waitpid(process->pid, NULL, 0);
	memset(process, 0, sizeof(*process));
	answer("ok");
}

static void kill_it(struct step *step) { end(find(step->words[0].text), SIGKILL); }

static void leave(struct step *step) { end(find(step->words[0].text), 0); }

/* The process becomes a program that waits for the end of its channel: what is close-on-exec goes. */
static void exec_it(struct step *step)
{
	struct process *process = find(step->words[0].text);
	static const char line[] = "become-idle";
	char byte;
	send(process->channel, line, sizeof(line), 0);
	recv(process->channel, &byte, 1, 0);
	answer("ok");
}

static void become_idle(struct step *step)
{
	(void)step;
	char number[16];
	snprintf(number, sizeof(number), "%d", own_channel);
	fcntl(own_channel, F_SETFD, 0);
	execl("/proc/self/exe", "driver", "idle", number, NULL);
	fail("exec");
}

static void idle(int channel)
{
	char byte = 0;
	send(channel, "x", 1, 0);
	recv(channel, &byte, 1, 0);
	_exit(0);
}

/* Whoever reads what this program prints sees its end, while this process lives on. */
static void be_quiet(struct step *step)
{
	(void)step;
	for (int fd = 0; fd < 3; fd++)
		close(fd);
	answer("ok");
}

static void pass(struct step *step)
{
	struct process *process = find(step->words[0].text);
	char line[64];
	int length = snprintf(line, sizeof(line), "take %s", step->words[1].text);
	int fd = fd_of(&step->words[1]);
	if (fd < 0) {
		errno = EBADF;
		answer_result(-1);
		return;
	}
	send(process->channel, line, length, 0);
	if (send_fd(process->channel, fd) < 0)
		fail("pass a descriptor");
	length = recv(process->channel, line, sizeof(line) - 1, 0);
	line[length < 0 ? 0 : length] = 0;
	answer("%s", line);
}

/* flight F V: a copy of V is in a message that nobody has received; F is the socket that it waits at. */
static void flight(struct step *step)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0)
		fail("make a channel");
	int result = send_fd(ends[1], fd_of(&step->words[1]));
	int error = errno;
	close(ends[1]);
	errno = error;
	if (result < 0) {
		answer_result(-1);
		close(ends[0]);
	} else
		bind_result(&step->words[0], ends[0]);
}

static void land(struct step *step) { bind_result(&step->words[0], receive_fd(fd_of(&step->words[1]))); }

const struct verb process_verbs[] = {
	{ "spawn", spawn },
	{ "kill", kill_it },
	{ "leave", leave },
	{ "exec", exec_it },
	{ "become-idle", become_idle },
	{ "be-quiet", be_quiet },
	{ "pass", pass },
	{ "flight", flight },
	{ "land", land },
	{ NULL, NULL },
};

/* --- scripts ------------------------------------------------------------------------------------------------------ */

/* "p: LINE" is for the process p. */
static void run(const char *text)
{
	static char line[MAX_LINE], reply[MAX_ANSWER];
	const char *answered;
	size_t word = strcspn(text, " ");
	snprintf(line, sizeof(line), "%s", text);
	if (word > 1 && text[word - 1] == ':') {
		line[word - 1] = 0;
		struct process *process = find(line);
		send(process->channel, text + word + 1, strlen(text + word + 1), 0);
		ssize_t length = recv(process->channel, reply, sizeof(reply) - 1, 0);
		reply[length < 0 ? 0 : length] = 0;
		answered = length > 0 ? reply : "it has ended";
	} else
		answered = run_line(line);
	printf("%s -> %s\n", text, answered);
	fflush(stdout);
}

static int is_step(const char *line) { return line[0] && line[0] != '#' && line[0] != '@'; }

/* Runs a part of a script; answers whether another follows. */
static int run_part(char *script, int part)
{
	for (char *next, *line = script; line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = 0;
		if (strncmp(line, "kexec", 6) == 0) {
			if (part-- == 0)
				return 1;
		} else if (part == 0 && is_step(line))
			run(line);
	}
	return 0;
}

static int parts_of(const char *script)
{
	int parts = 1;
	for (const char *at = script; (at = strstr(at, "\nkexec\n")); at++)
		parts++;
	return parts;
}

static void run_case(const char *name, char *script, int part)
{
	int done[2], status = 0;
	char byte = 0;
	if (parts_of(script) <= part)
		return;
	printf("== %s\n", name);
	fflush(stdout);
	if (pipe2(done, O_CLOEXEC) < 0)
		fail("pipe");
	pid_t child = fork();
	if (child < 0)
		fail("fork");
	if (child == 0) {
		close(done[0]);
		done[1] = own_fd(done[1]);
		alarm(LIMIT_SECONDS);
		int more = run_part(script, part);
		alarm(0);
		if (!more) {
			for (int i = 0; i < MAX_PROCESSES; i++)
				if (processes[i].name[0])
					end(&processes[i], SIGKILL);
			_exit(0);
		}
		/* What it holds is held until the kexec. */
		setsid();
		for (int i = 0; i < MAX_PROCESSES; i++) {
			static const char line[] = "be-quiet";
			if (processes[i].name[0])
				send(processes[i].channel, line, sizeof(line), 0);
		}
		be_quiet(NULL);
		if (write(done[1], "x", 1) < 0)
			_exit(2);
		for (;;)
			pause();
	}
	close(done[1]);
	ssize_t got = read(done[0], &byte, 1);
	close(done[0]);
	if (got == 1)
		return;
	waitpid(child, &status, 0);
	if (status != 0)
		printf("== it ended with %d\n", status);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static char text[MAX_CASES_BYTES];
	signal(SIGPIPE, SIG_IGN);
	if (argc > 2 && strcmp(argv[1], "idle") == 0)
		idle(atoi(argv[2]));
	if (close_range(3, ~0U, 0) < 0)
		fail("close what was inherited");
	if (argc < 3) {
		while (fgets(text, MAX_LINE, stdin)) {
			text[strcspn(text, "\n")] = 0;
			if (is_step(text))
				run(text);
		}
		return 0;
	}
	FILE *file = fopen(argv[1], "r");
	if (!file || fread(text, 1, sizeof(text) - 1, file) == 0)
		fail(argv[1]);
	fclose(file);
	/* "== NAME", and its lines up to the next one. */
	for (char *at = strstr(text, "== "), *next; at; at = next) {
		char *script = strchr(at, '\n') + 1;
		next = strstr(script, "\n== ");
		script[-1] = 0;
		if (next)
			*next++ = 0;
		run_case(at + 3, script, atoi(argv[2]));
	}
	return 0;
}
