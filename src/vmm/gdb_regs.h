/* gdb_regs.h: the CPU's registers as gdb numbers and describes them. */
#ifndef VMM_GDB_REGS_H
#define VMM_GDB_REGS_H

#include "base/buf.h"
#include "x86/state.h"

#define GDB_REG_MAX_BYTES 32

/* Registers are numbered from 0 without a gap. The size in bytes, or 0: there is no such. */
unsigned gdb_reg_size(unsigned n);
/* Copies gdb_reg_size(n) bytes, little-endian. put returns false, changing nothing, when the
 * register cannot be written or has no such value. */
void gdb_reg_get(const struct x86_state *s, unsigned n, uint8_t *out);
_Bool gdb_reg_put(struct x86_state *s, unsigned n, const uint8_t *in);

/* How many there are, of which the 'g' packet carries all. AVX-512's come last. */
unsigned gdb_reg_count(_Bool avx512);

/* The target description (GDB G) as XML. */
void gdb_regs_describe(struct wbuf *out, _Bool avx512);

#endif
