/*
 * The first process of a virtual machine: runs the commands of this boot, and does a kexec into the next one. Which
 * boot it is says the last "luo.boot=N" of the command line, or /this-boot, from an archive behind the initrd; its
 * commands are in /boot-N: arguments that end with a NUL, an empty one ends the command. /machine is a share of the
 * host, with the kernel and the initrd for the kexec.
 *
 * With a file /project in the initrd, commands see the host's files, read-only, with fresh /run, /tmp and the like;
 * the file holds the absolute path of a folder that is not to be hidden by those. A disk, if there is one, is at
 * /run/disk. Without that file they see the initrd, read-only but for /run.
 *
 * Commands find in INIT_MS when init began, in milliseconds of the monotonic clock, which begins with the kernel.
 * A command may do the kexec itself. What init says begins with "===". Whatever fails is said, and ends the machine: it
 * restarts, which its emulator takes for the end.
 */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define BOOT_WORD "luo.boot="
#define HOST "/host"
#define SHARE "trans=virtio,version=9p2000.L,msize=262144,cache=loose"
#define DISK "/dev/vda"
#define MAX_ARGUMENTS 64
/* Of syslog(2): what the kernel says on the console. Its last words alone, so that the output stays whole. */
#define SYSLOG_ACTION_CONSOLE_LEVEL 8
#define EMERGENCIES 1

static char line[4096];
static char commands[65536];
static int boot;

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

static int must(const char *what, int result)
{
	if (result >= 0)
		return result;
	printf("\n=== %s: %s\n", what, strerror(errno));
	end();
	return result;
}

/* The whole file, with a NUL behind it; its length, or -1 when there is none. */
static int contents(const char *path, char *into, int size)
{
	int fd = open(path, O_RDONLY), length = 0, got;
	if (fd < 0)
		return -1;
	while ((got = must(path, read(fd, into + length, size - 1 - length))) > 0)
		length += got;
	close(fd);
	into[length] = 0;
	return length;
}

static void put(const char *type, const char *source, const char *at, unsigned long flags, const char *options)
{
	mkdir(at, 0755);
	must(at, mount(source, at, type, flags, options));
}

/* Makes the folders of an absolute path, as far as they can be made: where it matters, mounting says what is wrong. */
static void folders(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(path, 0755);
		*slash = '/';
	}
	mkdir(path, 0755);
}

static void loopback(void)
{
	struct ifreq request = { .ifr_name = "lo" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	must("bring up lo", ioctl(fd, SIOCSIFFLAGS, &request));
	close(fd);
}

static void kernel_folders(const char *root)
{
	static const char *const mounts[][2] = {
		{ "devtmpfs", "/dev" }, { "devpts", "/dev/pts" }, { "tmpfs", "/dev/shm" },
		{ "proc", "/proc" }, { "sysfs", "/sys" }, { "debugfs", "/sys/kernel/debug" },
	};
	char at[64];
	for (unsigned i = 0; i < sizeof(mounts) / sizeof(*mounts); i++) {
		snprintf(at, sizeof(at), "%s%s", root, mounts[i][1]);
		put(mounts[i][0], mounts[i][0], at, 0, NULL);
	}
}

/* Makes the root of the commands, and answers where it is. */
static const char *make_root(void)
{
	static char project[2048], at[sizeof(project) + sizeof(HOST)];
	put("9p", "machine", "/machine", MS_RDONLY, SHARE);
	if (contents("/project", project, sizeof(project)) < 0) {
		put("tmpfs", "tmpfs", "/run", 0, NULL);
		put(NULL, "/machine", "/run/machine", MS_BIND, NULL);
		must("make / read-only", mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL));
		return "/";
	}
	put("9p", "hostroot", HOST, MS_RDONLY, SHARE);
	snprintf(at, sizeof(at), HOST "%s", project);
	put(NULL, at, "/kept", MS_BIND, NULL);
	put("tmpfs", "tmpfs", HOST "/run", 0, NULL);
	put("tmpfs", "tmpfs", HOST "/tmp", 0, NULL);
	put("tmpfs", "tmpfs", HOST "/var/tmp", 0, NULL);
	kernel_folders(HOST);
	put(NULL, "/machine", HOST "/run/machine", MS_BIND, NULL);
	folders(at);
	must(at, mount("/kept", at, NULL, MS_BIND, NULL));
	if (access(DISK, F_OK) == 0)
		put("ext4", DISK, HOST "/run/disk", 0, NULL);
	return HOST;
}

static void run(const char *root, int number, char **arguments)
{
	int status;
	/* The firmware and the kernel may have left a line without its end. */
	printf("\n=== boot %d command %d\n", boot, number);
	fflush(stdout);
	pid_t child = must("fork", fork());
	if (child == 0) {
		must("chroot", chroot(root));
		must("chdir", chdir("/"));
		execv(arguments[0], arguments);
		printf("%s: %s\n", arguments[0], strerror(errno));
		fflush(stdout);
		_exit(127);
	}
	must("wait", waitpid(child, &status, 0));
	printf("\n=== boot %d command %d ended: %d\n", boot, number, status);
	said();
	if (status != 0)
		end();
}

int main(void)
{
	char path[32];
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	sprintf(line, "%ld", now.tv_sec * 1000 + now.tv_nsec / 1000000);
	setenv("INIT_MS", line, 1);
	kernel_folders("");
	must("say less", klogctl(SYSLOG_ACTION_CONSOLE_LEVEL, NULL, EMERGENCIES));
	must("read the command line", contents("/proc/cmdline", line, sizeof(line) - sizeof(BOOT_WORD) - 12));
	line[strcspn(line, "\n")] = 0;
	for (char *word = strstr(line, BOOT_WORD); word; word = strstr(word + 1, BOOT_WORD))
		boot = atoi(word + strlen(BOOT_WORD));
	if (contents("/this-boot", path, sizeof(path)) >= 0)
		boot = atoi(path);

	setenv("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", 1);
	setenv("HOME", "/run", 1);
	loopback();
	const char *root = make_root();
	snprintf(path, sizeof(path), "/boot-%d", boot);
	int length = must(path, contents(path, commands, sizeof(commands)));
	for (int at = 0, number = 0; at < length; number++) {
		char *arguments[MAX_ARGUMENTS + 1] = { NULL };
		for (int i = 0; i < MAX_ARGUMENTS && at < length && commands[at]; i++) {
			arguments[i] = commands + at;
			at += strlen(commands + at) + 1;
		}
		at++;
		run(root, number, arguments);
	}

	snprintf(path, sizeof(path), "/boot-%d", boot + 1);
	if (access(path, F_OK) != 0)
		end();
	sprintf(line + strlen(line), " " BOOT_WORD "%d", boot + 1);
	int kernel = open("/machine/kernel", O_RDONLY), initrd = open("/machine/initrd", O_RDONLY);
	must("kexec_file_load", syscall(SYS_kexec_file_load, kernel, initrd, strlen(line) + 1, line, 0));
	must("kexec", reboot(RB_KEXEC));
	end();
}
