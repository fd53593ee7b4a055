/* loader_place.c: finds room in guest RAM for what a boot loader hands over. */
#include "machine/loader_internal.h"

#include <assert.h>
#include <errno.h>

#define PLACE_FIRST UINT64_C(0x1000) /* behind the interrupt vectors and the BIOS data area */
#define PLACE_1M    UINT64_C(0x100000)

void place_init(struct place *place, const struct board_layout *layout)
{
	*place = (struct place){.layout = layout};
	place->taken[place->count].base = 0;
	place->taken[place->count++].end = PLACE_FIRST;
	place->taken[place->count].base = BOARD_EBDA;
	place->taken[place->count++].end = PLACE_1M;
}

int place_take(struct place *place, uint64_t base, uint64_t size)
{
	if (!size)
		return 0;
	if (place->count == PLACE_MAX)
		return -ENOSPC;
	place->taken[place->count].base = base;
	place->taken[place->count++].end = base + size;
	return 0;
}

_Bool place_is_ram(const struct place *place, uint64_t base, uint64_t size)
{
	const struct board_layout *l = place->layout;

	if (base >= l->ram_high_base)
		return range_fits(base - l->ram_high_base, size, l->ram_high_size);
	return range_fits(base, size, l->ram_low_end);
}

/* The taken range that overlaps, or -1. */
static int place_clash(const struct place *place, uint64_t base, uint64_t size)
{
	for (unsigned i = 0; i < place->count; i++)
		if (base < place->taken[i].end && base + size > place->taken[i].base)
			return (int)i;
	return -1;
}

/* Each step leaves one taken range behind for good, so the loop is bounded by their number. */
int place_find(struct place *place, uint64_t size, uint64_t align, uint64_t lo, uint64_t hi,
	       _Bool high, uint64_t *base)
{
	assert(align && !(align & (align - 1)));
	if (!size || size > hi || hi - size < lo || place->count == PLACE_MAX)
		return -ENOSPC;

	uint64_t at = high ? ALIGN_DOWN(hi - size, align) : ALIGN_UP(lo, align);
	for (;;) {
		if (at < lo || !range_fits(at, size, hi))
			return -ENOSPC;
		int i = place_clash(place, at, size);
		if (i < 0)
			break;
		if (high && place->taken[i].base < size)
			return -ENOSPC;
		at = high ? ALIGN_DOWN(place->taken[i].base - size, align)
			  : ALIGN_UP(place->taken[i].end, align);
	}
	if (!place_is_ram(place, at, size))
		return -ENOSPC;
	*base = at;
	return place_take(place, at, size);
}

int place_low(struct place *place, uint64_t size, uint64_t *base, struct error *err)
{
	if (place_find(place, size, GMEM_PAGE_SIZE, PLACE_FIRST, BOARD_EBDA, 0, base))
		return error_set(err, -ENOSPC,
				 "the kernel leaves no room below 640 KiB for what its boot "
				 "protocol hands over");
	return 0;
}

int place_blob(struct place *place, struct gmem *mem, const void *data, size_t size, uint64_t *base,
	       struct error *err)
{
	uint64_t at;
	int rc = place_low(place, size, &at, err);
	if (rc)
		return rc;
	if (gmem_load(mem, gpa(at), data, size))
		return error_set(err, -ENOMEM, "the VM has no RAM at 0x%llx",
				 (unsigned long long)at);
	*base = at;
	return 0;
}
