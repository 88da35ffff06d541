/*
 * The first process of a virtual machine: runs a part of the scripts in /cases, and does a kexec into /kernel with
 * /initrd, until no part is left ("parts=N" on the command line). A word there says which part a boot is for. Whatever
 * fails is said, and ends the machine: it restarts, which its emulator takes for the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PARTS " parts="
#define PART " part="
/* Of syslog(2): what the kernel says on the console. Its last words alone, so that the output stays whole. */
#define SYSLOG_ACTION_CONSOLE_LEVEL 8
#define EMERGENCIES 1

/* Returns when what was printed is through the serial line, which a reboot or a kexec does not wait for. */
static void said(void)
{
	fflush(stdout);
	tcdrain(STDOUT_FILENO);
}

static void end(void)
{
	said();
	reboot(RB_AUTOBOOT);
}

static void must(const char *what, int result)
{
	if (result >= 0)
		return;
	printf("\n=== %s: %s\n", what, strerror(errno));
	end();
}

static void run(int part)
{
	char text[16];
	int status;
	snprintf(text, sizeof(text), "%d", part);
	/* The firmware and the kernel may have left a line without its end. */
	printf("\n=== part %d\n", part);
	fflush(stdout);
	pid_t child = fork();
	must("fork", child);
	if (child == 0) {
		execl("/driver", "/driver", "/cases", text, NULL);
		_exit(127);
	}
	must("wait", waitpid(child, &status, 0));
	printf("=== part %d ended: %d\n", part, status);
	said();
}

static void make(const char *directory, const char *type)
{
	mkdir(directory, 0755);
	must(directory, mount(type, directory, type, 0, NULL));
}

static int number_behind(const char *line, const char *word)
{
	const char *at = strstr(line, word);
	return at ? atoi(at + strlen(word)) : 0;
}

int main(void)
{
	static char line[4096];
	make("/dev", "devtmpfs");
	make("/proc", "proc");
	make("/dev/shm", "tmpfs");
	make("/tmp", "tmpfs");
	must("say less", klogctl(SYSLOG_ACTION_CONSOLE_LEVEL, NULL, EMERGENCIES));
	int fd = open("/proc/cmdline", O_RDONLY);
	must("read the command line", read(fd, line, sizeof(line) - 16));
	line[strcspn(line, "\n")] = 0;

	int part = number_behind(line, PART);
	run(part);
	if (++part >= number_behind(line, PARTS))
		end();
	char *before = strstr(line, PART);
	sprintf(before ? before : line + strlen(line), "%s%d", PART, part);
	int kernel = open("/kernel", O_RDONLY), initrd = open("/initrd", O_RDONLY);
	must("kexec_file_load", syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0));
	must("kexec", reboot(RB_KEXEC));
	end();
}
