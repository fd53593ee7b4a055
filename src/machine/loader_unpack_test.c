/* loader_unpack_test.c: payload formats, packed with their own libraries, and damaged ones. */
#include "machine/loader_testing.h"

#include <bzlib.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#define PLAIN  200000
#define PACKED (2 * PLAIN)

static uint8_t *plain_new(void)
{
	uint8_t *p = malloc(PLAIN);
	assert_non_null(p);
	for (unsigned i = 0; i < PLAIN; i++)
		p[i] = (uint8_t)(i * i >> 7);
	return p;
}

static size_t pack_gzip(const uint8_t *in, uint8_t *out)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
		      .avail_in = PLAIN,
		      .next_out = out,
		      .avail_out = PACKED};
	assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, 0), Z_OK);
	assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
	deflateEnd(&z);
	return z.total_out;
}

static size_t pack_bzip2(const uint8_t *in, uint8_t *out)
{
	unsigned len = PACKED;
	assert_int_equal(
	    BZ2_bzBuffToBuffCompress((char *)out, &len, (char *)(uintptr_t)in, PLAIN, 9, 0, 0),
	    BZ_OK);
	return len;
}

/* As the kernel packs itself: the x86 branch filter, CRC32. */
static size_t pack_xz(const uint8_t *in, uint8_t *out)
{
	lzma_options_lzma opt;
	size_t len = 0;
	lzma_lzma_preset(&opt, 6);
	lzma_filter filters[] = {
	    {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &opt}, {LZMA_VLI_UNKNOWN, NULL}};
	assert_int_equal(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, in, PLAIN, out,
						   &len, PACKED),
			 LZMA_OK);
	return len;
}

static size_t pack_lzma(const uint8_t *in, uint8_t *out)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_options_lzma opt;
	lzma_lzma_preset(&opt, 6);
	assert_int_equal(lzma_alone_encoder(&s, &opt), LZMA_OK);
	s.next_in = in;
	s.avail_in = PLAIN;
	s.next_out = out;
	s.avail_out = PACKED;
	assert_int_equal(lzma_code(&s, LZMA_FINISH), LZMA_STREAM_END);
	size_t len = s.total_out;
	lzma_end(&s);
	return len;
}

/* The legacy frame, in two blocks. */
static size_t pack_lz4(const uint8_t *in, uint8_t *out)
{
	size_t pos = 4, half = PLAIN / 2;
	store_le32(out, 0x184c2102);
	for (unsigned i = 0; i < 2; i++) {
		int n = LZ4_compress_default((const char *)in + i * half, (char *)out + pos + 4,
					     (int)half, PACKED / 2 - 16);
		assert_true(n > 0);
		store_le32(out + pos, (uint32_t)n);
		pos += 4 + (size_t)n;
	}
	return pos;
}

static size_t pack_zstd(const uint8_t *in, uint8_t *out)
{
	size_t n = ZSTD_compress(out, PACKED, in, PLAIN, 3);
	assert_false(ZSTD_isError(n));
	return n;
}

static size_t pack_stored(const uint8_t *in, uint8_t *out)
{
	memcpy(out,
	       "\x7f"
	       "ELF",
	       4);
	memcpy(out + 4, in + 4, PLAIN - 4);
	return PLAIN;
}

static const struct {
	enum payload_format format;
	const char *name;
	size_t (*pack)(const uint8_t *in, uint8_t *out);
} formats[] = {
    {PAYLOAD_ELF, "elf", pack_stored},	  {PAYLOAD_GZIP, "gzip", pack_gzip},
    {PAYLOAD_BZIP2, "bzip2", pack_bzip2}, {PAYLOAD_LZMA, "lzma", pack_lzma},
    {PAYLOAD_XZ, "xz", pack_xz},	  {PAYLOAD_LZ4, "lz4", pack_lz4},
    {PAYLOAD_ZSTD, "zstd", pack_zstd},
};

static void every_format_is_recognised_and_unpacked(void **state)
{
	uint8_t *plain = plain_new(), *packed = malloc(PACKED), *out = malloc(PLAIN);

	assert_non_null(packed);
	assert_non_null(out);
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
		struct error err = {0};
		size_t len = formats[i].pack(plain, packed);

		assert_int_equal(payload_detect(packed, len), formats[i].format);
		assert_string_equal(payload_name(formats[i].format), formats[i].name);
		assert_true(payload_known(formats[i].format));
		assert_int_equal(payload_unpack(formats[i].format, packed, len, out, PLAIN, &err),
				 0);
		assert_memory_equal(out + 4, plain + 4, PLAIN - 4);
	}
	free(plain);
	free(packed);
	free(out);
}

static void output_never_passes_its_limit(void **state)
{
	uint8_t *plain = plain_new(), *packed = malloc(PACKED), *out = malloc(PLAIN);

	assert_non_null(packed);
	assert_non_null(out);
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++) {
		struct error err = {0};
		size_t len = formats[i].pack(plain, packed);

		memset(out, 0x5a, PLAIN);
		assert_true(
		    payload_unpack(formats[i].format, packed, len, out, PLAIN - 1000, &err) < 0);
		for (unsigned j = PLAIN - 1000; j < PLAIN; j++)
			assert_int_equal(out[j], 0x5a);
	}
	free(plain);
	free(packed);
	free(out);
}

static void damage_is_said_and_never_crashes(void **state)
{
	uint8_t *plain = plain_new(), *packed = malloc(PACKED), *out = malloc(PLAIN);

	assert_non_null(packed);
	assert_non_null(out);
	for (unsigned i = 1; i < ARRAY_SIZE(formats); i++) {
		struct error err = {0};
		size_t len = formats[i].pack(plain, packed);

		assert_int_equal(
		    payload_unpack(formats[i].format, packed, len / 2, out, PLAIN, &err), -EINVAL);
		assert_non_null(strstr(err.text, "damaged"));
		for (size_t j = len / 3; j < len / 3 + 64; j++)
			packed[j] ^= 0xff;
		(void)!payload_unpack(formats[i].format, packed, len, out, PLAIN, &err);
		assert_true(payload_unpack(formats[i].format, packed, 3, out, PLAIN, &err) < 0);
	}
	free(plain);
	free(packed);
	free(out);
}

static void what_is_not_known_is_not_unpacked(void **state)
{
	const uint8_t lzo[16] = {0x89, 'L', 'Z', 'O', 0, 0x0d, 0x0a, 0x1a, 0x0a};
	uint8_t out[16];

	assert_int_equal(payload_detect(lzo, sizeof(lzo)), PAYLOAD_LZO);
	assert_false(payload_known(PAYLOAD_LZO));
	assert_int_equal(payload_detect(lzo, 3), PAYLOAD_UNKNOWN);
	assert_int_equal(payload_detect(lzo, 0), PAYLOAD_UNKNOWN);
	assert_int_equal(payload_unpack(PAYLOAD_LZO, lzo, 16, out, 16, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_format_is_recognised_and_unpacked),
	    cmocka_unit_test(output_never_passes_its_limit),
	    cmocka_unit_test(damage_is_said_and_never_crashes),
	    cmocka_unit_test(what_is_not_known_is_not_unpacked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
