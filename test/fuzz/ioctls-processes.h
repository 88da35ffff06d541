/*
 * The part of `ioctls.c` about several processes on one machine: it begins others, which have what it has, gives them more,
 * and kills them in the middle of a call. They are not waited for, but at the end of an input.
 *
 *   fork P              another process (0 to 2), with copies of all slots; nothing when it is there
 *   on P LINE           it does that, while this process and the others go on
 *   give P S T          a copy of slot S becomes its slot T (SCM_RIGHTS)
 *   kill P              whatever it is at
 */
#include <signal.h>
#include <sys/wait.h>

#define PROCESSES 3

static struct {
	pid_t pid;
	int line;
} processes[PROCESSES];
/* Sessions that the next generation finds: handed-0 and so on, and one that no input names. */
static int kept_sessions[HANDED_OVER + 1] = { [0 ... HANDED_OVER] = -1 };
/* The generation before has done so. */
static bool handed_over;

static void run(const char *line);
static void close_all(void);

/* Whether it is none of the input's. */
static bool is_kept(int fd)
{
	for (size_t i = 0; i <= HANDED_OVER; i++)
		if (kept_sessions[i] == fd)
			return true;
	for (size_t i = 0; i < PROCESSES; i++)
		if (processes[i].pid != 0 && processes[i].line == fd)
			return true;
	return false;
}

/* --- what one generation hands over to the next --------------------------------------------------------------------- */

/* Of 16 or 72 bytes; answers errno or 0, and the descriptor in it. */
static int simple_call(int on, unsigned command, uint32_t size, int32_t *fd, const char *name, uint64_t token)
{
	uint8_t bytes[72] = { 0 };
	memcpy(bytes, &size, 4);
	memcpy(bytes + 4, fd, 4);
	if (name)
		strncpy((char *)bytes + 8, name, 63);
	else
		memcpy(bytes + 8, &token, 8);
	if (syscall(SYS_ioctl, on, (unsigned long)command, bytes) != 0)
		return errno;
	memcpy(fd, bytes + 4, 4);
	return 0;
}

static const char *name_of(int index)
{
	static char name[16];
	snprintf(name, sizeof(name), index < HANDED_OVER ? "handed-%d" : "kept", index);
	return name;
}

/* It has the one byte that was preserved; and then it is finished. */
static void take_over(int device, int index)
{
	int session = 0, memory = 0, nothing = 0;
	char byte = 0;
	const char *name = name_of(index);
	int error = simple_call(device, RETRIEVE_SESSION, 72, &session, name, 0);
	if (error)
		return complain("%s was handed over, and is lost: %s", name, strerror(error));
	error = simple_call(session, RETRIEVE, 16, &memory, NULL, 1);
	if (error || pread(memory, &byte, 1, 0) != 1 || byte != 'x')
		complain("%s has lost what was in it: %s", name, strerror(error));
	error = simple_call(session, FINISH, 8, &nothing, NULL, 0);
	if (error)
		complain("%s cannot be finished: %s", name, strerror(error));
	close(memory);
	close(session);
}

static void hand_over(bool later)
{
	int device = open_device();
	handed_over = later;
	if (handed_over)
		take_over(device, HANDED_OVER);
	for (int i = 0; i <= HANDED_OVER; i++) {
		int memory = memfd_create("kept", 0), session = 0;
		const char *name = name_of(i);
		if (write(memory, "x", 1) != 1 || simple_call(device, CREATE, 72, &session, name, 0) != 0 ||
		    simple_call(session, PRESERVE, 16, &memory, NULL, 1) != 0)
			complain("%s cannot be preserved: %s", name, strerror(errno));
		kept_sessions[i] = session;
		close(memory);
	}
	close(device);
}

/* What nobody has asked for is there. */
static void find_what_was_handed_over(void)
{
	int device = open_device();
	for (int i = 0; i < HANDED_OVER && handed_over; i++)
		if (shared->asked[i] == 0)
			take_over(device, i);
	close(device);
}

/* --- processes ------------------------------------------------------------------------------------------------------ */

/* One line, and a descriptor with it, or -1. False at the end. */
static bool receive_line(int from, char *line, int *fd)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec part = { line, MAX_LINE - 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control),
	};
	ssize_t length = recvmsg(from, &message, 0);
	*fd = -1;
	if (length <= 0)
		return false;
	line[length] = 0;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_type == SCM_RIGHTS)
		memcpy(fd, CMSG_DATA(header), sizeof(*fd));
	return true;
}

static void send_line(int to, const char *line, int fd)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec part = { (void *)line, strlen(line) };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };
	if (fd >= 0) {
		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	}
	sendmsg(to, &message, MSG_NOSIGNAL);
}

static void be_process(int line_from)
{
	char line[MAX_LINE];
	int fd, slot;
	for (int i = 0; i < PROCESSES; i++)
		processes[i].pid = 0;
	/* It is waited for in place of those. */
	processes[0].pid = getpid();
	processes[0].line = line_from;
	make_memory();
	while (receive_line(line_from, line, &fd))
		if (sscanf(line, "take %d", &slot) == 1)
			put(slot % SLOTS, fd);
		else
			run(line);
	_exit(0);
}

static void begin_process(unsigned which)
{
	int pair[2];
	pid_t pid;
	if (processes[which].pid != 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
		return;
	pid = fork();
	if (pid < 0)
		abort();
	if (pid == 0) {
		for (int i = 0; i < PROCESSES; i++)
			if (processes[i].pid != 0)
				close(processes[i].line);
		close(pair[1]);
		be_process(pair[0]);
	}
	close(pair[0]);
	processes[which].pid = pid;
	processes[which].line = pair[1];
}

static void end_process(unsigned which, bool by_force)
{
	int status = 0;
	if (processes[which].pid == 0)
		return;
	if (by_force)
		kill(processes[which].pid, SIGKILL);
	close(processes[which].line);
	if (waitpid(processes[which].pid, &status, 0) != processes[which].pid)
		complain("process %u is nobody's: %s", which, strerror(errno));
	else if (!by_force && status != 0)
		complain("process %u ended with status 0x%x", which, status);
	processes[which].pid = 0;
}

static void end_processes(void)
{
	for (unsigned which = 0; which < PROCESSES; which++)
		end_process(which, false);
}

/* False when it is no line about processes. */
static bool run_process_line(const char *verb, const char *rest)
{
	unsigned which, from, to;
	char line[MAX_LINE];
	int after = 0;
	if (sscanf(rest, "%u %n", &which, &after) < 1 || which >= PROCESSES)
		return false;
	bool there = processes[which].pid != 0;
	if (strcmp(verb, "fork") == 0)
		begin_process(which);
	else if (strcmp(verb, "kill") == 0)
		end_process(which, true);
	else if (strcmp(verb, "on") == 0 && after > 0) {
		if (there)
			send_line(processes[which].line, rest + after, -1);
	} else if (strcmp(verb, "give") == 0 && sscanf(rest + after, "%u %u", &from, &to) == 2) {
		snprintf(line, sizeof(line), "take %u", to);
		if (there && slots[from % SLOTS] >= 0)
			send_line(processes[which].line, line, slots[from % SLOTS]);
	} else
		return false;
	return true;
}
