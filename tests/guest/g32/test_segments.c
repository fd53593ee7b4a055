/* test_segments.c: segment loads and the checks of every access through a segment (SDM3 5). */
#include "g32.h"

#define CODE32		   0x9b
#define DATA		   0x93
#define load_seg(seg, sel) __asm__ volatile("mov %w0, %%" #seg : : "r"(sel) : "memory")
#define ldt_sel(n)	   ((n)*8 + 4)

static uint32_t read_fs(uint32_t offset)
{
	uint32_t v;

	__asm__ volatile("movl %%fs:(%1), %0" : "=r"(v) : "r"(offset));
	return v;
}
static void write_fs(uint32_t offset, uint8_t v)
{
	__asm__ volatile("movb %0, %%fs:(%1)" : : "q"(v), "r"(offset) : "memory");
}

TEST(segment, a_load_past_the_gdt_limit_faults_with_the_selector)
{
	CATCH(load_seg(es, 0x7f8 + 0x400));
	check_fault(V_GP, 0xbf8);
}

TEST(segment, an_access_past_the_limit_faults_with_error_0)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfff, DATA, 4));
	load_seg(fs, SEL_FREE);
	CATCH(read_fs(0xffc));
	check_no_fault();
	CATCH(read_fs(0xffd));
	check_fault(V_GP, 0);
	CATCH(read_fs(0x1000));
	check_fault(V_GP, 0);
	CATCH(read_fs(0xfffffffe)); /* wraps */
	check_fault(V_GP, 0);
}

TEST(segment, a_limit_in_pages_covers_their_last_byte)
{
	set_descriptor(SEL_FREE, descriptor(0, 1, DATA, 0xc));
	load_seg(fs, SEL_FREE);
	CATCH(read_fs(0x1ffc));
	check_no_fault();
	CATCH(read_fs(0x1ffd));
	check_fault(V_GP, 0);
}

TEST(segment, an_expand_down_segment_begins_above_its_limit)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfff, 0x97, 4));
	load_seg(fs, SEL_FREE);
	CATCH(read_fs(0x1000));
	check_no_fault();
	CATCH(read_fs(0xfff));
	check_fault(V_GP, 0);
	CATCH(read_fs(0x20000));
	check_no_fault();
}

TEST(segment, a_16_bit_expand_down_segment_ends_at_64_kib)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfff, 0x97, 0));
	load_seg(fs, SEL_FREE);
	CATCH(read_fs(0xfffc));
	check_no_fault();
	CATCH(read_fs(0xfffd));
	check_fault(V_GP, 0);
	CATCH(read_fs(0x10000));
	check_fault(V_GP, 0);
}

TEST(segment, the_base_is_added_and_wraps_at_4_gib)
{
	static volatile uint32_t word;

	word = 0x12345678;
	set_descriptor(SEL_FREE, descriptor(0xffff0000, 0xfffff, DATA, 0xc));
	load_seg(fs, SEL_FREE);
	check_eq(read_fs((uint32_t)&word + 0x10000), 0x12345678);
}

TEST(segment, null_may_be_loaded_but_not_used)
{
	for (unsigned rpl = 0; rpl < 4; rpl++) {
		CATCH(load_seg(fs, rpl));
		check_no_fault();
		CATCH(read_fs(0));
		check_fault(V_GP, 0);
		CATCH(write_fs(0, 0));
		check_fault(V_GP, 0);
	}
}

TEST(segment, null_in_ss_faults)
{
	CATCH(load_seg(ss, 0));
	check_fault(V_GP, 0);
	CATCH(load_seg(ss, 3));
	check_fault(V_GP, 0);
}

TEST(segment, a_readable_code_segment_can_be_read_and_not_written)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x9a, 0xc));
	CATCH(load_seg(fs, SEL_FREE));
	check_no_fault();
	CATCH(read_fs(0x1000));
	check_no_fault();
	CATCH(write_fs(0x1000, 0));
	check_fault(V_GP, 0);
}

TEST(segment, an_execute_only_segment_cannot_be_loaded)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x98, 0xc));
	CATCH(load_seg(fs, SEL_FREE));
	check_fault(V_GP, SEL_FREE);
}

CODE(u_nothing, "int $0x80");
CODE(u_read_cs, "mov %cs:u_read_cs, %eax; int $0x80");
TEST_REAL(segment, execute_only_code_runs_but_its_bytes_cannot_be_read)
{
	struct frame f = user_frame(u_nothing, 0);

	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0xf8, 0xc));
	f.cs = SEL_FREE | 3;
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
	f.eip = (uint32_t)u_read_cs;
	CATCH(frame_enter(&f));
	check_fault(V_GP, 0);
	check_eq(fault.eip, (uint32_t)u_read_cs);
}

TEST(segment, a_read_only_segment_refuses_writes)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x91, 0xc));
	load_seg(fs, SEL_FREE);
	CATCH(read_fs(0x1000));
	check_no_fault();
	CATCH(write_fs(0x1000, 1));
	check_fault(V_GP, 0);
	CATCH(__asm__ volatile("lock addl $0, %%fs:0x1000" : : : "memory"));
	check_fault(V_GP, 0);
}

TEST(segment, segments_that_are_not_present_fault_by_kind)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x13, 0xc));
	CATCH(load_seg(fs, SEL_FREE));
	check_fault(V_NP, SEL_FREE);
	CATCH(load_seg(ss, SEL_FREE));
	check_fault(V_SS, SEL_FREE);
}

TEST(segment, a_system_descriptor_is_no_data_segment)
{
	for (unsigned type = 0; type < 16; type++) {
		set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x80 | type, 0xc));
		CATCH(load_seg(es, SEL_FREE));
		check_fault(V_GP, SEL_FREE);
		CATCH(load_seg(ss, SEL_FREE));
		check_fault(V_GP, SEL_FREE);
	}
}

TEST(segment, the_selectors_rpl_counts_like_the_cpl)
{
	CATCH(load_seg(fs, SEL_DATA | 1));
	check_fault(V_GP, SEL_DATA);
	CATCH(load_seg(fs, SEL_UDATA));
	check_no_fault();
}

CODE(u_load_fs, "mov %ebx, %fs; int $0x80");
CODE(u_load_ss, "mov %ebx, %ss; int $0x80");
TEST_REAL(segment, ring_3_loads_only_ring_3_data_and_conforming_code)
{
	struct frame f = user_frame(u_load_fs, 0);

	f.ebx = SEL_DATA;
	CATCH(frame_enter(&f));
	check_fault(V_GP, SEL_DATA);
	f.ebx = SEL_DATA | 3;
	CATCH(frame_enter(&f));
	check_fault(V_GP, SEL_DATA);
	f.ebx = SEL_UDATA & ~3u; /* RPL 0 */
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x9e, 0xc)); /* conforming, DPL 0 */
	f.ebx = SEL_FREE | 3;
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x9a, 0xc)); /* not conforming */
	CATCH(frame_enter(&f));
	check_fault(V_GP, SEL_FREE);
}

TEST_REAL(segment, the_stack_segment_must_match_the_cpl_exactly)
{
	struct frame f = user_frame(u_load_ss, 0);

	CATCH(load_seg(ss, SEL_UDATA));
	check_fault(V_GP, SEL_UDATA & ~3u);
	CATCH(load_seg(ss, SEL_DATA | 3));
	check_fault(V_GP, SEL_DATA);
	f.ebx = SEL_UDATA & ~3u;
	CATCH(frame_enter(&f));
	check_fault(V_GP, SEL_UDATA & ~3u);
	f.ebx = SEL_DATA | 3;
	CATCH(frame_enter(&f));
	check_fault(V_GP, SEL_DATA);
	f.ebx = SEL_UDATA;
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
}

TEST(segment, the_stack_segment_must_be_writable_data)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x91, 0xc));
	CATCH(load_seg(ss, SEL_FREE));
	check_fault(V_GP, SEL_FREE);
	CATCH(load_seg(ss, SEL_CODE));
	check_fault(V_GP, SEL_CODE);
}

TEST(segment, cs_cannot_be_the_target_of_mov)
{
	CATCH(__asm__ volatile(".byte 0x8e, 0xc8"));
	check_fault(V_UD, 0);
	CATCH(__asm__ volatile(".byte 0x8e, 0xf0")); /* segment register 6 */
	check_fault(V_UD, 0);
}

TEST(segment, a_load_sets_the_accessed_bit_and_a_failed_one_does_not)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x92, 0xc));
	load_seg(fs, SEL_FREE);
	check_eq(gdt[SEL_FREE / 8] >> 40 & 0xff, 0x93);
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, 0x12, 0xc));
	CATCH(load_seg(fs, SEL_FREE));
	check_fault(V_NP, SEL_FREE);
	check_eq(gdt[SEL_FREE / 8] >> 40 & 0xff, 0x12);
}

TEST(segment, a_failed_load_keeps_the_old_segment)
{
	static volatile uint32_t word;
	uint32_t sel;

	word = 77;
	load_seg(fs, SEL_DATA);
	CATCH(load_seg(fs, 0xbf8));
	check_fault(V_GP, 0xbf8);
	__asm__ volatile("mov %%fs, %0" : "=r"(sel));
	check_eq(sel, SEL_DATA);
	check_eq(read_fs((uint32_t)&word), 77);
}

TEST(segment, a_changed_descriptor_counts_from_the_next_load)
{
	set_descriptor(SEL_FREE, descriptor(0, 0xfffff, DATA, 0xc));
	load_seg(fs, SEL_FREE);
	set_descriptor(SEL_FREE, descriptor(0, 0xf, DATA, 4));
	CATCH(read_fs(0x1000));
	check_no_fault();
	load_seg(fs, SEL_FREE);
	CATCH(read_fs(0x1000));
	check_fault(V_GP, 0);
}

static uint64_t ldt[4];

TEST(segment, segments_come_from_the_ldt_too)
{
	static volatile uint32_t word;

	word = 5;
	ldt[1] = descriptor((uint32_t)&word, 3, DATA, 4);
	set_descriptor(SEL_LDT_A, descriptor((uint32_t)ldt, 15, 0x82, 0));
	CATCH(load_seg(fs, ldt_sel(1)));
	check_fault(V_GP, ldt_sel(1)); /* no LDT yet */
	__asm__ volatile("lldt %w0" : : "r"(SEL_LDT_A) : "memory");
	CATCH(load_seg(fs, ldt_sel(1)));
	check_no_fault();
	check_eq(read_fs(0), 5);
	CATCH(load_seg(fs, ldt_sel(2)));
	check_fault(V_GP, ldt_sel(2)); /* past the limit */
	CATCH(load_seg(fs, ldt_sel(0)));
	check_fault(V_GP, ldt_sel(0)); /* its first entry is not null, but this one is empty */
}

TEST(segment, lldt_takes_only_present_ldts_of_the_gdt)
{
	CATCH(__asm__ volatile("lldt %w0" : : "r"(SEL_DATA)));
	check_fault(V_GP, SEL_DATA);
	CATCH(__asm__ volatile("lldt %w0" : : "r"(ldt_sel(1))));
	check_fault(V_GP, ldt_sel(1));
	set_descriptor(SEL_LDT_A, descriptor((uint32_t)ldt, 15, 0x02, 0));
	CATCH(__asm__ volatile("lldt %w0" : : "r"(SEL_LDT_A)));
	check_fault(V_NP, SEL_LDT_A);
	CATCH(__asm__ volatile("lldt %w0" : : "r"(0)));
	check_no_fault();
}

/* Rings 3's stack faults do not disturb the one that reports them. */
CODE(u_push, "push %eax; int $0x80");
CODE(u_ebp, "mov (%ebp), %eax; int $0x80");
CODE(u_ebp_ds, "mov %ds:(%ebp), %eax; int $0x80");
TEST_REAL(segment, stack_accesses_past_the_limit_are_stack_faults)
{
	struct frame f = user_frame(u_push, 0);

	set_descriptor(SEL_FREE, descriptor(0, 0xfff, 0xf3, 4));
	f.ss3 = SEL_FREE | 3;
	f.esp3 = 0x2000;
	CATCH(frame_enter(&f));
	check_fault(V_SS, 0);
	check_eq(fault.esp3, 0x2000);
	f.eip = (uint32_t)u_ebp;
	f.ebp = 0x1000;
	CATCH(frame_enter(&f));
	check_fault(V_SS, 0);
	f.eip = (uint32_t)u_ebp_ds;
	CATCH(frame_enter(&f));
	check_eq(fault.vector, 0x80);
}

CODE(u_near, "jmp *%ebx");
TEST_REAL(segment, a_near_jump_past_the_limit_faults_at_the_jump)
{
	struct frame f = user_frame(u_near, 0);

	set_descriptor(SEL_FREE, descriptor(0, 0x1ff, 0xfb, 0xc));
	f.cs = SEL_FREE | 3;
	f.ebx = 0x200000;
	CATCH(frame_enter(&f));
	check_fault(V_GP, 0);
	check_eq(fault.eip, (uint32_t)u_near);
}

CODE(u_edge, "nop; mov $0x12345678, %eax; nop");
TEST_REAL(segment, an_instruction_across_the_limit_faults)
{
	struct frame f = user_frame(u_edge, 0);

	set_descriptor(SEL_FREE, descriptor((uint32_t)u_edge, 3, 0xfb, 4));
	f.cs = SEL_FREE | 3;
	f.eip = 0;
	CATCH(frame_enter(&f));
	check_fault(V_GP, 0);
	check_eq(fault.eip, 1);
}

TEST(segment, string_instructions_override_the_source_only)
{
	static const uint8_t from[4] = {1, 2, 3, 4};
	static uint8_t to[4];
	const uint8_t *si = from;
	uint8_t *di = to;
	uint32_t cx = 4;

	set_descriptor(SEL_FREE, descriptor((uint32_t)from, 3, DATA, 4));
	load_seg(fs, SEL_FREE);
	si = 0;
	__asm__ volatile("rep movsb %%fs:(%%esi), %%es:(%%edi)"
			 : "+S"(si), "+D"(di), "+c"(cx)
			 :
			 : "memory");
	check(!memcmp(to, from, 4));
	check(di == to + 4);
}

TEST(segment, a_string_instruction_stops_at_the_limit_with_its_counters)
{
	static uint8_t to[64];
	uint32_t left, at;

	set_descriptor(SEL_FREE, descriptor((uint32_t)to, 9, DATA, 4));
	CATCH(__asm__ volatile("push %%es; mov %w0, %%es; xor %%edi, %%edi; mov $20, %%ecx; rep "
			       "stosb; pop %%es"
			       :
			       : "r"(SEL_FREE), "a"(0x5a)
			       : "ecx", "edi", "memory"));
	left = fault_frame.ecx;
	at = fault_frame.edi;
	check_fault(V_GP, 0);
	check_eq(left, 10);
	check_eq(at, 10);
	check_eq(to[9], 0x5a);
	check_eq(to[10], 0);
}

TEST_REAL(segment, lar_lsl_verr_and_verw_answer_without_faults)
{
	uint32_t ar = 0, limit = 0;
	bool ok;

	set_descriptor(SEL_FREE, descriptor(0, 5, 0x91, 0xc));
	__asm__ volatile("lar %3, %0; setz %1; lsl %3, %2"
			 : "=&r"(ar), "=&qm"(ok), "=&r"(limit)
			 : "r"(SEL_FREE));
	check(ok);
	check_eq(ar & 0xf0ff00, 0xc09100);
	check_eq(limit, 0x5fff);
	__asm__ volatile("verw %w1; setz %0" : "=qm"(ok) : "r"(SEL_FREE));
	check(!ok);
	__asm__ volatile("verr %w1; setz %0" : "=qm"(ok) : "r"(SEL_FREE));
	check(ok);
	__asm__ volatile("verr %w1; setz %0" : "=qm"(ok) : "r"(SEL_DATA | 1));
	check(!ok);
	__asm__ volatile("verr %w1; setz %0" : "=qm"(ok) : "r"(0));
	check(!ok);
	__asm__ volatile("lsl %2, %0; setz %1" : "+r"(limit), "=qm"(ok) : "r"(SEL_TSS));
	check(ok);
	check_eq(limit, sizeof(main_task) - 1);
	set_descriptor(SEL_FREE, call_gate(SEL_CODE, 0, 0, 0x8c));
	__asm__ volatile("lsl %2, %0; setz %1" : "+r"(limit), "=qm"(ok) : "r"(SEL_FREE));
	check(!ok); /* a gate has no limit */
	__asm__ volatile("lar %2, %0; setz %1" : "+r"(ar), "=qm"(ok) : "r"(SEL_FREE));
	check(ok);
}

TEST(segment, far_pointer_loads_take_offset_and_selector_or_nothing)
{
	const struct {
		uint32_t offset;
		uint16_t sel;
	} __attribute__((packed)) good = {0x11223344, SEL_DATA}, bad = {0x55667788, 0xbf8};
	uint32_t reg = 0, sel;

	__asm__ volatile("lfs %2, %0; mov %%fs, %1" : "+r"(reg), "=r"(sel) : "m"(good));
	check_eq(reg, 0x11223344);
	check_eq(sel, SEL_DATA);
	CATCH(__asm__ volatile("mov $7, %%ebx; lfs %0, %%ebx" : : "m"(bad) : "ebx"));
	check_fault(V_GP, 0xbf8);
	check_eq(fault_frame.ebx, 7);
	check_eq((uint16_t)fault_frame.fs, SEL_DATA);
	CATCH(__asm__ volatile("mov $7, %%ebx; lss %0, %%ebx"
			       :
			       : "m"((const uint8_t[]){1, 2, 3, 4, 0, 0})
			       : "ebx"));
	check_fault(V_GP, 0);
	check_eq(fault_frame.ebx, 7);
}

TEST(segment, reading_a_segment_register_clears_the_upper_half_of_a_register)
{
	uint32_t v = 0xffffffff;

	__asm__ volatile("mov %%ds, %0" : "+r"(v));
	check_eq(v, SEL_DATA);
	v = 0xffffffff;
	__asm__ volatile("movw %%ds, %0" : "+m"(v));
	check_eq(v, 0xffff0000 | SEL_DATA);
}

TEST(segment, a_16_bit_lgdt_loads_24_bits_of_base)
{
	/* SDM2 LGDT: with a 16-bit operand the base's upper byte is not used, and zero is loaded.
	 */
	const struct table odd = {0xff, 0x12345678};
	struct table old, got;

	__asm__ volatile("sgdt %0" : "=m"(old));
	__asm__ volatile("data16 lgdt %1; sgdt %0; lgdt %2" : "=m"(got) : "m"(odd), "m"(old));
	check_eq(got.limit, 0xff);
	check_eq(got.base, 0x00345678);
}
