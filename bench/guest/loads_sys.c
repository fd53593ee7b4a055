/* loads_sys.c: system calls, processes, faults, signals, and whole programs. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cpubench.h"

static void must(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

static uint64_t getpid_run(uint64_t n)
{
	uint64_t sum = 0;

	for (; n; n--)
		sum += (uint64_t)syscall(SYS_getpid);
	return sum;
}

static uint64_t pread_run(uint64_t n)
{
	static int fd = -1;
	char buf[64];

	if (fd < 0) {
		fd = memfd_create("bench", 0);
		must(fd >= 0 && write(fd, buf, sizeof(buf)) == sizeof(buf), "memfd");
	}
	for (; n; n--)
		must(pread(fd, buf, sizeof(buf), 0) == sizeof(buf), "pread");
	return (uint64_t)buf[0];
}

static uint64_t open_run(uint64_t n)
{
	for (; n; n--) {
		int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		must(fd >= 0, "open");
		close(fd);
	}
	return 0;
}

static uint64_t pipe_run(uint64_t n)
{
	int to[2], from[2];
	char c = 0;
	pid_t pid;

	must(!pipe(to) && !pipe(from), "pipe");
	pid = fork();
	must(pid >= 0, "fork");
	if (!pid) {
		close(to[1]);
		while (read(to[0], &c, 1) == 1)
			if (write(from[1], &c, 1) != 1)
				break;
		_exit(0);
	}
	for (; n; n--)
		must(write(to[1], &c, 1) == 1 && read(from[0], &c, 1) == 1, "ping");
	close(to[0]);
	close(to[1]);
	close(from[0]);
	close(from[1]);
	waitpid(pid, NULL, 0);
	return 0;
}

static uint64_t fork_run(uint64_t n)
{
	for (; n; n--) {
		pid_t pid = fork();
		must(pid >= 0, "fork");
		if (!pid)
			_exit(0);
		waitpid(pid, NULL, 0);
	}
	return 0;
}

static void run_program(const char *path, char *const argv[], const char *in, const char *out)
{
	pid_t pid = fork();
	int status = 0;

	must(pid >= 0, "fork");
	if (!pid) {
		if (in && (dup2(open(in, O_RDONLY), 0) < 0 || dup2(open(out, O_WRONLY), 1) < 0))
			_exit(126);
		execv(path, argv);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	must(WIFEXITED(status) && !WEXITSTATUS(status), path);
}

static uint64_t exec_run(uint64_t n)
{
	char *argv[] = {(char *)"cpubench", (char *)"--nothing", NULL};

	for (; n; n--)
		run_program("/proc/self/exe", argv, NULL, NULL);
	return 0;
}

/* A unit is 64 pages. */
static uint64_t fault_run(uint64_t n)
{
	for (; n; n--) {
		size_t size = 64 * 4096;
		volatile uint8_t *p =
		    mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		must(p != MAP_FAILED, "mmap");
		for (size_t at = 0; at < size; at += 4096)
			p[at] = 1;
		munmap((void *)p, size);
	}
	return 0;
}

static uint64_t mprotect_run(uint64_t n)
{
	static volatile uint8_t *p;

	if (!p) {
		p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		must(p != MAP_FAILED, "mmap");
	}
	for (; n; n--) {
		must(!mprotect((void *)p, 4096, PROT_READ | PROT_WRITE), "mprotect");
		p[0]++;
		must(!mprotect((void *)p, 4096, PROT_READ), "mprotect");
	}
	return p[0];
}

static volatile sig_atomic_t signals;
static void count_signal(int sig)
{
	(void)sig;
	signals++;
}

static uint64_t signal_run(uint64_t n)
{
	struct sigaction sa = {.sa_handler = count_signal};
	pid_t self = getpid();

	sigaction(SIGUSR1, &sa, NULL);
	for (; n; n--)
		kill(self, SIGUSR1);
	return (uint64_t)signals;
}

/* Code that is made and run so often, page after page, as just-in-time compilers do. A unit is a
 * page. */
static uint64_t code_run(uint64_t n, unsigned times)
{
	enum { PAGES = 64, BYTES = PAGES * 4096 };
	static uint8_t *code;
	static uint32_t seed = 77;
	uint64_t sum = 0;

	if (!code) {
		code = mmap(NULL, BYTES, PROT_READ | PROT_WRITE | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		must(code != MAP_FAILED, "mmap");
	}
	for (; n; n--) {
		uint8_t *page = code + n % PAGES * 4096, *p = page;
		for (int i = 0; i < 200; i++) {
			/* add, or, and, sub, xor eax, imm32 */
			static const uint8_t ops[] = {0x05, 0x0d, 0x25, 0x2d, 0x35};
			uint32_t imm = random_next(&seed);
			*p++ = ops[imm % sizeof(ops)];
			memcpy(p, &imm, 4);
			p += 4;
		}
		*p++ = 0xc3;
		for (unsigned i = 0; i < times; i++)
			sum += ((uint32_t(*)(void))(uintptr_t)page)();
	}
	return sum;
}

/* Too seldom to be translated. */
static uint64_t jit_run(uint64_t n)
{
	return code_run(n, 10);
}

/* Often enough: it fills a translator's memory. */
static uint64_t jit_hot_run(uint64_t n)
{
	return code_run(n, 40);
}

/* Real programs: busybox, where BENCH_BUSYBOX says, on text made up here. */
static const char *busybox(void)
{
	const char *path = getenv("BENCH_BUSYBOX");

	return path ? path : "/bin/busybox";
}

static int busybox_usable(void)
{
	return !access(busybox(), X_OK);
}

static const char *text_file(void)
{
	static char path[] = "/tmp/cpubench.XXXXXX";
	static int fd = -1;
	uint32_t seed = 5;

	if (fd >= 0)
		return path;
	fd = mkstemp(path);
	must(fd >= 0, "/tmp");
	unlink(path);
	for (int i = 0; i < 16384; i++) {
		char line[64];
		int len = snprintf(line, sizeof(line), "%u %s %x\n", random_next(&seed) % 1000,
				   i & 1 ? "the quick brown" : "jumps over", random_next(&seed));
		must(write(fd, line, (size_t)len) == len, "text");
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return path;
}

static uint64_t applet(uint64_t n, const char *name)
{
	char *argv[] = {(char *)name, NULL};

	for (; n; n--)
		run_program(busybox(), argv, text_file(), "/dev/null");
	return 0;
}

static uint64_t gzip_run(uint64_t n)
{
	return applet(n, "gzip");
}

static uint64_t sha256sum_run(uint64_t n)
{
	return applet(n, "sha256sum");
}

static uint64_t shell_run(uint64_t n)
{
	char *argv[] = {(char *)"sh", (char *)"-c",
			(char *)"i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done", NULL};

	for (; n; n--)
		run_program(busybox(), argv, NULL, NULL);
	return 0;
}

const struct load loads_sys[] = {
    {"getpid", "kernel", getpid_run, NULL},
    {"pread", "kernel", pread_run, NULL},
    {"open-close", "kernel", open_run, NULL},
    {"pipe", "kernel", pipe_run, NULL},
    {"fork", "kernel", fork_run, NULL},
    {"exec", "kernel", exec_run, NULL},
    {"page-fault", "kernel", fault_run, NULL},
    {"mprotect", "kernel", mprotect_run, NULL},
    {"signal", "kernel", signal_run, NULL},
    {"jit", "programs", jit_run, NULL},
    {"jit-hot", "programs", jit_hot_run, NULL},
    {"gzip", "programs", gzip_run, busybox_usable},
    {"sha256sum", "programs", sha256sum_run, busybox_usable},
    {"shell", "programs", shell_run, busybox_usable},
    {NULL, NULL, NULL, NULL},
};
