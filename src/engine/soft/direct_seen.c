/* direct_seen.c: what pages were found to hold when they were last looked through.
 *
 * Each process that starts executes pages that those before it have executed: the same pages of the
 * guest's memory, mostly with the same bytes. To look through one takes a third of a microsecond,
 * and up to five for each suspect that turns out to be none. So what was found is kept with a hash
 * of the page, which takes a third of the time, and needs nobody to say when a page changes.
 *
 * The hash is NH (Black and others, UMAC, 1999): two pages that are not the same have the same one
 * for at most one key in 2^32, and the guest knows nothing of the key. What a collision would give
 * away is the host's CPUID.
 */
#include <emmintrin.h>
#include <stdlib.h>
#include <sys/random.h>
#include "engine/soft/direct.h"

#define SEEN 16384u /* a compiler executes 5,000 */

struct seen {
	uint64_t phys; /* the page's address, and 1 */
	uint64_t hash;
	uint8_t next[2], seek;
	_Bool sensitive;
};
struct direct_seen {
	uint32_t key[1024];
	struct seen page[SEEN];
};

static struct direct_seen *seen_new(void)
{
	struct direct_seen *s = calloc(1, sizeof(*s));

	/* Up to 256 bytes come at once, or not at all. */
	for (size_t at = 0; s && at < sizeof(s->key); at += 256)
		if (getrandom((uint8_t *)s->key + at, 256, GRND_NONBLOCK) != 256) {
			free(s);
			return NULL;
		}
	return s;
}

static uint64_t page_hash(const uint32_t *key, const uint8_t *page)
{
	__m128i sum[2] = {_mm_setzero_si128(), _mm_setzero_si128()};
	uint64_t half[2];

	for (unsigned at = 0; at < 4096; at += 32)
		for (unsigned i = 0; i < 2; i++) {
			const void *p = page + at + 16 * i, *k = key + at / 4 + 4 * i;
			__m128i v = _mm_add_epi32(_mm_loadu_si128((const __m128i_u *)p),
						  _mm_loadu_si128((const __m128i_u *)k));
			sum[i] = _mm_add_epi64(sum[i], _mm_mul_epu32(v, _mm_srli_epi64(v, 32)));
		}
	_mm_storeu_si128((__m128i_u *)(void *)half, _mm_add_epi64(sum[0], sum[1]));
	return half[0] + half[1];
}

static uint64_t name_of(uint64_t hash, unsigned seek, const uint8_t *next)
{
	return hash ^ (uint64_t)next[0] << 48 ^ (uint64_t)next[1] << 56 ^ seek;
}

uint64_t direct_seen_name(struct soft_cpu *cpu, unsigned seek, const uint8_t *page,
			  const uint8_t *next)
{
	const struct soft_direct *d = cpu->direct;

	return d->seen ? name_of(page_hash(d->seen->key, page), seek, next) : 0;
}

_Bool direct_seen_sensitive(struct soft_cpu *cpu, unsigned seek, uint64_t phys, const uint8_t *page,
			    const uint8_t *next, uint64_t *named)
{
	struct soft_direct *d = cpu->direct;
	const ZydisDecoder *decoder = &cpu->cache->decoder[2];

	*named = 0;
	if (UNLIKELY(!d->seen) && !(d->seen = seen_new()))
		return direct_sensitive(decoder, page, next, seek, &d->decoded);
	uint64_t hash = page_hash(d->seen->key, page);
	*named = name_of(hash, seek, next);
	struct seen *s = &d->seen->page[(phys >> 12) % SEEN];
	if (s->phys == (phys | 1) && s->hash == hash && s->seek == seek &&
	    !memcmp(s->next, next, 2))
		return s->sensitive;
	/* Somebody may be writing there: what is found belongs to the hash only if it is the same
	 * afterwards. */
	cpu->stats.direct_scans++;
	_Bool sensitive = direct_sensitive(decoder, page, next, seek, &d->decoded);
	s->phys = page_hash(d->seen->key, page) == hash ? phys | 1 : 0;
	s->hash = hash;
	memcpy(s->next, next, 2);
	s->seek = (uint8_t)seek;
	s->sensitive = sensitive;
	return sensitive;
}

void direct_seen_fini(struct soft_direct *d)
{
	free(d->seen);
	d->seen = NULL;
}
