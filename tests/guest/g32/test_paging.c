/* test_paging.c: two-level and PAE paging: rights, error codes, CR2, accessed and dirty bits, large
 * pages, reserved bits (SDM3 4.3, 4.4, 4.6, 4.7). */
#include "g32.h"

#define P	1u
#define W	2u
#define U	4u
#define A	0x20u
#define D	0x40u
#define PS	0x80u
#define G	0x100u
#define VA	0x40000000u /* mapped by tests */
#define CR0_WP	0x10000u
#define CR0_PG	0x80000000u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_PGE 0x80u
#define EFER	0xc0000080u
#define NXE	0x800u

static volatile uint32_t *dir, *table;	  /* two levels */
static volatile uint64_t *pdpt, *pd, *pt; /* PAE */

/* The first 64 MiB one to one, for ring 3 too; `table` covers VA to VA + 4 MiB. */
static void paging_on(void)
{
	dir = alloc_page();
	table = alloc_page();
	for (uint32_t i = 0; i < 16; i++)
		dir[i] = i << 22 | PS | U | W | P;
	dir[VA >> 22] = (uint32_t)table | U | W | P;
	write_cr4(read_cr4() | CR4_PSE);
	write_cr3((uint32_t)dir);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

static void pae_on(void)
{
	uint64_t *low = alloc_page();

	pdpt = alloc_page();
	pd = alloc_page();
	pt = alloc_page();
	for (uint32_t i = 0; i < 32; i++)
		low[i] = i << 21 | PS | U | W | P;
	pdpt[0] = (uint32_t)low | P;
	pdpt[1] = (uint32_t)pd | P;
	pd[0] = (uint32_t)pt | U | W | P;
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((uint32_t)pdpt);
	write_cr0(read_cr0() | CR0_PG | CR0_WP);
}

static void flush(void)
{
	write_cr3(read_cr3());
}
static void map4k(unsigned n, uint32_t *page, uint32_t flags)
{
	table[n] = (uint32_t)page | flags;
	flush();
}
static uint32_t load(uint32_t va)
{
	return *(volatile uint32_t *)va;
}
static void store(uint32_t va, uint32_t v)
{
	*(volatile uint32_t *)va = v;
	__asm__ volatile("" : : : "memory"); /* it has another address as well */
}
static void check_page_fault(uint32_t error, uint32_t va)
{
	check_fault(V_PF, error);
	check_eq(fault.cr2, va);
}

CODE(u_load, "mov (%ebx), %eax; int $0x80");
CODE(u_store, "mov %eax, (%ebx); int $0x80");
CODE(u_jump, "jmp *%ebx");
static void user_at(void (*fn)(void), uint32_t va)
{
	struct frame f = user_frame(fn, 0);

	f.ebx = va;
	CATCH(frame_enter(&f));
}

static void has(unsigned edx_bit, const char *what)
{
	uint32_t r[4];

	cpuid(1, 0, r);
	if (!(r[3] >> edx_bit & 1))
		test_skip(what);
}
static void need_nx(void)
{
	uint32_t r[4];

	cpuid(0x80000001, 0, r);
	if (!(r[3] >> 20 & 1))
		test_skip("no NX");
	wrmsr(EFER, rdmsr(EFER) | NXE);
}

TEST_REAL(paging, accesses_set_the_accessed_bit_and_writes_the_dirty_bit)
{
	uint32_t *page = alloc_page();

	paging_on();
	map4k(0, page, W | P);
	*page = 99;
	check_eq(load(VA), 99);
	check_eq(table[0] & (A | D), A);
	check_eq(dir[VA >> 22] & (A | D), A);
	store(VA, 100);
	check_eq(table[0] & (A | D), A | D);
	check_eq(*page, 100);
}

TEST_REAL(paging, a_page_that_is_not_present_faults_with_its_address)
{
	paging_on();
	CATCH(load(VA + 0x123c));
	check_page_fault(0, VA + 0x123c);
	CATCH(store(VA + 0x2004, 1));
	check_page_fault(2, VA + 0x2004);
	CATCH(load(0x80000000));
	check_page_fault(0, 0x80000000);
	user_at(u_load, VA + 0x3000);
	check_page_fault(4, VA + 0x3000);
	user_at(u_store, VA + 0x3000);
	check_page_fault(6, VA + 0x3000);
	user_at(u_jump, VA + 0x4008);
	check_page_fault(4, VA + 0x4008); /* no I/D bit without NX or SMEP */
	check_eq(fault.eip, VA + 0x4008);
}

TEST_REAL(paging, ring_3_may_not_touch_supervisor_pages)
{
	paging_on();
	map4k(0, alloc_page(), W | P);
	user_at(u_load, VA + 8);
	check_page_fault(5, VA + 8);
	user_at(u_store, VA + 8);
	check_page_fault(7, VA + 8);
	map4k(0, alloc_page(), U | P);
	user_at(u_load, VA + 8);
	check_eq(fault.vector, 0x80);
	user_at(u_store, VA + 8);
	check_page_fault(7, VA + 8);
}

TEST_REAL(paging, rights_are_those_of_both_levels)
{
	paging_on();
	map4k(0, alloc_page(), U | W | P);
	dir[VA >> 22] &= ~W;
	flush();
	user_at(u_store, VA);
	check_page_fault(7, VA);
	CATCH(store(VA, 1));
	check_page_fault(3, VA);
	dir[VA >> 22] = (dir[VA >> 22] | W) & ~U;
	flush();
	user_at(u_load, VA);
	check_page_fault(5, VA);
	check_eq(table[0] & D, 0);
}

TEST_REAL(paging, write_protection_binds_ring_0_with_wp_only)
{
	paging_on();
	map4k(0, alloc_page(), P);
	CATCH(store(VA, 1));
	check_page_fault(3, VA);
	write_cr0(read_cr0() & ~CR0_WP);
	flush();
	CATCH(store(VA, 1));
	check_no_fault();
	check_eq(table[0] & D, D);
	map4k(0, alloc_page(), U | P);
	user_at(u_store, VA); /* ring 3 is bound all the same */
	check_page_fault(7, VA);
}

TEST_REAL(paging, an_access_across_pages_faults_at_the_second)
{
	paging_on();
	map4k(0, alloc_page(), W | P);
	CATCH(load(VA + 0xffd));
	check_page_fault(0, VA + 0x1000);
	*(volatile uint32_t *)(VA + 0xff8) = 0;
	CATCH(store(VA + 0xffe, 0xffffffff));
	check_page_fault(2, VA + 0x1000);
	check_eq(*(volatile uint16_t *)(VA + 0xffe), 0); /* nothing was written */
}

TEST_REAL(paging, a_4_mib_page_maps_all_of_its_range)
{
	uint32_t *word = (uint32_t *)0x00c12344; /* RAM that nobody uses */

	paging_on();
	*word = 31337;
	dir[VA >> 22] = 0x00c00000 | PS | W | P;
	flush();
	check_eq(load(VA + 0x12344), 31337);
	check_eq(dir[VA >> 22] & (A | D), A);
	store(VA + 0x12344, 1);
	check_eq(*word, 1);
	check_eq(dir[VA >> 22] & (A | D), A | D);
}

TEST_REAL(paging, without_pse_the_size_bit_is_ignored)
{
	paging_on();
	map4k(0, alloc_page(), W | P);
	/* The identity mapping as tables, so that PSE can be switched off. */
	for (uint32_t i = 0; i < 16; i++) {
		uint32_t *t = alloc_page();
		for (uint32_t n = 0; n < 1024; n++)
			t[n] = i << 22 | n << 12 | U | W | P;
		dir[i] = (uint32_t)t | U | W | P;
	}
	dir[VA >> 22] |= PS;
	flush();
	write_cr4(read_cr4() & ~CR4_PSE);
	flush();
	CATCH(load(VA));
	check_no_fault();
}

TEST_REAL(paging, reserved_bits_of_a_4_mib_page_fault)
{
	paging_on();
	dir[VA >> 22] = 0x00c00000 | 1u << 21 | PS | W | P;
	flush();
	CATCH(load(VA));
	check_page_fault(9, VA);
	CATCH(store(VA, 1));
	check_page_fault(0xb, VA);
	user_at(u_load, VA);
	check_page_fault(0xd, VA);
	dir[VA >> 22] &= ~P; /* not present: nothing is reserved */
	flush();
	CATCH(load(VA));
	check_page_fault(0, VA);
}

TEST_REAL(paging, invlpg_drops_one_translation_and_cr3_all_but_global_ones)
{
	uint32_t *a = alloc_page(), *b = alloc_page();

	has(13, "no global pages");
	paging_on();
	write_cr4(read_cr4() | CR4_PGE);
	*a = 1;
	*b = 2;
	map4k(0, a, W | P);
	check_eq(load(VA), 1);
	table[0] = (uint32_t)b | W | P;
	__asm__ volatile("invlpg (%0)" : : "r"(VA) : "memory");
	check_eq(load(VA), 2);
	table[0] = (uint32_t)a | W | P | G;
	__asm__ volatile("invlpg (%0)" : : "r"(VA) : "memory");
	check_eq(load(VA), 1);
	table[0] = (uint32_t)b | W | P | G;
	flush();
	check(load(VA) == 1 || load(VA) == 2); /* may stay, need not */
	write_cr4(read_cr4() ^ CR4_PGE);
	check_eq(load(VA), 2);
}

static uint32_t *late_page;
static unsigned times;
static bool map_and_retry(struct frame *f)
{
	times++;
	table[(read_cr2() - VA) >> 12] = (uint32_t)late_page | W | P;
	return 1;
}

extern volatile uint32_t popa_out[4];
void popa_at(uint32_t esp);
__asm__(".text\npopa_at: mov 4(%esp), %eax; pusha; mov %esp, popa_out + 12; mov %eax, %esp; popa;"
	"mov %edi, popa_out; mov %eax, popa_out + 4; mov %esp, popa_out + 8; mov popa_out + 12, "
	"%esp; popa; ret\n.bss\n.align 4\npopa_out: .skip 16\n.text\n");
TEST_REAL(paging, an_instruction_restarts_after_its_page_was_mapped)
{
	paging_on();
	times = 0;
	late_page = alloc_page();
	map4k(0, alloc_page(), W | P);
	set_handler(V_PF, map_and_retry);
	*(uint32_t *)((uint8_t *)late_page + 4) = 0x77;
	check_eq(load(VA + 0x1004), 0x77);
	check_eq(times, 1);
	table[1] = 0;
	flush();
	/* POPA reads across the edge: no register may have changed when it faults. */
	for (unsigned i = 0; i < 4; i++)
		((volatile uint32_t *)(VA + 0xff0))[i] = i + 1;
	for (unsigned i = 0; i < 4; i++)
		late_page[i] = i + 5;
	popa_at(VA + 0xff0);
	check_eq(times, 2);
	check_eq(popa_out[0], 1);	    /* EDI */
	check_eq(popa_out[1], 8);	    /* EAX */
	check_eq(popa_out[2], VA + 0x1010); /* ESP */
}

TEST_REAL(paging, a_repeated_string_stops_in_the_middle_and_goes_on)
{
	uint32_t left = 0x20, to = VA + 0xff0;

	paging_on();
	times = 0;
	late_page = alloc_page();
	map4k(0, alloc_page(), W | P);
	set_handler(V_PF, map_and_retry);
	__asm__ volatile("rep stosb" : "+c"(left), "+D"(to) : "a"(0xaa) : "memory");
	check_eq(times, 1);
	check_eq(left, 0);
	check_eq(to, VA + 0x1010);
	check_eq(late_page[3], 0xaaaaaaaa);
	check_eq(late_page[4], 0);
}

TEST_REAL(paging, system_accesses_from_ring_3_are_supervisor_accesses)
{
	/* The GDT on a supervisor page: a segment load in ring 3 reads it all the same, and a fault
	 * there has the U bit clear (SDM3 4.6.1). */
	uint64_t *copy = alloc_page();
	struct table old, other = {sizeof(gdt) - 1, VA};

	paging_on();
	memcpy(copy, gdt, sizeof(gdt));
	map4k(0, (uint32_t *)copy, W | P);
	__asm__ volatile("sgdt %0; lgdt %1" : "=m"(old) : "m"(other));
	run_user(u_load, 0); /* ebx 0: reads address 0 */
	__asm__ volatile("lgdt %0" : : "m"(old));
	check_eq(fault.vector, 0x80);
}

CODE(u_load_gs, "mov %ebx, %gs; int $0x80");
TEST_REAL(paging, a_missing_descriptor_table_page_is_a_supervisor_fault)
{
	struct table old, other = {0xffff, VA + 0x1000 - 0x400};
	struct frame f = user_frame(u_load_gs, 0);
	uint64_t *copy = alloc_page();

	paging_on();
	memcpy((uint8_t *)copy + 0xc00, gdt, 0x400);
	map4k(0, (uint32_t *)copy, W | P);
	__asm__ volatile("sgdt %0; lgdt %1" : "=m"(old) : "m"(other));
	f.ebx = 0x40b;
	CATCH(frame_enter(&f));
	__asm__ volatile("lgdt %0" : : "m"(old));
	check_page_fault(0, VA + 0x1008);
	check_eq(fault.cs, SEL_UCODE);
}

TEST_REAL(pae, pages_of_both_sizes_are_mapped)
{
	uint32_t *page = alloc_page();

	has(6, "no PAE");
	pae_on();
	*page = 7;
	pt[3] = (uint32_t)page | W | P;
	check_eq(load(VA + 0x3000), 7);
	check_eq(pt[3] & (A | D), A);
	*(uint32_t *)0x00a04560 = 8;
	pd[1] = 0x00a00000 | PS | W | P;
	check_eq(load(VA + 0x204560), 8);
	store(VA + 0x204560, 9);
	check_eq(pd[1] & (A | D), A | D);
	check_eq(*(uint32_t *)0x00a04560, 9);
}

TEST_REAL(pae, faults_carry_the_same_codes)
{
	pae_on();
	CATCH(load(VA + 0x5008));
	check_page_fault(0, VA + 0x5008);
	CATCH(store(0x80000000, 1)); /* no pointer */
	check_page_fault(2, 0x80000000);
	pt[0] = (uint32_t)alloc_page() | P;
	user_at(u_load, VA);
	check_page_fault(5, VA);
	CATCH(store(VA, 1));
	check_page_fault(3, VA);
}

TEST_REAL(pae, reserved_bits_above_the_physical_addresses_fault)
{
	uint64_t page = (uint32_t)alloc_page();

	pae_on();
	pt[0] = page | W | P | 1ull << 62;
	CATCH(load(VA));
	check_page_fault(9, VA);
	pt[0] = page | W | P | 1ull << 52;
	flush();
	CATCH(store(VA, 1));
	check_page_fault(0xb, VA);
	pd[1] = 0x00a00000 | PS | W | P | 1u << 13; /* 2 MiB page: bits 13 to 20 */
	CATCH(load(VA + 0x200000));
	check_page_fault(9, VA + 0x200000);
	pd[2] = page | W | P | 1ull << 55;
	CATCH(load(VA + 0x400000));
	check_page_fault(9, VA + 0x400000);
}

TEST_REAL(pae, reserved_bits_of_the_four_pointers_fault_when_cr3_is_loaded)
{
	uint64_t *bad = alloc_page();
	uint32_t old;

	pae_on();
	old = read_cr3();
	memcpy(bad, (const void *)pdpt, 32);
	bad[2] = (uint32_t)pd | W | P; /* SDM3 table 4-8: bits 1 and 2 are reserved here */
	CATCH(write_cr3((uint32_t)bad));
	check_fault(V_GP, 0);
	check_eq(read_cr3(), old);
	bad[2] = (uint32_t)pd | 1ull << 60 | P;
	CATCH(write_cr3((uint32_t)bad));
	check_fault(V_GP, 0);
	bad[2] = (uint32_t)pd | W; /* not present */
	CATCH(write_cr3((uint32_t)bad));
	check_no_fault();
}

TEST(pae, paging_does_not_start_with_bad_pointers)
{
	uint64_t *bad = alloc_page();

	bad[0] = 0xfe0 | P;
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((uint32_t)bad);
	CATCH(write_cr0(read_cr0() | CR0_PG));
	check_fault(V_GP, 0);
	check(!(read_cr0() & CR0_PG));
}

TEST_REAL(pae, the_pointer_table_needs_32_byte_alignment_only)
{
	uint64_t *page, *at;

	pae_on();
	page = alloc_page();
	at = page + 4 * 9;
	memcpy(at, (const void *)pdpt, 32);
	pt[0] = (uint32_t)page | W | P;
	write_cr3((uint32_t)at);
	CATCH(load(VA));
	check_no_fault();
}

TEST_REAL(pae, nx_pages_cannot_be_executed)
{
	uint8_t *page = alloc_page();

	need_nx();
	pae_on();
	page[0] = 0xc3;
	pt[0] = (uint32_t)page | U | P;
	CATCH(((void (*)(void))VA)());
	check_no_fault();
	pt[0] |= 1ull << 63;
	flush();
	CATCH(((void (*)(void))VA)());
	check_page_fault(0x11, VA);
	user_at(u_jump, VA);
	check_page_fault(0x15, VA);
	CATCH(load(VA));
	check_no_fault();
	pt[1] = 0;
	CATCH(((void (*)(void))(VA + 0x1000))());
	check_page_fault(0x10, VA + 0x1000);
	pt[0] &= ~(1ull << 63);
	pd[0] |= 1ull << 63; /* the upper level says so too */
	flush();
	CATCH(((void (*)(void))VA)());
	check_page_fault(0x11, VA);
}

TEST_REAL(pae, the_nx_bit_is_reserved_without_nxe)
{
	need_nx();
	wrmsr(EFER, rdmsr(EFER) & ~(uint64_t)NXE);
	pae_on();
	pt[0] = (uint32_t)alloc_page() | P | 1ull << 63;
	CATCH(load(VA));
	check_page_fault(9, VA);
}

TEST_REAL(pae, smep_and_smap_hold_in_32_bit_mode_too)
{
	uint32_t r[4];
	uint8_t *page = alloc_page();

	cpuid(7, 0, r);
	if (!(r[1] >> 7 & 1) || !(r[1] >> 20 & 1))
		test_skip("no SMEP or SMAP");
	pae_on();
	/* Everything else becomes supervisor's. */
	for (unsigned i = 0; i < 32; i++)
		((uint64_t *)(uint32_t)(pdpt[0] & ~0xfffull))[i] &= ~(uint64_t)U;
	page[0] = 0xc3;
	pt[0] = (uint32_t)page | U | W | P;
	flush();
	write_cr4(read_cr4() | 1u << 20);
	CATCH(((void (*)(void))VA)());
	check_page_fault(0x11, VA);
	CATCH(load(VA));
	check_no_fault();
	write_cr4(read_cr4() | 1u << 21);
	CATCH(load(VA));
	check_page_fault(1, VA);
	CATCH(store(VA, 1));
	check_page_fault(3, VA);
	CATCH(__asm__ volatile("stac"); load(VA); __asm__ volatile("clac"));
	check_no_fault();
}
