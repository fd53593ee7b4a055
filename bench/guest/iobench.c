/* iobench.c: measures a disk and a network connection from within a guest and prints the rate of
 * each load. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 * iobench disk DEVICE MS      sequential and random transfers around the guest's cache, and writes
 * with fdatasync iobench net ADDRESS PORT MS streams both ways and one-byte round trips, with the
 * server of bench/io.py
 *
 * Each load runs for MS milliseconds. A line "rate NAME VALUE UNIT" each, at the end "iobench
 * done".
 */
#define DEPTH_MAX 64
#define BIG	  (1 << 20)
#define SMALL	  4096

static uint64_t load_ns;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void need(int ok, const char *what)
{
	if (ok)
		return;
	printf("iobench: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void rate(const char *name, double units, uint64_t ns, const char *unit)
{
	printf("rate %s %.2f %s\n", name, units * 1e9 / (double)ns, unit);
	fflush(stdout);
}

/* ---- disk ---- */

struct pattern {
	const char *name;
	int write, random;
	size_t bytes;
	unsigned depth;
};

static uint64_t next_offset(const struct pattern *p, uint64_t size, uint64_t *state)
{
	uint64_t slots = size / p->bytes;

	if (!p->random)
		return (*state)++ % slots * p->bytes;
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return (*state >> 33) % slots * p->bytes;
}

static void run_pattern(int fd, uint64_t size, char *buffers, const struct pattern *p)
{
	struct iocb cb[DEPTH_MAX], *ready[DEPTH_MAX];
	struct io_event events[DEPTH_MAX];
	uint64_t start, end, done = 0, state = 1;
	aio_context_t context = 0;
	unsigned flying = 0, count = p->depth;

	need(!syscall(SYS_io_setup, DEPTH_MAX, &context), "io_setup");
	memset(cb, 0, sizeof(cb));
	for (unsigned i = 0; i < p->depth; i++) {
		cb[i].aio_fildes = (uint32_t)fd;
		cb[i].aio_lio_opcode = p->write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
		cb[i].aio_buf = (uintptr_t)(buffers + i * p->bytes);
		cb[i].aio_nbytes = p->bytes;
		cb[i].aio_data = i;
		ready[i] = &cb[i];
	}
	start = now_ns();
	end = start + load_ns;
	while (count || flying) {
		long n;
		for (unsigned i = 0; i < count; i++)
			ready[i]->aio_offset = (int64_t)next_offset(p, size, &state);
		for (unsigned i = 0; i < count; i += (unsigned)n) {
			n = syscall(SYS_io_submit, context, count - i, ready + i);
			need(n > 0, "io_submit");
		}
		flying += count;
		n = syscall(SYS_io_getevents, context, 1, DEPTH_MAX, events, NULL);
		need(n > 0, "io_getevents");
		flying -= (unsigned)n;
		done += (uint64_t)n;
		count = 0;
		for (long i = 0; i < n; i++) {
			need(events[i].res == (int64_t)p->bytes, "a transfer");
			ready[count] = &cb[events[i].data];
			count++;
		}
		if (now_ns() >= end)
			count = 0;
	}
	end = now_ns();
	syscall(SYS_io_destroy, context);
	if (p->bytes == BIG)
		rate(p->name, (double)done * BIG / 1e6, end - start, "MB/s");
	else
		rate(p->name, (double)done, end - start, "I/Os/s");
}

static void run_fsync(int fd, uint64_t size, char *buffer)
{
	uint64_t start = now_ns(), end = start + load_ns, done = 0;

	for (; now_ns() < end; done++) {
		need(pwrite(fd, buffer, SMALL, (off_t)(done * SMALL % size)) == SMALL, "pwrite");
		need(!fdatasync(fd), "fdatasync");
	}
	rate("write+fdatasync", (double)done, now_ns() - start, "/s");
}

static void bench_disk(const char *device)
{
	static const struct pattern patterns[] = {
	    {"seq-read-1M", 0, 0, BIG, 1},	   {"seq-read-1M-x4", 0, 0, BIG, 4},
	    {"seq-write-1M", 1, 0, BIG, 1},	   {"seq-write-1M-x4", 1, 0, BIG, 4},
	    {"rand-read-4k", 0, 1, SMALL, 1},	   {"rand-read-4k-x16", 0, 1, SMALL, 16},
	    {"rand-write-4k", 1, 1, SMALL, 1},	   {"rand-write-4k-x16", 1, 1, SMALL, 16},
	    {"rand-read-4k-x64", 0, 1, SMALL, 64},
	};
	int fd = open(device, O_RDWR | O_DIRECT);
	uint64_t size = 0;
	char *buffers;

	need(fd >= 0, device);
	need(!ioctl(fd, BLKGETSIZE64, &size) && size >= BIG, "the size of the disk");
	buffers = aligned_alloc(4096, 4 * BIG);
	need(!!buffers, "memory");
	memset(buffers, 0x5a, 4 * BIG);
	for (size_t i = 0; i < sizeof(patterns) / sizeof(*patterns); i++)
		run_pattern(fd, size, buffers, &patterns[i]);
	run_fsync(fd, size, buffers);
}

/* ---- network ---- */

static int connect_for(const char *address, const char *port, char what)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	need(inet_pton(AF_INET, address, &to.sin_addr) == 1, address);
	need(!connect(fd, (struct sockaddr *)&to, sizeof(to)), "connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	need(write(fd, &what, 1) == 1, "write");
	return fd;
}

static char stream[256 << 10];

static void bench_in(int fd)
{
	uint64_t start = now_ns(), end = start + load_ns, bytes = 0;

	while (now_ns() < end) {
		ssize_t n = read(fd, stream, sizeof(stream));
		need(n > 0, "read");
		bytes += (uint64_t)n;
	}
	rate("host-to-guest", (double)bytes / 1e6, now_ns() - start, "MB/s");
}

/* What counts is what has arrived: the server answers at the end. */
static void bench_out(int fd)
{
	uint64_t start = now_ns(), end = start + load_ns, bytes = 0;
	char answer;

	while (now_ns() < end) {
		ssize_t n = write(fd, stream, sizeof(stream));
		need(n > 0, "write");
		bytes += (uint64_t)n;
	}
	shutdown(fd, SHUT_WR);
	need(read(fd, &answer, 1) == 1, "the server's answer");
	rate("guest-to-host", (double)bytes / 1e6, now_ns() - start, "MB/s");
}

static void bench_echo(int fd)
{
	uint64_t start = now_ns(), end = start + load_ns, done = 0;
	char c = 'x';

	for (; now_ns() < end; done++)
		need(write(fd, &c, 1) == 1 && read(fd, &c, 1) == 1, "echo");
	rate("round-trips", (double)done, now_ns() - start, "/s");
}

static void bench_net(const char *address, const char *port)
{
	static const struct {
		char what;
		void (*run)(int fd);
	} loads[] = {{'R', bench_in}, {'W', bench_out}, {'E', bench_echo}};

	for (size_t i = 0; i < sizeof(loads) / sizeof(*loads); i++) {
		int fd = connect_for(address, port, loads[i].what);
		loads[i].run(fd);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "disk")) {
		load_ns = strtoull(argv[3], NULL, 10) * 1000000;
		bench_disk(argv[2]);
	} else if (argc == 5 && !strcmp(argv[1], "net")) {
		load_ns = strtoull(argv[4], NULL, 10) * 1000000;
		bench_net(argv[2], argv[3]);
	} else {
		fprintf(stderr, "usage: iobench disk DEVICE MS | net ADDRESS PORT MS\n");
		return 2;
	}
	puts("iobench done");
	return 0;
}
