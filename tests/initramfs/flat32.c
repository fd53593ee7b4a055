/* flat32.c: a 32-bit program without a library (gcc -m32 -nostdlib), for a 64-bit kernel:
 * arithmetic, strings, x87 and SSE, thread-local data in GS, system calls by INT 80h and by the
 * vDSO, signals, a child, code that it writes itself. Prints one line.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

enum {
	EXIT = 1,
	FORK = 2,
	READ = 3,
	WRITE = 4,
	WAITPID = 7,
	GETPID = 20,
	PIPE = 42,
	SIGACTION = 174,
	MMAP2 = 192,
	SET_THREAD_AREA = 243
};

static u32 sysinfo; /* the vDSO's entry */

static int call80(int nr, long a, long b, long c, long d, long e)
{
	int ret;

	__asm__ volatile("int $0x80"
			 : "=a"(ret)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return ret;
}
static int call_vdso(int nr, long a, long b, long c)
{
	int ret;

	__asm__ volatile("call *%1"
			 : "=a"(ret)
			 : "m"(sysinfo), "a"(nr), "b"(a), "c"(b), "d"(c)
			 : "memory");
	return ret;
}

static void fail(const char *what)
{
	u32 n = 0;

	while (what[n])
		n++;
	call80(WRITE, 1, (long)"flat32: failed: ", 16, 0, 0);
	call80(WRITE, 1, (long)what, n, 0, 0);
	call80(WRITE, 1, (long)"\n", 1, 0, 0);
	call80(EXIT, 1, 0, 0, 0, 0);
}
#define MUST(x)                                                                                    \
	do {                                                                                       \
		if (!(x))                                                                          \
			fail(#x);                                                                  \
	} while (0)

/* The compiler may ask for these. */
void *memcpy(void *to, const void *from, unsigned n)
{
	void *start = to;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
	return start;
}
void *memset(void *to, int c, unsigned n)
{
	void *start = to;

	__asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
	return start;
}

static u32 crc(const u8 *p, u32 n)
{
	u32 c = ~0u;

	while (n--) {
		c ^= *p++;
		for (int k = 0; k < 8; k++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
	}
	return ~c;
}

static u32 words[16384];
static void sort(int from, int to)
{
	u32 pivot = words[(from + to) / 2];
	int i = from, j = to;

	while (i <= j) {
		while (words[i] < pivot)
			i++;
		while (words[j] > pivot)
			j--;
		if (i <= j) {
			u32 t = words[i];
			words[i++] = words[j];
			words[j--] = t;
		}
	}
	if (from < j)
		sort(from, j);
	if (i < to)
		sort(i, to);
}

static u32 fib(u32 n)
{
	return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static double series(void)
{
	double sum = 0;

	for (volatile int k = 1; k <= 1000; k++)
		sum += 1.0 / k;
	return sum;
}

__attribute__((target("sse2"))) static u32 vectors(void)
{
	typedef u32 v4 __attribute__((vector_size(16)));
	v4 sum = {1, 2, 3, 4}, step = {5, 6, 7, 8};

	for (int k = 0; k < 1000; k++)
		sum = (sum + step) ^ (sum << 1);
	return sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
}

/* GS: a segment with the base of this. */
static u32 tls[16];
static void thread_local_data(void)
{
	u32 desc[4] = {~0u, (u32)tls, 0xfffff, 0x51}; /* 32-bit, limit in pages, usable */
	u32 v, at = 8;

	MUST(!call80(SET_THREAD_AREA, (long)desc, 0, 0, 0, 0));
	__asm__ volatile("mov %0, %%gs" ::"r"(desc[0] * 8 + 3));
	tls[2] = 77;
	__asm__ volatile("mov %%gs:-4(%1), %0; addl $1, %%gs:8; mov %%gs:(%1), %0"
			 : "=&r"(v)
			 : "r"(at)
			 : "memory");
	MUST(v == 78 && tls[2] == 78);
}

static volatile int faults;
static void on_fault(int signal, void *info, void *context)
{
	u32 *eip = (u32 *)context + 5 +
		   14; /* ucontext: flags, link, stack; then sigcontext, whose 15th word is EIP */

	(void)info;
	faults += signal;
	*eip += 2; /* over a load or a division of two bytes */
}
extern const u8 on_return[];
__asm__("on_return: mov $173, %eax; int $0x80"); /* rt_sigreturn */
static void signals(void)
{
	struct {
		void (*handler)(int, void *, void *);
		u32 flags;
		const u8 *restorer;
		u32 mask[2];
	} act = {on_fault, 0x4000004, on_return, {0, 0}}; /* SA_RESTORER, SA_SIGINFO */

	MUST(!call80(SIGACTION, 11, (long)&act, 0, 8, 0));
	MUST(!call80(SIGACTION, 8, (long)&act, 0, 8, 0));
	for (int k = 0; k < 20; k++) {
		__asm__ volatile("mov (%%ecx), %%eax" ::"c"(16) : "eax", "memory");
		__asm__ volatile("div %%ecx" ::"c"(0), "a"(1), "d"(0));
	}
	MUST(faults == 20 * (11 + 8));
}

static void child(void)
{
	int fd[2], status = 0, pid;
	u32 v = 0;

	MUST(!call80(PIPE, (long)fd, 0, 0, 0, 0));
	pid = call_vdso(FORK, 0, 0, 0);
	if (!pid) {
		v = fib(15);
		call_vdso(WRITE, fd[1], (long)&v, 4);
		call80(EXIT, 7, 0, 0, 0, 0);
	}
	MUST(pid > 0 && call_vdso(READ, fd[0], (long)&v, 4) == 4 && v == 610);
	MUST(call80(WAITPID, pid, (long)&status, 0, 0, 0) == pid && status == 7 << 8);
}

static void own_code(void)
{
	/* mmap2: writable and executable, private, anonymous */
	struct __attribute__((packed)) {
		u8 mov;
		u32 imm;
		u8 ret;
	} volatile *code = (void *)call80(MMAP2, 0, 4096, 7, 0x22, -1);

	MUST((u32)code < 0xfffff000u);
	for (u32 k = 0; k < 200; k++) {
		code->mov = 0xb8;
		code->imm = k * k;
		code->ret = 0xc3;
		MUST(((u32(*)(void))(u32)code)() == k * k);
	}
}

static char line[64];
static void print(const char *text, u32 v)
{
	u32 n = 0;

	while (text[n]) {
		line[n] = text[n];
		n++;
	}
	for (int k = 28; k >= 0; k -= 4)
		line[n++] = "0123456789abcdef"[v >> k & 15];
	line[n++] = '\n';
	MUST(call_vdso(WRITE, 1, (long)line, n) == (int)n);
}

__attribute__((used)) static void run(u32 *stack)
{
	u32 argc = stack[0], *p = stack + argc + 2, x = 1;

	while (*p++)
		;
	for (; p[0]; p += 2) /* the auxiliary vector: AT_SYSINFO */
		if (p[0] == 32)
			sysinfo = p[1];
	MUST(sysinfo);
	for (u32 k = 0; k < 16384; k++)
		words[k] = x = x * 1103515245u + 12345;
	sort(0, 16383);
	thread_local_data();
	signals();
	child();
	own_code();
	MUST(fib(22) == 17711);
	MUST((u32)(series() * 1e6) == 7485470);
	MUST(vectors());
	for (u32 k = 0; k < 2000; k++)
		MUST(call_vdso(GETPID, 0, 0, 0) == call80(GETPID, 0, 0, 0, 0, 0));
	print("flat32: sorted ", crc((u8 *)words, sizeof(words)));
	call80(EXIT, 0, 0, 0, 0, 0);
}
__asm__(".globl _start; _start: mov %esp, %eax; and $-16, %esp; push %eax; push %eax; push %eax; "
	"push %eax; call run; hlt");
