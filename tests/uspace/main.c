/* main.c: runs the probes, each in a process of its own, and prints what they say. */
#define _GNU_SOURCE
#include "uspace.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

int quick;
static const char *now;

void say(const char *format, ...)
{
	char line[400];
	va_list ap;

	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	if (!strncmp(line, "cpu: ", 5))
		printf("cpu: %s: %s\n", now, line + 5);
	else
		printf("%s: %s\n", now, line);
	fflush(stdout);
}

void wrong(const char *format, ...)
{
	char line[400];
	va_list ap;

	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	printf("%s: WRONG: %s\n", now, line);
	fflush(stdout);
	_exit(1);
}

static sigjmp_buf catch_env;
static volatile struct caught catch_last;

static void catch_handler(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;

	/* A handler begins with the AC that it found. */
	__asm__ volatile("pushf\n\tandl $~0x40000, (%%rsp)\n\tpopf" ::: "memory", "cc");
	catch_last.sig = sig;
	catch_last.code = info->si_code;
	catch_last.addr = (uint64_t)info->si_addr;
	for (unsigned i = 0; i < ARRAY_SIZE(catch_last.reg); i++)
		catch_last.reg[i] = uc->uc_mcontext.gregs[i];
	siglongjmp(catch_env, 1);
}

struct caught caught_in(void (*fn)(void *), void *arg)
{
	static const int sigs[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction old[ARRAY_SIZE(sigs)],
	    act = {.sa_sigaction = catch_handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	struct caught result;

	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
		sigaction(sigs[i], &act, &old[i]);
	catch_last.sig = 0;
	if (!sigsetjmp(catch_env, 1))
		fn(arg);
	result = catch_last;
	for (unsigned i = 0; i < ARRAY_SIZE(sigs); i++)
		sigaction(sigs[i], &old[i], NULL);
	return result;
}

const char *signal_short(int sig)
{
	const char *name = sig ? sigabbrev_np(sig) : "none";

	return name ? name : "?";
}

void *map_rw(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		wrong("no memory");
	return p;
}

int memory_file(size_t size)
{
	int fd = memfd_create("uspace", 0);

	if (fd < 0 || ftruncate(fd, (off_t)size))
		wrong("no memory file");
	return fd;
}

/* Returns whether the probe ended well. */
static int probe_run(const struct probe *p)
{
	int status;

	now = p->name;
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		alarm(p->only_long ? 3000 : 200);
		p->run();
		say("done");
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		printf("%s: no process\n", p->name);
		return 0;
	}
	if (WIFSIGNALED(status))
		printf("%s: WRONG: ended by SIG%s\n", p->name, signal_short(WTERMSIG(status)));
	return !status;
}

/* uspace [quick] [long | PROBE...] */
int main(int argc, char **argv)
{
	static const struct probe *const groups[] = {probes_map,     probes_signal, probes_state,
						     probes_trace,   probes_code,   probes_process,
						     probes_threads, probes_align};
	int all = 0, good = 1;

	if (argc == 2 && !strcmp(argv[1], "--nothing"))
		return 42; /* what the probes execute */
	if (argc > 1 && !strcmp(argv[1], "quick")) {
		quick = 1;
		argc--;
		argv++;
	}
	if (argc > 1 && !strcmp(argv[1], "long")) {
		all = 1;
		argc = 1;
	}
	for (unsigned g = 0; g < ARRAY_SIZE(groups); g++)
		for (const struct probe *p = groups[g]; p->name; p++) {
			int wanted = argc == 1 && (all || !p->only_long);
			for (int i = 1; i < argc; i++)
				wanted |= !strcmp(argv[i], p->name);
			if (wanted)
				good &= probe_run(p);
		}
	printf("uspace: %s\n", good ? "all probes ended well" : "NOT all probes ended well");
	return !good;
}
