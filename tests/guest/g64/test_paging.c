/* test_paging.c: translation, rights, accessed and dirty bits, TLB rules (SDM3 4). */
#include "g64.h"

#define CR0_WP	 (1ull << 16)
#define CR4_PGE	 (1ull << 7)
#define CR4_PCID (1ull << 17)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define EFER_NXE (1ull << 11)
#define AC	 (1ull << 18)

static uint64_t load(uint64_t va)
{
	return *(volatile uint64_t *)va;
}

static void store(uint64_t va, uint64_t v)
{
	*(volatile uint64_t *)va = v;
}

static bool has(uint32_t leaf, unsigned reg, unsigned bit)
{
	uint32_t r[4];

	cpuid(leaf, 0, r);
	return r[reg] >> bit & 1;
}

TEST(paging, read_of_an_unmapped_page_gives_cr2_and_error_0)
{
	CATCH(load(FREE_VA + 0x123));
	check_fault(V_PF, 0);
	check_eq(fault.cr2, FREE_VA + 0x123);
}

TEST(paging, write_to_an_unmapped_page_gives_error_2)
{
	CATCH(store(FREE_VA + 0x10, 1));
	check_fault(V_PF, 2);
	check_eq(fault.cr2, FREE_VA + 0x10);
}

TEST(paging, write_to_a_read_only_page_gives_error_3)
{
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P);
	CATCH(store(FREE_VA + 8, 1));
	check_fault(V_PF, 3);
	check_eq(fault.cr2, FREE_VA + 8);
}

TEST(paging, without_wp_the_kernel_writes_read_only_pages)
{
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P);
	write_cr0(read_cr0() & ~CR0_WP);
	CATCH(store(FREE_VA, 7));
	check_no_fault();
	check_eq(load(FREE_VA), 7);
}

TEST(paging, a_read_only_upper_level_forbids_writes)
{
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);
	*pte(FREE_VA, 3) &= ~PTE_W;
	invlpg(FREE_VA);
	CATCH(store(FREE_VA, 1));
	check_fault(V_PF, 3);
}

TEST(paging, accessed_bits_are_set_at_every_level_and_dirty_only_by_writes)
{
	uint64_t *e = map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);

	load(FREE_VA);
	for (unsigned l = 1; l <= 4; l++)
		check(*pte(FREE_VA, l) & PTE_A);
	check(!(*e & PTE_D));
	store(FREE_VA, 1);
	check(*e & PTE_D);
	check(!(*pte(FREE_VA, 2) & PTE_D));
}

TEST(paging, a_faulting_write_sets_no_dirty_bit)
{
	uint64_t *e = map(FREE_VA, (uint64_t)alloc_page(), PTE_P);

	CATCH(store(FREE_VA, 1));
	check_fault(V_PF, 3);
	check(!(*e & PTE_D));
}

TEST(paging, reserved_address_bits_give_error_9)
{
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);
	*pte(FREE_VA, 1) |= 1ull << 51;
	invlpg(FREE_VA);
	CATCH(load(FREE_VA));
	check_fault(V_PF, 9);
}

TEST(paging, nx_bit_is_reserved_without_nxe)
{
	*map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W) |= PTE_NX;
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~EFER_NXE);
	write_cr3(read_cr3());
	CATCH(load(FREE_VA));
	check_fault(V_PF, 9);
}

TEST(paging, a_fetch_from_a_no_execute_page_gives_error_17)
{
	*(uint8_t *)alloc_page() = 0xc3;
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W | PTE_NX);
	CATCH(((void (*)(void))FREE_VA)());
	check_fault(V_PF, 0x11);
	check_eq(fault.rip, FREE_VA);
	check_eq(fault.cr2, FREE_VA);
}

TEST(paging, no_execute_at_an_upper_level_counts)
{
	uint8_t *page = alloc_page();

	page[0] = 0xc3;
	map(FREE_VA, (uint64_t)page, PTE_P);
	CATCH(((void (*)(void))FREE_VA)());
	check_no_fault();
	*pte(FREE_VA, 2) |= PTE_NX;
	invlpg(FREE_VA);
	CATCH(((void (*)(void))FREE_VA)());
	check_fault(V_PF, 0x11);
}

TEST(paging, two_mib_and_one_gib_pages_translate)
{
	uint64_t *dir = alloc_page();

	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);
	*pte(FREE_VA, 2) = 0x200000 | PTE_P | PTE_W | PTE_PS; /* physical 2 MiB */
	write_cr3(read_cr3());
	store(0x212340, 0x1122334455667788);
	check_eq(load(FREE_VA + 0x12340), 0x1122334455667788);
	(void)dir;
	if (!has(0x80000001, 3, 26))
		test_skip("no 1 GiB pages");
	*pte(FREE_VA, 3) = PTE_P | PTE_W | PTE_PS; /* physical 0 */
	write_cr3(read_cr3());
	check_eq(load(FREE_VA + 0x212340), 0x1122334455667788);
	check(*pte(FREE_VA, 3) & PTE_A);
}

TEST(paging, reserved_bits_of_a_large_page_give_error_9)
{
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);
	*pte(FREE_VA, 2) = 0x200000 | 0x2000 | PTE_P | PTE_W | PTE_PS; /* bit 13 must be 0 */
	write_cr3(read_cr3());
	CATCH(load(FREE_VA));
	check_fault(V_PF, 9);
}

TEST_REAL(paging, an_access_across_two_pages_faults_on_the_missing_one_with_its_address)
{
	uint64_t *page = alloc_page();

	page[511] = 0x5555;
	map(FREE_VA, (uint64_t)page, PTE_P | PTE_W);
	CATCH(load(FREE_VA + 0xffc));
	check_fault(V_PF, 0);
	check_eq(fault.cr2, FREE_VA + 0x1000);
	CATCH(store(FREE_VA + 0xffc, ~0ull));
	check_fault(V_PF, 2);
	check_eq(page[511], 0x5555); /* nothing was written */
}

TEST(paging, an_access_across_two_distant_frames_reads_and_writes_both)
{
	uint8_t *a = alloc_page(), *gap = alloc_page(), *b = alloc_page();

	map(FREE_VA, (uint64_t)b, PTE_P | PTE_W);
	map(FREE_VA + 0x1000, (uint64_t)a, PTE_P | PTE_W);
	store(FREE_VA + 0xffd, 0x8877665544332211);
	check_eq(b[0xffd], 0x11);
	check_eq(b[0xfff], 0x33);
	check_eq(a[0], 0x44);
	check_eq(a[4], 0x88);
	check_eq(gap[0], 0);
	check_eq(load(FREE_VA + 0xffd), 0x8877665544332211);
}

TEST(paging, a_locked_add_across_two_pages_works)
{
	uint8_t *b = alloc_page(), *gap = alloc_page(), *a = alloc_page();

	(void)gap;
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	map(FREE_VA + 0x1000, (uint64_t)b, PTE_P | PTE_W);
	store(FREE_VA + 0xffc, 0x00000000ffffffff);
	__asm__ volatile("lock addq $1, (%0)" : : "r"(FREE_VA + 0xffc) : "memory");
	check_eq(load(FREE_VA + 0xffc), 0x100000000);
}

TEST(paging, a_changed_entry_is_seen_after_invlpg)
{
	uint64_t *a = alloc_page(), *b = alloc_page();

	*a = 1;
	*b = 2;
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	check_eq(load(FREE_VA), 1);
	*pte(FREE_VA, 1) = (uint64_t)b | PTE_P | PTE_W;
	invlpg(FREE_VA);
	check_eq(load(FREE_VA), 2);
}

TEST(paging, a_mov_to_cr3_flushes_all_but_global_pages)
{
	uint64_t *a = alloc_page(), *b = alloc_page(), v;

	*a = 1;
	*b = 2;
	write_cr4(read_cr4() | CR4_PGE);
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	map(FREE_VA + 0x1000, (uint64_t)a, PTE_P | PTE_W | PTE_G);
	check_eq(load(FREE_VA) + load(FREE_VA + 0x1000), 2);
	*pte(FREE_VA, 1) = (uint64_t)b | PTE_P | PTE_W;
	*pte(FREE_VA + 0x1000, 1) = (uint64_t)b | PTE_P | PTE_W | PTE_G;
	write_cr3(read_cr3());
	check_eq(load(FREE_VA), 2);
	v = load(FREE_VA + 0x1000); /* either is allowed, but after this it is certain: */
	check(v == 1 || v == 2);
	write_cr4(read_cr4() & ~CR4_PGE);
	check_eq(load(FREE_VA + 0x1000), 2);
}

TEST(paging, user_pages_are_told_apart_by_error_bit_2)
{
	static const uint8_t code[] = {0x48, 0x8b, 0x07, 0xcd,
				       0x80}; /* mov (%rdi), %rax; int $0x80 */

	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);
	run_user(code, code + sizeof(code), &(struct user_regs){.rdi = FREE_VA});
	check_fault(V_PF, 5);
	run_user(code, code + sizeof(code), &(struct user_regs){.rdi = FREE_VA + 0x1000});
	check_fault(V_PF, 4);
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_U);
	run_user(code, code + sizeof(code), &(struct user_regs){.rdi = FREE_VA});
	check_eq(fault.vector, 0x80);
}

TEST(paging, smep_forbids_fetches_from_user_pages)
{
	uint8_t *page = alloc_page();

	if (!has(7, 1, 7))
		test_skip("no SMEP");
	page[0] = 0xc3;
	map(FREE_VA, (uint64_t)page, PTE_P | PTE_U);
	CATCH(((void (*)(void))FREE_VA)());
	check_no_fault();
	write_cr4(read_cr4() | CR4_SMEP);
	CATCH(((void (*)(void))FREE_VA)());
	check_fault(V_PF, 0x11);
}

TEST_REAL(paging, smap_forbids_user_data_unless_ac_is_set)
{
	if (!has(7, 1, 20))
		test_skip("no SMAP");
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_U | PTE_W);
	write_cr4(read_cr4() | CR4_SMAP);
	CATCH(load(FREE_VA));
	check_fault(V_PF, 1);
	CATCH(store(FREE_VA, 1));
	check_fault(V_PF, 3);
	CATCH({
		__asm__ volatile("stac");
		store(FREE_VA, 5);
		__asm__ volatile("clac");
	});
	check_no_fault();
	CATCH(load(FREE_VA));
	check_fault(V_PF, 1);
}

TEST(paging, address_spaces_with_different_pcids_are_kept_apart)
{
	uint64_t *a = alloc_page(), *b = alloc_page(), *other = alloc_page(), cr3 = read_cr3();

	if (!has(1, 2, 17))
		test_skip("no PCID");
	*a = 1;
	*b = 2;
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	memcpy(other, pml4, 4096);
	other[(FREE_VA >> 39) & 511] = 0;
	write_cr4(read_cr4() | CR4_PCID);
	check_eq(load(FREE_VA), 1);
	write_cr3((uint64_t)other | 5);
	map(FREE_VA, (uint64_t)b, PTE_P | PTE_W);
	check_eq(load(FREE_VA), 2);
	write_cr3(cr3 | 1ull << 63); /* keep what is cached */
	check_eq(load(FREE_VA), 1);
	write_cr3((uint64_t)other | 5 | 1ull << 63);
	check_eq(load(FREE_VA), 2);
	write_cr3(cr3);
}

TEST(paging, pcide_with_a_nonzero_pcid_is_refused)
{
	if (!has(1, 2, 17))
		test_skip("no PCID");
	write_cr3(read_cr3() | 8);
	CATCH(write_cr4(read_cr4() | CR4_PCID));
	check_fault(V_GP, 0);
	write_cr3(read_cr3() & ~0xfffull);
}

TEST(paging, invpcid_of_one_address_flushes_it)
{
	struct {
		uint64_t pcid, address;
	} d = {0, FREE_VA};
	uint64_t *a = alloc_page(), *b = alloc_page();

	if (!has(7, 1, 10))
		test_skip("no INVPCID");
	*a = 1;
	*b = 2;
	map(FREE_VA, (uint64_t)a, PTE_P | PTE_W);
	check_eq(load(FREE_VA), 1);
	*pte(FREE_VA, 1) = (uint64_t)b | PTE_P | PTE_W;
	__asm__ volatile("invpcid %0, %1" : : "m"(d), "r"(0ull) : "memory");
	check_eq(load(FREE_VA), 2);
	CATCH(__asm__ volatile("invpcid %0, %1" : : "m"(d), "r"(9ull) : "memory"));
	check_fault(V_GP, 0);
}

TEST(paging, a_non_canonical_address_is_a_general_protection_fault)
{
	CATCH(load(0x0000800000000000));
	check_fault(V_GP, 0);
	CATCH(store(0xffff7fffffffffff, 1));
	check_fault(V_GP, 0);
	/* through RBP: the stack segment's exception, with a good stack to deliver it on */
	CATCH(__asm__ volatile("push %%rbp; mov %0, %%rbp; mov (%%rbp), %%rax; pop %%rbp"
			       :
			       : "r"(0x0000900000000000)
			       : "rax", "memory"));
	check_fault(V_SS, 0);
}

TEST(paging, a_repeated_move_that_faults_in_the_middle_can_go_on)
{
	uint8_t *from = alloc_page();
	uint64_t rcx, rdi, rsi;

	for (unsigned i = 0; i < 4096; i++)
		from[i] = (uint8_t)(i * 7);
	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);
	CATCH(__asm__ volatile("rep movsb"
			       : "=c"(rcx), "=D"(rdi), "=S"(rsi)
			       : "c"(0x100), "D"(FREE_VA + 0xf80), "S"(from)
			       : "memory"));
	check_fault(V_PF, 2);
	check_eq(fault.cr2, FREE_VA + 0x1000);
	check_eq(*(uint8_t *)(FREE_VA + 0xfff), (uint8_t)(0x7f * 7));
}

static uint64_t rep_rcx, rep_rdi;
static bool map_and_retry(struct frame *f)
{
	rep_rcx = f->rcx;
	rep_rdi = f->rdi;
	map(FREE_VA + 0x1000, (uint64_t)alloc_page(), PTE_P | PTE_W);
	return 1;
}

TEST(paging, a_repeated_store_resumes_with_exact_counts_after_its_fault)
{
	uint64_t rcx = 0x80, rdi = FREE_VA + 0xf00;

	map(FREE_VA, (uint64_t)alloc_page(), PTE_P | PTE_W);
	set_handler(V_PF, map_and_retry);
	__asm__ volatile("rep stosq" : "+c"(rcx), "+D"(rdi) : "a"(0x1234567890abcdef) : "memory");
	check_eq(rep_rcx, 0x80 - 0x20);
	check_eq(rep_rdi, FREE_VA + 0x1000);
	check_eq(rcx, 0);
	check_eq(rdi, FREE_VA + 0xf00 + 0x400);
	check_eq(load(FREE_VA + 0x12f8), 0x1234567890abcdef);
}
