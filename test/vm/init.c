/*
 * The first process of a virtual machine: runs /calls between lines that start with "===", before a kexec into /kernel
 * with /initrd, and after it. A word on the command line tells the two boots apart. Whatever fails is said, and ends
 * the machine: it restarts, which its emulator takes for the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define AFTER_KEXEC " after-kexec"
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

static void calls(const char *what)
{
	int status;
	/* The firmware and the kernel may have left a line without its end. */
	printf("\n=== %s\n", what);
	fflush(stdout);
	pid_t child = fork();
	must("fork", child);
	if (child == 0) {
		execl("/calls", "/calls", what, NULL);
		_exit(127);
	}
	must("wait", waitpid(child, &status, 0));
	printf("=== %s ended: %d\n", what, status);
	said();
}

int main(void)
{
	static char line[4096];
	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	must("mount /dev", mount("dev", "/dev", "devtmpfs", 0, NULL));
	must("mount /proc", mount("proc", "/proc", "proc", 0, NULL));
	must("say less", klogctl(SYSLOG_ACTION_CONSOLE_LEVEL, NULL, EMERGENCIES));
	int fd = open("/proc/cmdline", O_RDONLY);
	must("read the command line", read(fd, line, sizeof(line) - sizeof(AFTER_KEXEC)));
	line[strcspn(line, "\n")] = 0;

	if (strstr(line, AFTER_KEXEC)) {
		calls("claim");
		end();
	}
	calls("calls");
	calls("keep");
	strcat(line, AFTER_KEXEC);
	int kernel = open("/kernel", O_RDONLY), initrd = open("/initrd", O_RDONLY);
	must("kexec_file_load", syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0));
	must("kexec", reboot(RB_KEXEC));
	end();
}
