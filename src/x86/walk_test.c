/* walk_test.c: translations of all paging modes over a small fake memory. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>
#include "base/le.h"
#include "x86/regs.h"
#include "x86/walk.h"

static uint8_t mem[0x8000];

static int mem_read(void *opaque, uint64_t addr, void *buf, unsigned size)
{
	(void)opaque;
	if (addr > sizeof(mem) - size)
		return -1;
	memcpy(buf, mem + addr, size);
	return 0;
}

static struct x86_state paged(uint64_t cr4, uint64_t efer)
{
	struct x86_state s;

	memset(mem, 0, sizeof(mem));
	x86_state_reset(&s, 1);
	s.cr0 |= X86_CR0_PE | X86_CR0_PG;
	s.cr3 = 0x1000;
	s.cr4 = cr4;
	s.efer = efer;
	return s;
}

static int walk(const struct x86_state *s, uint64_t linear, struct walk_result *out)
{
	return x86_walk(s, 40, linear, mem_read, NULL, out);
}

static void two_levels_with_large_pages(void **state)
{
	struct x86_state s = paged(X86_CR4_PSE, 0);
	struct walk_result r;

	store_le32(mem + 0x1000 + 4 * 1, 0x2007);
	store_le32(mem + 0x2000 + 4 * 3, 0x5065);
	store_le32(mem + 0x1000 + 4 * 2, 0x00802083);
	assert_int_equal(walk(&s, 0x403123, &r), 0);
	assert_int_equal(r.addr, 0x5123);
	assert_true(r.user && !r.writable && r.dirty);
	assert_int_equal(walk(&s, 0x923456, &r), 0);
	assert_int_equal(r.addr, UINT64_C(0x100923456));
	assert_int_equal(r.page_bytes, 4 << 20);
	assert_int_equal(walk(&s, 0x404000, &r), -EFAULT);
	assert_int_equal(r.level, 1);
	(void)state;
}

static void pae_checks_reserved_bits(void **state)
{
	struct x86_state s = paged(X86_CR4_PAE, 0);
	struct walk_result r;

	store_le64(mem + 0x1000, 0x2001);
	store_le64(mem + 0x2000, 0x3007);
	store_le64(mem + 0x3000, 0x4007);
	assert_int_equal(walk(&s, 0xabc, &r), 0);
	assert_int_equal(r.addr, 0x4abc);
	store_le64(mem + 0x3000, 0x4007 | X86_PTE_NX);
	assert_int_equal(walk(&s, 0xabc, &r), -EFAULT);
	assert_int_equal(r.fault_error, X86_PFERR_P | X86_PFERR_RSVD);
	s.efer = X86_EFER_NXE;
	assert_int_equal(walk(&s, 0xabc, &r), 0);
	assert_false(r.execute);
	(void)state;
}

static void four_levels_with_large_pages(void **state)
{
	struct x86_state s = paged(X86_CR4_PAE, X86_EFER_LME | X86_EFER_LMA);
	struct walk_result r;

	store_le64(mem + 0x1000 + 8 * 511, 0x2003);
	store_le64(mem + 0x2000 + 8 * 510, 0x3003);
	store_le64(mem + 0x2000, 0x40000083);
	store_le64(mem + 0x3000 + 8, 0x600183);
	assert_int_equal(walk(&s, UINT64_C(0xffffffff80234567), &r), 0);
	assert_int_equal(r.addr, 0x634567);
	assert_int_equal(r.page_bytes, 2 << 20);
	assert_true(r.writable && !r.user);
	assert_int_equal(walk(&s, UINT64_C(0xffffff8000012345), &r), 0);
	assert_int_equal(r.addr, 0x40012345);
	assert_int_equal(walk(&s, UINT64_C(0x800000000000), &r), -EINVAL);
	store_le64(mem + 0x2000, 0x40002083);
	assert_int_equal(walk(&s, UINT64_C(0xffffff8000012345), &r), -EFAULT);
	s.cr3 = 0x100000;
	assert_int_equal(walk(&s, 0, &r), -EIO);
	(void)state;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(two_levels_with_large_pages),
	    cmocka_unit_test(pae_checks_reserved_bits),
	    cmocka_unit_test(four_levels_with_large_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
