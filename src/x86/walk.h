/* walk.h: a page-table walk over a read callback, for debuggers, tests and tools; engines have
 * their own. */
#ifndef X86_WALK_H
#define X86_WALK_H

#include "x86/state.h"

/* Reads `size` bytes (4 or 8) of guest-physical memory; 0, or negative where there is none. */
typedef int walk_read(void *opaque, uint64_t addr, void *buf, unsigned size);

struct walk_result {
	uint64_t addr;	     /* guest-physical, of the byte asked for */
	uint64_t page_bytes; /* 4 KiB, 2 MiB, 4 MiB, 1 GiB; 0 when paging is off */
	unsigned level;	     /* of the entry that maps the page, or where the walk ended: 1 to 5 */
	_Bool writable, user, execute; /* all levels together */
	_Bool global, dirty;
	uint64_t entry;	      /* the last entry read */
	uint64_t entry_addr;  /* and where it is */
	uint32_t fault_error; /* P and RSVD bits of a page fault's error code, when -EFAULT */
};

/*
 * Translates a linear address under CR0, CR3, CR4 and EFER of `s` (SDM3 4). Changes nothing: no
 * accessed or dirty bits. `phys_bits` says which address bits are reserved. 0; -EFAULT when the
 * tables have no translation; -EIO when a table lies outside of memory; -EINVAL when the address is
 * not canonical.
 */
NODISCARD int x86_walk(const struct x86_state *s, unsigned phys_bits, uint64_t linear,
		       walk_read *read, void *opaque, struct walk_result *out);

#endif
