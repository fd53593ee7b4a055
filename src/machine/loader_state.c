/* loader_state.c: the CPU as the boot protocols want it: flat segments, page tables, MTRRs. */
#include "machine/loader_internal.h"

#include <errno.h>
#include <string.h>

#include "base/le.h"
#include "x86/regs.h"

#define ATTR_CODE32 (0xbu | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G)
#define ATTR_CODE64 (0xbu | X86_SEG_S | X86_SEG_P | X86_SEG_L | X86_SEG_G)
#define ATTR_DATA   (0x3u | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G)

#define GDT_ENTRIES 4

static void state_flat(struct x86_state *s, uint32_t code_attr)
{
	struct x86_seg data = {.limit = 0xffffffff, .attr = ATTR_DATA, .selector = BOOT_DS};

	for (unsigned i = 0; i < ARRAY_SIZE(s->seg); i++)
		s->seg[i] = data;
	s->seg[X86_CS] =
	    (struct x86_seg){.limit = 0xffffffff, .attr = code_attr, .selector = BOOT_CS};
	memset(s->gpr, 0, sizeof(s->gpr));
	s->rflags = X86_FIXED;
}

void state_enter_32(struct x86_state *s, uint64_t gdt, uint32_t entry)
{
	state_flat(s, ATTR_CODE32);
	s->gdt = (struct x86_table){.base = gdt, .limit = gdt ? GDT_ENTRIES * 8 - 1 : 0};
	s->idt = (struct x86_table){0};
	s->cr0 = X86_CR0_PE | X86_CR0_ET;
	s->cr3 = s->cr4 = s->efer = 0;
	s->rip = entry;
}

void state_enter_64(struct x86_state *s, uint64_t gdt, uint64_t cr3, uint64_t entry)
{
	state_flat(s, ATTR_CODE64);
	s->gdt = (struct x86_table){.base = gdt, .limit = GDT_ENTRIES * 8 - 1};
	s->idt = (struct x86_table){0};
	s->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_PG;
	s->cr3 = cr3;
	s->cr4 = X86_CR4_PAE;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
	s->rip = entry;
}

/* SDM3 3.4.5: a flat descriptor of the given attributes. */
static uint64_t flat_descriptor(uint32_t attr)
{
	return 0xffff | UINT64_C(0xf) << 48 | (uint64_t)(attr & 0xf0ff) << 40;
}

int state_place_gdt(struct boot_run *run, _Bool is64, uint64_t *base, struct error *err)
{
	uint8_t gdt[GDT_ENTRIES * 8] = {0};

	store_le64(gdt + BOOT_CS, flat_descriptor(is64 ? ATTR_CODE64 : ATTR_CODE32));
	store_le64(gdt + BOOT_DS, flat_descriptor(ATTR_DATA));
	return place_blob(&run->place, run->mem, gdt, sizeof(gdt), base, err);
}

int state_place_identity(struct boot_run *run, uint64_t *cr3, struct error *err)
{
	uint8_t page[GMEM_PAGE_SIZE];
	uint64_t base;
	int rc = place_low(&run->place, 6 * GMEM_PAGE_SIZE, &base, err);
	if (rc)
		return rc;

	/* PML4, PDPT, then four page directories of 2 MiB pages. */
	for (unsigned table = 0; table < 6 && !rc; table++) {
		memset(page, 0, sizeof(page));
		if (table == 0)
			store_le64(page, (base + GMEM_PAGE_SIZE) | X86_PTE_P | X86_PTE_W);
		for (unsigned i = 0; table == 1 && i < 4; i++)
			store_le64(page + 8 * i,
				   (base + (2 + i) * GMEM_PAGE_SIZE) | X86_PTE_P | X86_PTE_W);
		for (uint64_t i = 0; table >= 2 && i < 512; i++)
			store_le64(page + 8 * i, ((table - 2) << 30 | i << 21) | X86_PTE_P |
						     X86_PTE_W | X86_PTE_PS);
		rc = gmem_load(run->mem, gpa(base + table * GMEM_PAGE_SIZE), page, sizeof(page));
	}
	if (rc)
		return error_set(err, -ENOMEM, "the VM has no RAM at 0x%llx",
				 (unsigned long long)base);
	*cr3 = base;
	return 0;
}

/* SDM3 11.11: default write-back; video memory and the device windows uncached. */
void boot_state_common(const struct board_layout *layout, struct x86_state *s)
{
	const uint64_t wb8 = UINT64_C(0x0606060606060606);
	uint64_t phys = size_mask(8);

	if (layout->phys_bits < 64)
		phys = BIT64(layout->phys_bits) - 1;
	s->mtrr_def = BIT32(11) | BIT32(10) | 6;
	for (unsigned i = 0; i < ARRAY_SIZE(s->mtrr_fixed); i++)
		s->mtrr_fixed[i] = i == 2 ? 0 : wb8;

	const struct {
		uint64_t base, size;
	} uncached[] = {
	    {layout->ecam_base, (uint64_t)layout->ecam_buses << 20},
	    {UINT64_C(0xc0000000), UINT64_C(0x40000000)},
	    {layout->pci64_base, layout->pci64_size},
	};
	for (unsigned i = 0; i < ARRAY_SIZE(uncached); i++) {
		s->mtrr_base[i] = uncached[i].base;
		s->mtrr_mask[i] = (~(uncached[i].size - 1) & phys & ~UINT64_C(0xfff)) | BIT32(11);
	}
	s->cr0 &= ~(X86_CR0_CD | X86_CR0_NW);
}
