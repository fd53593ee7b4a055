/* seg.c: segment descriptors and gates: decoding, and the checks that need no memory. */
#include "x86/seg.h"

struct x86_seg seg_from_desc(uint16_t selector, uint64_t desc, uint32_t high)
{
	return (struct x86_seg){
	    .base = desc_base(desc) | (uint64_t)high << 32,
	    .limit = desc_limit(desc),
	    .attr = desc_attr(desc),
	    .selector = selector,
	};
}

uint64_t seg_to_desc(const struct x86_seg *seg)
{
	uint32_t limit = seg->attr & X86_SEG_G ? seg->limit >> 12 : seg->limit;

	return (limit & 0xffff) | (seg->base & 0xffffff) << 16 |
	       (uint64_t)(seg->attr & 0xf0ff) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
	       (seg->base >> 24 & 0xff) << 56;
}

struct x86_gate gate_decode(uint64_t low, uint64_t high)
{
	struct x86_gate g = {
	    .offset = (low & 0xffff) | high << 32,
	    .selector = (uint16_t)(low >> 16),
	    .type = (uint8_t)(low >> 40 & 15),
	    .dpl = (uint8_t)(low >> 45 & 3),
	    .ist = (uint8_t)(low >> 32 & 7),
	    .count = (uint8_t)(low >> 32 & 31),
	    .present = low >> 47 & 1,
	};

	if (g.type & 8) /* 32- and 64-bit gates have the upper half of the offset */
		g.offset |= (low >> 48) << 16;
	return g;
}

_Bool seg_limit_allows(const struct x86_seg *seg, uint32_t offset, unsigned size)
{
	uint64_t last = (uint64_t)offset + size - 1;
	unsigned type = X86_SEG_TYPE(seg->attr);

	if ((type & (X86_TYPE_CODE | X86_TYPE_E)) != X86_TYPE_E)
		return last <= seg->limit;
	return offset > seg->limit && last <= (seg->attr & X86_SEG_DB ? 0xffffffffu : 0xffffu);
}

int seg_check_data(uint64_t desc, unsigned cpl, unsigned rpl)
{
	unsigned type = desc_type(desc);

	if (desc_is_system(desc) || (type & (X86_TYPE_CODE | X86_TYPE_R)) == X86_TYPE_CODE)
		return X86_VEC_GP;
	if ((type & (X86_TYPE_CODE | X86_TYPE_C)) != (X86_TYPE_CODE | X86_TYPE_C) &&
	    (rpl > desc_dpl(desc) || cpl > desc_dpl(desc)))
		return X86_VEC_GP;
	return desc_present(desc) ? -1 : X86_VEC_NP;
}

int seg_check_stack(uint64_t desc, unsigned cpl, unsigned rpl)
{
	unsigned type = desc_type(desc);

	if (desc_is_system(desc) || (type & (X86_TYPE_CODE | X86_TYPE_W)) != X86_TYPE_W ||
	    rpl != cpl || desc_dpl(desc) != cpl)
		return X86_VEC_GP;
	return desc_present(desc) ? -1 : X86_VEC_SS;
}

_Bool seg_hidden_from(const struct x86_seg *seg, unsigned cpl)
{
	unsigned type = X86_SEG_TYPE(seg->attr);

	if (seg->attr & X86_SEG_UNUSABLE)
		return seg->selector != 0;
	if ((type & (X86_TYPE_CODE | X86_TYPE_C)) == (X86_TYPE_CODE | X86_TYPE_C))
		return 0;
	return X86_SEG_DPL(seg->attr) < cpl;
}

struct x86_seg seg_null(uint16_t selector, unsigned cpl)
{
	return (struct x86_seg){.selector = selector, .attr = X86_SEG_UNUSABLE | cpl << 5};
}

void seg_load_real(struct x86_seg *seg, uint16_t selector, _Bool v86)
{
	seg->selector = selector;
	seg->base = (uint64_t)selector << 4;
	if (v86) {
		seg->limit = 0xffff;
		seg->attr = 0xf3;
	} else if (seg->attr & X86_SEG_UNUSABLE) {
		/* Null in protected mode; real mode knows no such thing. */
		seg->limit = 0xffff;
		seg->attr = 0x93;
	}
}
