/* fuzz_decode.c: any bytes as code, decoded and executed by the interpreter in every mode. */
#include <stdlib.h>

#include "base/log.h"
#include "engine/soft/core.h"
#include "engine/soft/testboard.h"
#include "engine/soft/vector.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS 200

/*
 * The first byte chooses the mode and whether caches are kept from the run before, the next 16
 * become the low bytes of the registers, the rest is code. A board serves many runs: what one
 * leaves in memory the next one finds, as long as it is not the tables.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct board *b;
	static unsigned runs;

	if (size < 18)
		return 0;
	if (!b) {
		log_set_level(LOG_ERROR);
		b = board_new(1);
	}
	if (++runs % 4096 == 0) {
		board_free(b);
		b = board_new(1);
	}
	size_t len = size - 17 < 0x2000 ? size - 17 : 0x2000;
	/* At a page's end, so that code crosses pages. */
	uint64_t at = data[0] & 0x80 ? BOARD_CODE + 0x1000 - 7 : BOARD_CODE;
	board_load(b, at, data + 17, len);
	switch (data[0] & 3) {
	case 0: board_long(b, at); break;
	case 1: board_user(b, at); break;
	case 2: board_prot(b, (uint32_t)at); break;
	default: board_real(b, (uint16_t)at);
	}
	for (unsigned r = 0; r < 16; r++)
		if (r != X86_RSP)
			b->cpu->s.gpr[r] = (uint64_t)(int64_t)(int8_t)data[1 + r]
					   << (data[0] >> 2 & 15);
	if (data[0] & 0x40)
		soft_cache_flush(b->cpu);
	/* Tables that the code before has written to. */
	atomic_store(&b->cpu->base.link.events, 0);
	int rc = soft_run_steps(&b->cpu->base, STEPS);
	if (rc < 0)
		abort();
	return 0;
}
