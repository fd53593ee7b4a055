/* map.c: probes of memory: where it can be, what it may do, who sees it. */
#define _GNU_SOURCE
#include "uspace.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static void load(void *p)
{
	(void)*(volatile uint8_t *)p;
}
static void store(void *p)
{
	*(volatile uint8_t *)p = 1;
}
static void run(void *p)
{
	((void (*)(void))p)();
}

static void describe(const char *what, void (*fn)(void *), void *p, void *base)
{
	struct caught c = caught_in(fn, p);

	say("%s: SIG%s code %d address %+ld error %ld", what, signal_short(c.sig),
	    c.sig ? c.code : 0, c.sig && c.addr ? (long)(c.addr - (uint64_t)base) : 0,
	    c.sig == SIGSEGV ? (long)c.reg[REG_ERR] : 0);
}

static void *fixed(uint64_t at, size_t size, int prot)
{
	return mmap((void *)at, size, prot,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

/* One page at a time all over user space. */
static void everywhere(void)
{
	unsigned good = 0, taken = 0;

	for (uint64_t slot = 0; slot < 256; slot++)
		for (unsigned k = 0; k < 4; k++) {
			uint64_t at = slot << 39 | (uint64_t)k * 0x1fabcd000 | 0x3000;
			uint64_t *p = fixed(at, PAGE, PROT_READ | PROT_WRITE);
			if (p == MAP_FAILED) {
				taken++;
				continue;
			}
			CHECK((uint64_t)p == at && !p[5]);
			p[5] = at * 3;
			p[511] = ~at;
			good++;
			if (k & 1)
				continue;
			CHECK(p[5] == at * 3 && p[511] == ~at);
			munmap(p, PAGE);
			CHECK(caught_in(load, p).sig == SIGSEGV);
		}
	CHECK(good > 1000 && good + taken == 1024);
	for (uint64_t slot = 0; slot < 256; slot++) {
		uint64_t *p = (uint64_t *)(slot << 39 | 0x1fabcd000 | 0x3000);
		CHECK(p[5] == (uint64_t)p * 3);
	}
	/* Whole slots, sparsely: any place of any other user of this address space is covered. */
	unsigned slots = 0;
	for (uint64_t slot = 1; slot < 255; slot++) {
		uint8_t *p = fixed(slot << 39 | UINT64_C(0x2000000000), UINT64_C(0x4000000000),
				   PROT_READ | PROT_WRITE);
		if (p == MAP_FAILED)
			continue;
		slots++;
		for (uint64_t off = 0; off < UINT64_C(0x4000000000);
		     off += UINT64_C(0x4000000000) / (quick ? 4 : 16)) {
			CHECK(!p[off]);
			p[off + 77] = (uint8_t)slot;
			CHECK(p[off + 77] == (uint8_t)slot);
		}
	}
	CHECK(slots > 200);
}

static void edges(void)
{
	static const uint64_t top = UINT64_C(0x7ffffffff000);

	say("above the top: %s",
	    fixed(top, PAGE, PROT_READ) == MAP_FAILED ? strerror(errno) : "mapped");
	say("kernel half: %s", fixed(UINT64_C(0xffff800000000000), PAGE, PROT_READ) == MAP_FAILED
				   ? strerror(errno)
				   : "mapped");
	uint8_t *p = fixed(top - PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	if (p != MAP_FAILED) { /* else the stack is there */
		p[4095] = 0xc3;
		((void (*)(void))(p + 4095))();
		CHECK(p[4095] == 0xc3);
		struct caught c = caught_in(load, p + 4096);
		/* Not canonical or merely not there: the same signal. */
		CHECK(c.sig == SIGSEGV);
	}
	static const uint64_t strange[] = {0,
					   0xfff,
					   UINT64_C(0x7ffffffff000),
					   UINT64_C(0x7fffffffffff),
					   UINT64_C(0x800000000000),
					   UINT64_C(0x8000000000000000),
					   UINT64_C(0xffff800000000000),
					   UINT64_C(0xffffffff81000000),
					   UINT64_C(0xfffffffffffffff8)};
	for (unsigned i = 0; i < ARRAY_SIZE(strange); i++) {
		struct caught r = caught_in(load, (void *)strange[i]),
			      w = caught_in(store, (void *)strange[i]);
		struct caught x = caught_in(run, (void *)strange[i]);
		say("%#lx: read SIG%s %d %#lx, write SIG%s %d %#lx, run SIG%s %d %#lx", strange[i],
		    signal_short(r.sig), r.code, r.addr, signal_short(w.sig), w.code, w.addr,
		    signal_short(x.sig), x.code, x.addr);
	}
	/* The lowest pages: whoever may have them has real ones. */
	for (uint64_t at = 0; at < 0x20000; at += PAGE) {
		volatile uint64_t *low = mmap((void *)at, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC,
					      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (low == MAP_FAILED)
			continue;
		__asm__ volatile("" : "+r"(low));
		low[8] = at + 5;
		((volatile uint8_t *)low)[100] = 0xc3;
		void (*fn)(void) = (void (*)(void))((uintptr_t)low + 100);
		fn();
		CHECK(low[8] == at + 5);
	}
}

static void protections(void)
{
	uint8_t *p = map_rw(4 * PAGE);

	static const int prots[] = {PROT_NONE,
				    PROT_READ,
				    PROT_WRITE,
				    PROT_READ | PROT_WRITE,
				    PROT_EXEC,
				    PROT_READ | PROT_EXEC,
				    PROT_READ | PROT_WRITE | PROT_EXEC};
	memset(p, 0xc3, 4 * PAGE);
	for (unsigned i = 0; i < ARRAY_SIZE(prots); i++) {
		CHECK(!mprotect(p + PAGE, PAGE, prots[i]));
		struct caught r = caught_in(load, p + PAGE + 9),
			      w = caught_in(store, p + PAGE + 10),
			      x = caught_in(run, p + PAGE + 11);
		/* Whether execute-only can be read is a matter of protection keys. */
		if (prots[i] == PROT_EXEC)
			r = (struct caught){0};
		say("%d: read SIG%s %d, write SIG%s %d, run SIG%s %d", prots[i],
		    signal_short(r.sig), r.sig ? r.code : 0, signal_short(w.sig),
		    w.sig ? w.code : 0, signal_short(x.sig), x.sig ? x.code : 0);
	}
	describe("unmapped", load, (munmap(p + 2 * PAGE, PAGE), p + 2 * PAGE + 100), p);
	CHECK(p[PAGE] == 0xc3 && p[3 * PAGE] == 0xc3);
	/* Thousands of flips of one page. */
	CHECK(!mprotect(p, PAGE, PROT_READ | PROT_WRITE));
	unsigned faults = 0;
	for (unsigned i = 0; i < (quick ? 100 : 1000); i++) {
		p[0] = (uint8_t)i;
		mprotect(p, PAGE, PROT_READ);
		faults += caught_in(store, p).sig == SIGSEGV;
		CHECK(p[0] == (uint8_t)i);
		mprotect(p, PAGE, PROT_READ | PROT_WRITE);
	}
	CHECK(faults == (quick ? 100 : 1000));
}

static void aliases(void)
{
	int fd = memory_file(16 * PAGE);
	volatile uint32_t *a = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	volatile uint32_t *b = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	volatile uint32_t *c = mmap(NULL, 16 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);

	for (unsigned i = 0; i < 4000; i++) {
		unsigned at = i * 1021 % (16 * 1024);
		a[at] = i + 1;
		CHECK(b[at] == i + 1 && c[at] == i + 1);
		b[at] = i + 2;
		CHECK(a[at] == i + 2);
	}
	uint32_t got = 0;
	CHECK(pwrite(fd, "abcd", 4, 4096) == 4 && a[1024] == 0x64636261 && b[1024] == a[1024]);
	b[2048] = 0x31323334;
	CHECK(pread(fd, &got, 4, 8192) == 4 && got == 0x31323334);
	/* One page at sixteen addresses. */
	volatile uint32_t *ring = map_rw(16 * PAGE);
	for (unsigned i = 0; i < 16; i++)
		CHECK(mmap((void *)(ring + i * 1024), PAGE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED);
	for (unsigned i = 0; i < 1000; i++) {
		ring[i % 16 * 1024 + 3] = i;
		CHECK(ring[(i + 7) % 16 * 1024 + 3] == i && a[3] == i);
	}
	/* Beyond the end of the file. */
	CHECK(!ftruncate(fd, 8 * PAGE));
	describe("behind the file", load, (void *)(a + 9 * 1024), (void *)a);
	pid_t pid = fork();
	if (!pid) {
		for (unsigned i = 0; i < 100000 && a[7] != 77; i++)
			sched_yield();
		b[8] = a[7] + 1;
		_exit(0);
	}
	a[7] = 77;
	waitpid(pid, NULL, 0);
	CHECK(a[8] == 78);
}

static void moves(void)
{
	uint64_t *p = map_rw(64 * PAGE);

	for (unsigned i = 0; i < 64; i++)
		p[i * 512] = i + 1000;
	uint64_t *q = mremap(p, 64 * PAGE, 128 * PAGE, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED);
	for (unsigned i = 0; i < 64; i++)
		CHECK(q[i * 512] == i + 1000 && !q[(i + 64) * 512]);
	uint64_t *hole = map_rw(256 * PAGE);
	uint64_t *r = mremap(q + 10 * 512, 5 * PAGE, 5 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
			     hole + 30 * 512);
	CHECK(r == hole + 30 * 512);
	for (unsigned i = 0; i < 5; i++)
		CHECK(r[i * 512] == i + 1010);
	describe("moved away", load, q + 12 * 512, q + 12 * 512);
	r = mremap(q + 20 * 512, 2 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | 4 /* DONTUNMAP */, NULL);
	CHECK(r != MAP_FAILED && r[0] == 1020 && r[512] == 1021 && !q[20 * 512]);
	CHECK(mremap(q + 40 * 512, 8 * PAGE, 2 * PAGE, 0) == q + 40 * 512);
	describe("cut off", load, q + 43 * 512, q + 43 * 512);
	/* Back and forth, so that what was there before must not show through. */
	uint64_t *x = map_rw(PAGE), *y = hole;
	for (unsigned i = 0; i < 500; i++) {
		*x = i;
		CHECK(mremap(x, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, y) == y && *y == i);
		CHECK(mmap(x, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			   -1, 0) == x &&
		      !*x);
	}
}

static void advice(void)
{
	size_t size = 4u << 20;
	uint8_t *p = map_rw(size + (2u << 20));

	p = (uint8_t *)(((uintptr_t)p + (2u << 20) - 1) & ~(uintptr_t)((2u << 20) - 1));
	for (unsigned huge = 0; huge < 2; huge++) {
		madvise(p, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
		for (size_t i = 0; i < size; i += PAGE)
			p[i] = (uint8_t)(i / PAGE * 7 + 1);
		for (size_t i = 0; i < size; i += PAGE)
			CHECK(p[i] == (uint8_t)(i / PAGE * 7 + 1));
		CHECK(!madvise(p + 5 * PAGE, 300 * PAGE, MADV_DONTNEED));
		for (size_t i = 0; i < size; i += PAGE)
			CHECK(p[i] == (i / PAGE - 5 < 300 ? 0 : (uint8_t)(i / PAGE * 7 + 1)));
		CHECK(!mprotect(p + 700 * PAGE, PAGE, PROT_READ));
		CHECK(caught_in(store, p + 700 * PAGE).sig == SIGSEGV);
		p[701 * PAGE] = 9;
		CHECK(!munmap(p + 800 * PAGE, PAGE) &&
		      caught_in(load, p + 800 * PAGE).sig == SIGSEGV && p[799 * PAGE] &&
		      p[801 * PAGE]);
		/* A child's copy. */
		pid_t pid = fork();
		int status;
		if (!pid) {
			for (size_t i = 0; i < 100 * PAGE; i += PAGE)
				p[i] = 0xee;
			_exit(p[PAGE] == 0xee ? 0 : 1);
		}
		CHECK(waitpid(pid, &status, 0) == pid && !status && p[PAGE] == 8 &&
		      p[400 * PAGE] == (uint8_t)(400 * 7 + 1));
		CHECK(mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
			   -1, 0) == p &&
		      !p[PAGE]);
	}
	for (unsigned i = 0; i < (quick ? 200 : 2000); i++) {
		p[100] = 5;
		madvise(p, PAGE, MADV_DONTNEED);
		CHECK(!p[100]);
	}
	uint8_t *old = sbrk(0);
	CHECK(sbrk(1 << 20) == old);
	memset(old, 0x5a, 1 << 20);
	CHECK(sbrk(-(1 << 20)) != (void *)-1);
	describe("above the heap", load, old + (1 << 20) - 1, old + (1 << 20) - 1);
	CHECK(sbrk(1 << 20) == old && !old[70000]);
}

/* Single pages with rights that change from each to the next. */
static void mosaic(unsigned pages)
{
	uint8_t *p = map_rw(pages * PAGE);

	for (unsigned i = 0; i < pages; i++)
		p[i * PAGE + i % 4096] = (uint8_t)(i % 251 + 1);
	for (unsigned i = 0; i < pages; i += 2)
		CHECK(!mprotect(p + i * PAGE, PAGE, PROT_READ));
	for (unsigned round = 0; round < 2; round++)
		for (unsigned i = 0; i < pages; i++) {
			CHECK(p[i * PAGE + i % 4096] == (uint8_t)(i % 251 + 1));
			if (i & 1)
				p[i * PAGE + (i + 1) % 4096] = 1;
		}
	unsigned faults = 0;
	for (unsigned i = 0; i < pages; i += 64)
		faults += caught_in(store, p + i * PAGE).sig == SIGSEGV;
	CHECK(faults == (pages + 63) / 64);
}
static void pieces(void)
{
	mosaic(quick ? 2000 : 6000);
}
static void pieces_many(void)
{
	mosaic(60000);
}

struct pager {
	int fd;
	uint8_t *area;
	unsigned served;
};
static void *pager_run(void *arg)
{
	struct pager *g = arg;
	struct uffd_msg m;
	uint8_t *page = map_rw(PAGE);

	while (read(g->fd, &m, sizeof(m)) == sizeof(m)) {
		if (m.event != UFFD_EVENT_PAGEFAULT)
			continue;
		uint64_t at = m.arg.pagefault.address & ~(PAGE - 1);
		unsigned n = (unsigned)((at - (uint64_t)g->area) / PAGE);
		memset(page, (int)(n + 1), PAGE);
		struct uffdio_copy copy = {.dst = at, .src = (uint64_t)page, .len = PAGE};
		struct uffdio_zeropage zero = {.range = {at, PAGE}};
		g->served++;
		if (n % 5 == 4)
			ioctl(g->fd, UFFDIO_ZEROPAGE, &zero);
		else
			ioctl(g->fd, UFFDIO_COPY, &copy);
		if (n == 63)
			break;
	}
	return NULL;
}
static void user_faults(void)
{
	struct pager g = {.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)};
	struct uffdio_api api = {.api = UFFD_API};
	pthread_t thread;

	if (g.fd < 0)
		return; /* a kernel without, or one that does not let us */
	CHECK(!ioctl(g.fd, UFFDIO_API, &api));
	g.area = map_rw(64 * PAGE);
	struct uffdio_register reg = {.range = {(uint64_t)g.area, 64 * PAGE},
				      .mode = UFFDIO_REGISTER_MODE_MISSING};
	CHECK(!ioctl(g.fd, UFFDIO_REGISTER, &reg));
	CHECK(!pthread_create(&thread, NULL, pager_run, &g));
	for (unsigned i = 0; i < 64; i++) {
		unsigned n = i * 37 % 63;
		if (i == 63)
			n = 63;
		CHECK(g.area[n * PAGE + i] == (n % 5 == 4 ? 0 : n + 1));
		g.area[n * PAGE + i] = 200;
	}
	pthread_join(thread, NULL);
	for (unsigned i = 0; i < 63; i++)
		CHECK(g.area[i * 37 % 63 * PAGE + i] == 200);
	CHECK(g.served == 64);
}

static void others_memory(void)
{
	uint64_t *p = map_rw(4 * PAGE), got[2];
	int to[2], from[2];
	char c;

	CHECK(!pipe(to) && !pipe(from));
	pid_t pid = fork();
	if (!pid) {
		p[600] = 4321;
		CHECK(write(from[1], "x", 1) == 1 && read(to[0], &c, 1) == 1);
		_exit(p[601] == 8765 ? 0 : 1);
	}
	CHECK(read(from[0], &c, 1) == 1);
	struct iovec here = {got, 8}, there = {p + 600, 8};
	ssize_t n = process_vm_readv(pid, &here, 1, &there, 1, 0);
	CHECK(n == 8 ? got[0] == 4321 : errno == EPERM);
	got[0] = 8765;
	there.iov_base = p + 601;
	if (process_vm_writev(pid, &here, 1, &there, 1, 0) != 8)
		kill(pid, SIGKILL); /* not permitted here */
	CHECK(write(to[1], "x", 1) == 1);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && (!status || n != 8));
	/* A write-protected page of code, written through /proc. */
	uint8_t *code = map_rw(PAGE);
	memcpy(code, "\xb8\x05\0\0\0\xc3", 6);
	CHECK(!mprotect(code, PAGE, PROT_READ | PROT_EXEC) && ((int (*)(void))code)() == 5);
	int mem = open("/proc/self/mem", O_RDWR);
	if (mem >= 0 && pwrite(mem, "\x09", 1, (off_t)(uintptr_t)code + 1) == 1)
		CHECK(((int (*)(void))code)() == 9);
}

const struct probe probes_map[] = {
    {"everywhere", everywhere, 0},
    {"edges", edges, 0},
    {"protections", protections, 0},
    {"aliases", aliases, 0},
    {"moves", moves, 0},
    {"advice", advice, 0},
    {"pieces", pieces, 0},
    {"pieces-many", pieces_many, 1},
    {"user-faults", user_faults, 0},
    {"others-memory", others_memory, 0},
    {0},
};
