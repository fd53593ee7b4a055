/* interp_loop.c: how many guest instructions a second the interpreter retires on a plain loop. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "engine/soft/testboard.h"

/* A plain integer loop: arithmetic on registers, a load and a store, a call, a branch. */
__asm__(".pushsection .rodata\nloop_code:\n"
	"mov $20000000, %ecx\n"
	"xor %eax, %eax\n"
	"mov $0x20000, %ebx\n"
	"1: add %rcx, %rax\n"
	"lea 3(%rax,%rcx,2), %rdx\n"
	"xor %rdx, %rax\n"
	"mov %rax, (%rbx)\n"
	"shr $3, %rdx\n"
	"add (%rbx), %rdx\n"
	"imul $7, %rdx, %rsi\n"
	"sub %rsi, %rax\n"
	"dec %ecx\n"
	"jnz 1b\n"
	"hlt\n"
	"loop_end:\n.popsection\n");
extern const uint8_t loop_code[], loop_end[];

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(void)
{
	struct board *b = board_new(1);

	board_load(b, BOARD_CODE, loop_code, (size_t)(loop_end - loop_code));
	board_long(b, BOARD_CODE);
	double start = now();
	int rc = board_run(b);
	double seconds = now() - start;
	uint64_t retired = b->cpu->stats.retired;
	board_free(b);
	if (rc != -1) {
		fprintf(stderr, "interp_loop: the guest ended with %d\n", rc);
		return 1;
	}
	printf("interp_loop: %" PRIu64 " instructions in %.3f s: %.1f million a second\n", retired,
	       seconds, (double)retired / seconds / 1e6);
	return 0;
}
