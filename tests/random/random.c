/* random.c: numbers that a seed determines. */
#include "randinsn.h"

#include <string.h>

static uint64_t splitmix(uint64_t *x)
{
	uint64_t z = (*x += UINT64_C(0x9e3779b97f4a7c15));

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

void ri_seed(struct ri_random *r, uint64_t seed)
{
	r->s[0] = splitmix(&seed);
	r->s[1] = splitmix(&seed);
}

/* xoroshiro128+ */
uint64_t ri_next(struct ri_random *r)
{
	uint64_t a = r->s[0], b = r->s[1], sum = a + b;

	b ^= a;
	r->s[0] = (a << 24 | a >> 40) ^ b ^ (b << 16);
	r->s[1] = b << 37 | b >> 27;
	return sum;
}

void ri_const_page(uint8_t page[RI_PAGE])
{
	struct ri_random r;

	ri_seed(&r, 0x636f6e7374);
	for (unsigned i = 0; i < RI_PAGE; i += 8) {
		uint64_t v = ri_next(&r);

		memcpy(page + i, &v, 8);
	}
}
