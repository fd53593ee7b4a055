/* direct_scan_test.c: tests that user code in a helper does not learn what the host's CPU is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <asm/prctl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "engine/soft/direct.h"
#include "engine/soft/direct_testing.h"
#include "engine/soft/testcode.h"

static _Bool sensitive(const ZydisDecoder *d, const uint8_t *page, const uint8_t *next,
		       _Bool tables)
{
	unsigned seek = DIRECT_SEEK_CPUID | (tables ? DIRECT_SEEK_TABLES : 0);
	uint64_t decoded = 1000;
	_Bool is = direct_sensitive(d, page, next, seek, &decoded);

	assert_in_range(decoded, 1000, 1000 + 4096);
	return is;
}

CODE(has_cpuid, "mov %eax, %ebx\n.rept 30\nadd %rbx, %rax\n.endr\ncpuid\nret\n");
CODE(has_none, ".rept 30\nadd %rbx, %rax\n.endr\nmov $0xa20f, %eax\nmov $0xa20f, %ebx\nret\n");
CODE(has_lsl, ".rept 30\nadd %rbx, %rax\n.endr\nlsl %eax, %eax\nret\n");
CODE(has_lsl_of_memory, ".rept 30\nadd %rbx, %rax\n.endr\nlsl (%rdi), %eax\nret\n");
CODE(has_lar_of_memory, ".rept 30\nadd %rbx, %rax\n.endr\nlar 8(%rsp), %eax\nret\n");
CODE(has_verw, ".rept 30\nadd %rbx, %rax\n.endr\nverw %ax\nret\n");
CODE(has_verr, ".rept 30\nadd %rbx, %rax\n.endr\nverr (%rdi)\nret\n");
CODE(has_vmcall, ".rept 30\nadd %rbx, %rax\n.endr\nvmcall\nret\n");
CODE(has_vmmcall, ".rept 30\nadd %rbx, %rax\n.endr\nvmmcall\nret\n");
CODE(has_vmfunc, ".rept 30\nadd %rbx, %rax\n.endr\nvmfunc\nret\n");
CODE(has_rdtscp, ".rept 30\nadd %rbx, %rax\n.endr\nrdtscp\nret\n");
CODE(has_rdpid, ".rept 30\nadd %rbx, %rax\n.endr\nrdpid %rax\nret\n");
CODE(has_rdseed, ".rept 30\nadd %rbx, %rax\n.endr\nrdseed %eax\nrdseed %r10\nret\n");
CODE(has_rdpid_of_many, ".rept 30\nadd %rbx, %rax\n.endr\n"
			".byte 0xf3, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x0f, 0xc7, 0xf8\nret\n");
CODE(has_xsavec, ".rept 30\nadd %rbx, %rax\n.endr\nxsavec 0x40(%rsp)\nret\n");
CODE(has_xrstor, ".rept 30\nadd %rbx, %rax\n.endr\nxrstor 0x40(%rsp)\nret\n");
CODE(has_lfence, ".rept 30\nadd %rbx, %rax\n.endr\nlfence\nfxsave (%rsp)\nret\n");
static void instructions_that_would_tell_of_the_host_are_found(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		_Bool is;
	} rows[] = {
	    {has_cpuid, has_cpuid_end, 1},
	    {has_none, has_none_end, 0},
	    {has_lsl, has_lsl_end, 1},
	    {has_rdtscp, has_rdtscp_end, 1},
	    {has_rdpid, has_rdpid_end, 1},
	    {has_rdpid_of_many, has_rdpid_of_many_end, 1},
	    {has_rdseed, has_rdseed_end, 0},
	    {has_xsavec, has_xsavec_end, 1},
	    {has_lsl_of_memory, has_lsl_of_memory_end, 1},
	    {has_lar_of_memory, has_lar_of_memory_end, 1},
	    {has_verw, has_verw_end, 1},
	    {has_verr, has_verr_end, 1},
	    {has_vmcall, has_vmcall_end, 1},
	    {has_vmmcall, has_vmmcall_end, 1},
	    {has_vmfunc, has_vmfunc_end, 1},
	    {has_xrstor, has_xrstor_end, 1},
	    {has_lfence, has_lfence_end, 0},
	};
	static uint8_t page[4096];
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		memset(page, 0x90, sizeof(page));
		memcpy(page + 1000, rows[i].code, (size_t)(rows[i].end - rows[i].code));
		assert_int_equal(sensitive(&d, page, page, 0), rows[i].is);
	}
	/* Anywhere in a page. */
	memset(page, 0x90, sizeof(page));
	for (unsigned at = 0; at + 2 <= sizeof(page); at++) {
		page[at] = 0x0f;
		page[at + 1] = 0xa2;
		assert_int_equal(sensitive(&d, page, page, 0), 1);
		page[at] = page[at + 1] = 0x90;
	}
	assert_int_equal(sensitive(&d, page, page, 0), 0);
	/* Across the end of a page. */
	memset(page, 0x90, sizeof(page));
	page[4095] = 0x0f;
	assert_int_equal(sensitive(&d, page, (const uint8_t *)"\xa2", 0), 1);
	assert_int_equal(sensitive(&d, page, (const uint8_t *)"\x90\x90", 0), 0);
	assert_int_equal(sensitive(&d, page, (const uint8_t *)"\x01\xf9", 0), 1);
	page[4094] = 0x0f;
	page[4095] = 0x01;
	assert_int_equal(sensitive(&d, page, (const uint8_t *)"\xf9\x90", 0), 1);
	assert_int_equal(sensitive(&d, page, (const uint8_t *)"\xf8\x90", 0), 0);
}

CODE(has_sgdt, ".rept 30\nadd %rbx, %rax\n.endr\nsgdt (%rdi)\nret\n");
CODE(has_sidt, ".rept 30\nadd %rbx, %rax\n.endr\nsidt (%rdi)\nret\n");
CODE(has_sldt, ".rept 30\nadd %rbx, %rax\n.endr\nsldt %eax\nret\n");
CODE(has_str, ".rept 30\nadd %rbx, %rax\n.endr\nstr (%rdi)\nret\n");
CODE(has_smsw, ".rept 30\nadd %rbx, %rax\n.endr\nsmsw %eax\nret\n");
static void where_there_is_no_umip_stores_of_tables_are_found(void **state)
{
	static const struct {
		const uint8_t *code, *end;
	} rows[] = {{has_sgdt, has_sgdt_end},
		    {has_sidt, has_sidt_end},
		    {has_sldt, has_sldt_end},
		    {has_str, has_str_end},
		    {has_smsw, has_smsw_end}};
	static uint8_t page[4096];
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		memset(page, 0x90, sizeof(page));
		memcpy(page + 1000, rows[i].code, (size_t)(rows[i].end - rows[i].code));
		assert_int_equal(sensitive(&d, page, page, 1), 1);
		assert_int_equal(sensitive(&d, page, page, 0), 0);
	}
}

/* What stands before a function is often no code: a string, a table. */
CODE(behind_data, "push %rbx\ncpuid\nret\n");
static void a_function_behind_bytes_that_are_no_code_is_found(void **state)
{
	static const char text[] =
	    "A string, as compilers put them before a function: \"%s\", 0x%016lx.";
	static uint8_t page[4096];
	ZydisDecodedInstruction zi;
	ZydisDecoder d;
	unsigned bytes = 0;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned byte = 0; byte < 256; byte++) {
		memset(page, 0xcc, sizeof(page));
		memset(page + 500, (int)byte, 62);
		if (!ZYAN_FAILED(ZydisDecoderDecodeInstruction(&d, NULL, page + 500, 62, &zi)))
			continue;
		memcpy(page + 562, behind_data, (size_t)(behind_data_end - behind_data));
		if (!sensitive(&d, page, page, 0))
			fail_msg("CPUID behind a table of 0x%02x was not found", byte);
		bytes++;
	}
	assert_true(bytes > 10);
	/* A string, and what fills up to where functions begin. */
	memset(page, 0xcc, sizeof(page));
	memcpy(page + 512, text, sizeof(text));
	memcpy(page + 592, behind_data, (size_t)(behind_data_end - behind_data));
	assert_true(sensitive(&d, page, page, 0));
}

CODE(has_sysenter, "mov %eax, %ebx\n.rept 30\nadd %rbx, %rax\n.endr\nsysenter\nret\n");
CODE(has_no_sysenter, ".rept 30\nadd %rbx, %rax\n.endr\nmov $0x340f, %eax\nadd $0x340f, %ebx\n"
		      "lea 0x340f(%rax), %ecx\nret\n");
static void what_is_not_asked_for_is_not_looked_for(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		unsigned found; /* by what */
	} rows[] = {{has_cpuid, has_cpuid_end, DIRECT_SEEK_CPUID},
		    {has_sysenter, has_sysenter_end, DIRECT_SEEK_SYSENTER},
		    {has_no_sysenter, has_no_sysenter_end, 0},
		    {has_none, has_none_end, 0}};
	static uint8_t page[4096];
	ZydisDecoder d;

	(void)state;
	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		for (unsigned seek = 0; seek < 8; seek++) {
			uint64_t decoded = 0;
			memset(page, 0x90, sizeof(page));
			memcpy(page + 1000, rows[i].code, (size_t)(rows[i].end - rows[i].code));
			assert_int_equal(direct_sensitive(&d, page, page, seek, &decoded),
					 !!(rows[i].found & seek));
		}
	/* Its bytes may stand on both sides of a page's end. */
	memset(page, 0x90, sizeof(page));
	page[4095] = 0x0f;
	uint64_t decoded = 0;
	assert_true(direct_sensitive(&d, page, (const uint8_t *)"\x34\x90", DIRECT_SEEK_SYSENTER,
				     &decoded));
}

/* Constants that have LAR's bytes, one behind the other. */
CODE(constants, ".rept 409\nmovabs $0x9090c0020fc0020f, %rax\n.endr\n");
/* As compilers make them for a program that calls 250 functions of libraries, a mebibyte from where
 * their addresses are: each displacement ends with the bytes of VERW. */
CODE(stubs, ".rept 255\njmp *0xf2fca(%rip)\npush $0x12345\n.byte 0xe9, 0xe0, 0xff, 0xff, 0xff\n"
	    ".endr\n");
static void what_is_found_not_to_begin_costs_no_more_than_the_page(void **state)
{
	static const struct {
		const uint8_t *code, *end;
	} rows[] = {{constants, constants_end}, {stubs, stubs_end}};
	static uint8_t page[4096];
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		uint64_t decoded = 0;
		memset(page, 0x90, sizeof(page));
		memcpy(page, rows[i].code, (size_t)(rows[i].end - rows[i].code));
		assert_false(direct_sensitive(&d, page, page, DIRECT_SEEK_CPUID, &decoded));
		/* It was looked at closely, and each byte once. */
		assert_in_range(decoded, 2048, 4096);
		/* Among that, one that does begin is found. */
		memcpy(page + sizeof(page) - 6, "\x0f\xa2\xc3", 3);
		assert_true(sensitive(&d, page, page, 0));
	}
}

CODE(identify, "mov $0x40000000, %eax\n"
	       "cpuid\n"
	       "mov %ebx, %r8d\n"
	       "mov $1, %eax\n"
	       "cpuid\n"
	       "mov %ecx, %r9d\n"
	       "syscall\n");
/* By a function (CPUID, RET) that it writes first, from bytes that are none yet. */
CODE(write_and_identify, "mov $0x50000, %edi\n"
			 "movl $~0x90c3a20f, (%rdi)\n"
			 "notl (%rdi)\n"
			 "mov $0x40000000, %eax\n"
			 "call *%rdi\n"
			 "mov %ebx, %r8d\n"
			 "mov $1, %eax\n"
			 "call *%rdi\n"
			 "mov %ecx, %r9d\n"
			 "syscall\n");

static void same_as_interpreted(struct board *b, const uint8_t *code, const uint8_t *end)
{
	assert_int_equal(run_user(b, code, end), 0x80);
	ran(b);
	uint64_t direct[2] = {b->cpu->s.gpr[X86_R8], b->cpu->s.gpr[X86_R9]};
	setenv("BOARD_SOFT", "interp", 1);
	struct board *other = board_new(1);
	setenv("BOARD_SOFT", "direct", 1);
	assert_int_equal(run_user(other, code, end), 0x80);
	assert_int_equal(direct[0], other->cpu->s.gpr[X86_R8]);
	assert_int_equal(direct[1], other->cpu->s.gpr[X86_R9]);
	board_free(other);
}

CODE(tables, "mov $0x50000, %edi\n"
	     "sgdt (%rdi)\n"
	     "mov 2(%rdi), %r8\n"
	     "smsw %r9d\n"
	     "str %eax\n"
	     "shl $32, %rax\n"
	     "or %rax, %r9\n"
	     "syscall\n");
static void without_umip_user_code_sees_the_guests_tables(void **state)
{
	struct board *b = *state;

	same_as_interpreted(b, tables, tables_end);
	assert_true(b->cpu->direct->tables);
	/* The guest's kernel turns it on, where it is of use. */
	run_user(b, identify, identify_end);
	b->cpu->s.cr4 |= X86_CR4_UMIP;
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->direct->tables, !b->cpu->direct->umip);
	/* And off again: what was mapped meanwhile is looked at anew. */
	board_load(b, USER_CODE, tables, (size_t)(tables_end - tables));
	user_again(b, USER_CODE);
	(void)board_run(b);
	b->cpu->s.cr4 &= ~X86_CR4_UMIP;
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_R8], BOARD_GDT);
	assert_int_equal(b->cpu->s.gpr[X86_R9] >> 32, BOARD_TR);
}

CODE(segment_limit, "mov $0xabc, %r8d\n"
		    "xor %r9d, %r9d\n"
		    "lsl 0x50000, %r8d\n"
		    "verr 0x50000\n"
		    "setz %r9b\n"
		    "syscall\n");
static void segments_of_the_host_are_not_seen(void **state)
{
	struct board *b = *state;

	/* One that Linux has and the guest has not: its number is in memory. */
	board_write(b, USER_DATA, 8, 0x7b);
	assert_int_equal(run_user(b, segment_limit, segment_limit_end), 0x80);
	ran(b);
	assert_int_equal(b->cpu->s.gpr[X86_R8], 0xabc);
	assert_int_equal(b->cpu->s.gpr[X86_R9] & 1, 0);
}

CODE(call_hypervisor, "mov $1000, %eax\n"
		      "vmcall\n"
		      "syscall\n");
CODE(call_amds, "mov $1000, %eax\n"
		"vmmcall\n"
		"syscall\n");
/* This one has no check of the privilege level: user code would change what is mapped below. */
CODE(change_views, "mov $1000, %eax\n"
		   "vmfunc\n"
		   "syscall\n");
static void a_hypervisor_below_the_host_is_not_asked(void **state)
{
	struct board *b = *state;
	static const struct {
		const uint8_t *code, *end;
	} rows[] = {
	    {call_amds, call_amds_end},
	    {call_hypervisor, call_hypervisor_end},
	    {change_views, change_views_end},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_int_equal(run_user(b, rows[i].code, rows[i].end), X86_VEC_UD);
		ran(b);
		assert_int_equal(board_stack(b, 0), USER_CODE + 5);
		assert_int_equal(b->cpu->s.gpr[X86_RAX], 1000);
	}
}

static void cpuid_is_the_guests(void **state)
{
	struct board *b = *state;

	same_as_interpreted(b, identify, identify_end);
	/* And where it does not fault. */
	b->cpu->direct->cpuid_runs = 1;
	for (unsigned i = 0; i < DIRECT_SPACES; i++)
		direct_helper_kill(&b->cpu->direct->space[i].helper);
	same_as_interpreted(b, identify, identify_end);
	assert_false(user_helper(b)->cpuid_faults);
}

/* The page is fresh, may be written and executed, and has nothing in it when it is first touched.
 */
static void cpuid_is_the_guests_in_code_that_was_written_just_now(void **state)
{
	struct board *b = *state;

	board_write(b, USER_DATA, 8, 0);
	same_as_interpreted(b, write_and_identify, write_and_identify_end);
}

/* Where CPUID faults, its page runs in the helper, and each question is a stop. */
CODE(asks_much, "mov $0x40000000, %ebp\n"
		"mov $300, %edi\n"
		"xor %r8d, %r8d\n"
		"1: mov %ebp, %eax\n"
		"xor %ecx, %ecx\n"
		"cpuid\n"
		"add %ebx, %r8d\n"
		"lea (%rax,%rcx), %r9d\n"
		"dec %edi\n"
		"jnz 1b\n"
		"syscall\n");
/* Does it, where a process asks for it? */
static _Bool host_cpuid_faults(void)
{
	pid_t child = fork();
	int status;

	assert_true(child >= 0);
	if (!child) {
		const uint64_t none[4] = {0}; /* the kernel's struct sigaction, SIG_DFL */
		unsigned a = 0, c = 0;
		/* Itself, as sanitizers keep signal() from it. */
		(void)syscall(SYS_rt_sigaction, SIGSEGV, none, NULL, 8);
		(void)syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
		__asm__ volatile("cpuid" : "+a"(a), "+c"(c) : : "ebx", "edx");
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void a_page_whose_cpuid_faults_runs_in_the_helper_and_asks_the_guest(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	same_as_interpreted(b, identify, identify_end);
	struct direct_helper *h = user_helper(b);
	assert_non_null(h);
	_Bool faults = h->cpuid_faults;
	assert_int_equal(faults, host_cpuid_faults());
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), 0x80);
	assert_true(faults ? stats->direct_entries > 1 : stats->direct_entries == 1);
	same_as_interpreted(b, asks_much, asks_much_end);
	same_as_interpreted(b, write_and_identify, write_and_identify_end);
	assert_int_equal(stats->direct_lost, 0);
}

/* Sandboxes may answer what they do not know with 0. */
static _Bool arch_prctl_ignore(void)
{
	struct sock_filter f[] = {
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO),
	    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = {ARRAY_SIZE(f), f};

	return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) &&
	       !syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &p);
}

static void where_the_host_only_says_that_cpuid_faults_it_is_looked_for(void **state)
{
	(void)state;
	pid_t child = fork();
	assert_true(child >= 0);
	if (!child) {
		void *mine;
		if (!arch_prctl_ignore())
			_exit(77);
		board_setup_direct(&mine);
		struct board *b = mine;
		int vector = run_user(b, identify, identify_end);
		struct direct_helper *h = user_helper(b);
		if (b->cpu->direct->refused)
			_exit(77);
		_Bool believed = vector != 0x80 || !h || h->cpuid_faults;
		board_teardown(&mine);
		_exit(believed);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* It goes to the guest's kernel, with all that it needs to return. */
CODE(enter, "mov $1000, %r12d\n"
	    "mov %rsp, %rcx\n"
	    "lea 1f(%rip), %rdx\n"
	    "sysenter\n"
	    "1: syscall\n");
static void sysenter_is_the_guests(void **state)
{
	struct board *b = *state;
	struct x86_state *s = &b->cpu->s;

	for (unsigned i = 0; i < 3; i++) {
		board_load(b, USER_CODE, enter, (size_t)(enter_end - enter));
		user_state(b, USER_CODE);
		s->sysenter_cs = BOARD_CS64;
		s->sysenter_eip = BOARD_HANDLERS + 0x81 * 16;
		s->sysenter_esp = BOARD_STACK;
		int vector = board_run(b);
		assert_int_equal(s->gpr[X86_R12], 1000);
		assert_int_equal(s->gpr[X86_RCX], USER_STACK);
		assert_int_equal(b->cpu->direct->sysenter, !b->cpuid.amd);
		if (b->cpuid.amd) {
			assert_int_equal(vector, X86_VEC_UD);
			continue;
		}
		assert_int_equal(vector, 0x81);
		assert_int_equal(s->gpr[X86_RSP], BOARD_STACK);
		assert_int_equal(s->gpr[X86_RDX], USER_CODE + (uint64_t)(enter_end - enter) - 2);
	}
}

CODE(plain, "mov $77, %r8d\n"
	    "syscall\n");
static void
a_page_that_is_none_for_helpers_is_tried_once_and_again_when_it_has_changed(void **state)
{
	struct board *b = *state;
	const struct soft_stats *stats = &b->cpu->stats;

	b->cpu->direct->cpuid_runs = 1;
	assert_int_equal(run_user(b, identify, identify_end), 0x80);
	ran(b);
	assert_int_equal(stats->direct_faults, 1);
	for (unsigned i = 0; i < 5; i++) {
		user_again(b, USER_CODE);
		assert_int_equal(board_run(b), 0x80);
	}
	assert_int_equal(stats->direct_entries, 1);
	assert_int_equal(stats->direct_faults, 1);
	for (unsigned at = 0; at < 64; at += 8)
		board_write(b, USER_CODE + at, 8, 0);
	board_load(b, USER_CODE, plain, (size_t)(plain_end - plain));
	user_again(b, USER_CODE);
	assert_int_equal(board_run(b), 0x80);
	assert_int_equal(b->cpu->s.gpr[X86_R8], 77);
	assert_int_equal(stats->direct_entries, 2);
	assert_int_equal(stats->direct_calls, 1);
}

static void what_was_found_is_remembered_until_the_page_is_another(void **state)
{
	static uint8_t page[4096], next[2] = {0x90, 0x90};
	struct soft_direct d = {0};
	struct soft_cache *cache = calloc(1, sizeof(*cache));
	struct soft_cpu *cpu = calloc(1, sizeof(*cpu));
	unsigned seek = DIRECT_SEEK_CPUID;
	uint64_t name;

	(void)state;
	assert_non_null(cache);
	assert_non_null(cpu);
	cpu->cache = cache;
	cpu->direct = &d;
	ZydisDecoderInit(&cache->decoder[2], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	memset(page, 0x90, sizeof(page));
	for (unsigned i = 0; i < 3; i++)
		assert_false(direct_seen_sensitive(cpu, seek, 0x5000, page, next, &name));
	assert_int_equal(cpu->stats.direct_scans, 1);
	memcpy(page + 2000, "\x0f\xa2", 2);
	for (unsigned i = 0; i < 3; i++)
		assert_true(direct_seen_sensitive(cpu, seek, 0x5000, page, next, &name));
	assert_int_equal(cpu->stats.direct_scans, 2);
	/* Another page in its place, and back. */
	memset(page, 0x90, sizeof(page));
	assert_false(direct_seen_sensitive(cpu, seek, 0x5000 + (1 << 26), page, next, &name));
	memcpy(page + 2000, "\x0f\xa2", 2);
	assert_true(direct_seen_sensitive(cpu, seek, 0x5000, page, next, &name));
	assert_int_equal(cpu->stats.direct_scans, 4);
	/* The last instruction goes on in the next page. */
	memset(page, 0x90, sizeof(page));
	page[4095] = 0x0f;
	assert_false(direct_seen_sensitive(cpu, seek, 0x5000, page, next, &name));
	next[0] = 0xa2;
	assert_true(direct_seen_sensitive(cpu, seek, 0x5000, page, next, &name));
	/* SGDT counts, or does not. */
	memset(page, 0x90, sizeof(page));
	memcpy(page + 2000, "\x0f\x01\x00", 3);
	next[0] = 0x90;
	assert_false(direct_seen_sensitive(cpu, seek, 0x5000, page, next, &name));
	seek |= DIRECT_SEEK_TABLES;
	assert_true(direct_seen_sensitive(cpu, seek, 0x5000, page, next, &name));
	direct_seen_fini(&d);
	free(cpu);
	free(cache);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, board_setup_direct, board_teardown)
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(instructions_that_would_tell_of_the_host_are_found),
	    cmocka_unit_test(what_is_not_asked_for_is_not_looked_for),
	    cmocka_unit_test(where_there_is_no_umip_stores_of_tables_are_found),
	    cmocka_unit_test(a_function_behind_bytes_that_are_no_code_is_found),
	    cmocka_unit_test(what_is_found_not_to_begin_costs_no_more_than_the_page),
	    T(cpuid_is_the_guests),
	    T(without_umip_user_code_sees_the_guests_tables),
	    T(segments_of_the_host_are_not_seen),
	    T(a_hypervisor_below_the_host_is_not_asked),
	    T(cpuid_is_the_guests_in_code_that_was_written_just_now),
	    T(a_page_whose_cpuid_faults_runs_in_the_helper_and_asks_the_guest),
	    cmocka_unit_test(where_the_host_only_says_that_cpuid_faults_it_is_looked_for),
	    T(sysenter_is_the_guests),
	    T(a_page_that_is_none_for_helpers_is_tried_once_and_again_when_it_has_changed),
	    cmocka_unit_test(what_was_found_is_remembered_until_the_page_is_another),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
