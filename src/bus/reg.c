/* reg.c: register tables: whole registers, masks and hooks behind accesses of any size. */
#include "bus/space.h"

#include <assert.h>
#include <string.h>

const struct reg *reg_find(const struct reg *table, unsigned count, uint64_t offset)
{
	unsigned lo = 0, hi = count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct reg *reg = &table[mid];

		if (offset < reg->offset)
			hi = mid;
		else if (offset - reg->offset >= reg->size)
			lo = mid + 1;
		else
			return reg;
	}
	return NULL;
}

/* The field's value; offset 0 is the head that every device begins with, so it means "no field". */
static uint64_t field_get(const struct device *dev, const struct reg *reg)
{
	uint64_t value = 0;

	if (reg->field)
		memcpy(&value, (const uint8_t *)dev + reg->field, reg->size);
	return value;
}

static void field_set(struct device *dev, const struct reg *reg, uint64_t value)
{
	if (reg->field)
		memcpy((uint8_t *)dev + reg->field, &value, reg->size);
}

void reg_reset(struct device *dev, const struct reg *table, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		field_set(dev, &table[i], table[i].reset);
}

static uint64_t reg_get(struct device *dev, const struct reg *reg)
{
	assert(!(reg->flags & REG_READ_HOOK) || reg->read);
	return reg->read ? reg->read(dev, reg) & size_mask(reg->size) : field_get(dev, reg);
}

/* Stores the bytes in `bytes` of `written`; the others keep what they have. */
static void reg_put(struct device *dev, const struct reg *reg, uint64_t written, uint64_t bytes)
{
	uint64_t old = field_get(dev, reg);
	uint64_t value = (old & ~(reg->rw & bytes)) | (written & reg->rw & bytes);

	assert(!(reg->flags & REG_WRITE_HOOK) || reg->write);
	value &= ~(written & reg->w1c & bytes);
	field_set(dev, reg, value);
	if (reg->write)
		reg->write(dev, reg, old, written & bytes);
}

uint64_t reg_read(struct device *dev, const struct reg *table, unsigned count, uint64_t offset,
		  unsigned size)
{
	uint64_t value = 0;

	for (unsigned i = 0, n; i < size; i += n) {
		const struct reg *reg = reg_find(table, count, offset + i);
		unsigned skip;

		n = 1;
		if (!reg)
			continue;
		skip = (unsigned)(offset + i - reg->offset);
		n = MIN(reg->size - skip, size - i);
		value |= (reg_get(dev, reg) >> (8 * skip) & size_mask(n)) << (8 * i);
	}
	return value;
}

void reg_write(struct device *dev, const struct reg *table, unsigned count, uint64_t offset,
	       unsigned size, uint64_t value)
{
	for (unsigned i = 0, n; i < size; i += n) {
		const struct reg *reg = reg_find(table, count, offset + i);
		unsigned skip;

		n = 1;
		if (!reg)
			continue;
		skip = (unsigned)(offset + i - reg->offset);
		n = MIN(reg->size - skip, size - i);
		reg_put(dev, reg, (value >> (8 * i)) << (8 * skip), size_mask(n) << (8 * skip));
	}
}
