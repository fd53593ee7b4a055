/* loader_unpack.c: unpacks kernel payloads with the formats' own libraries, into bounded memory. */
#include "machine/loader_internal.h"

#include <errno.h>
#include <string.h>

#include <bzlib.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/le.h"

#define XZ_MEMORY_LIMIT	 (UINT64_C(256) << 20)
#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK (8u << 20)

static const struct {
	enum payload_format format;
	const char *name;
	uint8_t len;
	uint8_t magic[9];
} formats[] = {
    {PAYLOAD_ELF, "elf", 4, {0x7f, 'E', 'L', 'F'}},
    {PAYLOAD_GZIP, "gzip", 2, {0x1f, 0x8b}},
    {PAYLOAD_BZIP2, "bzip2", 3, {'B', 'Z', 'h'}},
    {PAYLOAD_LZMA, "lzma", 3, {0x5d, 0x00, 0x00}},
    {PAYLOAD_XZ, "xz", 6, {0xfd, '7', 'z', 'X', 'Z', 0}},
    {PAYLOAD_LZO, "lzo", 9, {0x89, 'L', 'Z', 'O', 0x00, 0x0d, 0x0a, 0x1a, 0x0a}},
    {PAYLOAD_LZ4, "lz4", 4, {0x02, 0x21, 0x4c, 0x18}},
    {PAYLOAD_ZSTD, "zstd", 4, {0x28, 0xb5, 0x2f, 0xfd}},
};

enum payload_format payload_detect(const uint8_t *head, size_t len)
{
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (len >= formats[i].len && !memcmp(head, formats[i].magic, formats[i].len))
			return formats[i].format;
	return PAYLOAD_UNKNOWN;
}

const char *payload_name(enum payload_format format)
{
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (formats[i].format == format)
			return formats[i].name;
	return "unknown";
}

_Bool payload_known(enum payload_format format)
{
	return format != PAYLOAD_UNKNOWN && format != PAYLOAD_LZO;
}

/* What every unpacker says; `out_len` only on OK. */
enum unpack_result { UNPACK_OK, UNPACK_DAMAGED, UNPACK_TOO_BIG, UNPACK_NO_MEMORY };

struct unpack_io {
	const uint8_t *in;
	size_t in_len;
	uint8_t *out;
	size_t cap, out_len;
};

static enum unpack_result unpack_stored(struct unpack_io *io)
{
	if (io->in_len > io->cap)
		return UNPACK_TOO_BIG;
	memcpy(io->out, io->in, io->in_len);
	io->out_len = io->in_len;
	return UNPACK_OK;
}

static enum unpack_result unpack_gzip(struct unpack_io *io)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)io->in,
		      .avail_in = (uInt)io->in_len,
		      .next_out = io->out,
		      .avail_out = (uInt)io->cap};

	if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
		return UNPACK_NO_MEMORY;
	int rc = inflate(&z, Z_FINISH);
	io->out_len = z.total_out;
	_Bool full = !z.avail_out;
	inflateEnd(&z);
	if (rc == Z_STREAM_END)
		return UNPACK_OK;
	if (rc == Z_MEM_ERROR)
		return UNPACK_NO_MEMORY;
	return rc == Z_BUF_ERROR && full ? UNPACK_TOO_BIG : UNPACK_DAMAGED;
}

static enum unpack_result unpack_bzip2(struct unpack_io *io)
{
	bz_stream bz = {.next_in = (char *)(uintptr_t)io->in,
			.avail_in = (unsigned)io->in_len,
			.next_out = (char *)io->out,
			.avail_out = (unsigned)io->cap};

	if (BZ2_bzDecompressInit(&bz, 0, 0) != BZ_OK)
		return UNPACK_NO_MEMORY;
	int rc = BZ2_bzDecompress(&bz);
	io->out_len = io->cap - bz.avail_out;
	_Bool full = !bz.avail_out;
	BZ2_bzDecompressEnd(&bz);
	if (rc == BZ_STREAM_END)
		return UNPACK_OK;
	if (rc == BZ_MEM_ERROR)
		return UNPACK_NO_MEMORY;
	return rc == BZ_OK && full ? UNPACK_TOO_BIG : UNPACK_DAMAGED;
}

/* xz with any filter liblzma knows (the kernel uses the x86 branch filter), or a bare .lzma. */
static enum unpack_result unpack_lzma(struct unpack_io *io, _Bool alone)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_ret rc = alone ? lzma_alone_decoder(&s, XZ_MEMORY_LIMIT)
			    : lzma_stream_decoder(&s, XZ_MEMORY_LIMIT, 0);

	if (rc != LZMA_OK)
		return UNPACK_NO_MEMORY;
	s.next_in = io->in;
	s.avail_in = io->in_len;
	s.next_out = io->out;
	s.avail_out = io->cap;
	rc = lzma_code(&s, LZMA_FINISH);
	io->out_len = s.total_out;
	/* A full buffer can hide the end mark behind it: is there one, or one more byte? */
	uint8_t more;
	if (rc == LZMA_OK && !s.avail_out) {
		s.next_out = &more;
		s.avail_out = 1;
		rc = lzma_code(&s, LZMA_FINISH);
	}
	_Bool too_big = s.total_out > io->out_len;
	lzma_end(&s);
	if (too_big)
		return UNPACK_TOO_BIG;
	if (rc == LZMA_STREAM_END)
		return UNPACK_OK;
	return rc == LZMA_MEM_ERROR || rc == LZMA_MEMLIMIT_ERROR ? UNPACK_NO_MEMORY
								 : UNPACK_DAMAGED;
}

/* LZ4's legacy frame: a magic, then blocks of at most 8 MiB with their packed sizes in front. */
static enum unpack_result unpack_lz4(struct unpack_io *io)
{
	size_t pos = 4;

	while (io->in_len - pos >= 4) {
		uint32_t packed = load_le32(io->in + pos);
		pos += 4;
		if (packed == LZ4_LEGACY_MAGIC)
			continue;
		if (packed > io->in_len - pos ||
		    packed > (uint32_t)LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK))
			return UNPACK_DAMAGED;
		size_t room = MIN(io->cap - io->out_len, (size_t)LZ4_LEGACY_BLOCK);
		int n = LZ4_decompress_safe((const char *)io->in + pos,
					    (char *)io->out + io->out_len, (int)packed, (int)room);
		if (n < 0)
			return UNPACK_DAMAGED;
		io->out_len += (size_t)n;
		pos += packed;
	}
	return pos == io->in_len ? UNPACK_OK : UNPACK_DAMAGED;
}

static enum unpack_result unpack_zstd(struct unpack_io *io)
{
	size_t frame = ZSTD_findFrameCompressedSize(io->in, io->in_len);
	if (ZSTD_isError(frame))
		return UNPACK_DAMAGED;
	size_t n = ZSTD_decompress(io->out, io->cap, io->in, frame);
	if (!ZSTD_isError(n)) {
		io->out_len = n;
		return UNPACK_OK;
	}
	switch (ZSTD_getErrorCode(n)) {
	case ZSTD_error_dstSize_tooSmall: return UNPACK_TOO_BIG;
	case ZSTD_error_memory_allocation: return UNPACK_NO_MEMORY;
	default: return UNPACK_DAMAGED;
	}
}

static enum unpack_result unpack_any(enum payload_format format, struct unpack_io *io)
{
	switch (format) {
	case PAYLOAD_ELF: return unpack_stored(io);
	case PAYLOAD_GZIP: return unpack_gzip(io);
	case PAYLOAD_BZIP2: return unpack_bzip2(io);
	case PAYLOAD_LZMA: return unpack_lzma(io, 1);
	case PAYLOAD_XZ: return unpack_lzma(io, 0);
	case PAYLOAD_LZ4: return unpack_lz4(io);
	case PAYLOAD_ZSTD: return unpack_zstd(io);
	case PAYLOAD_LZO:
	case PAYLOAD_UNKNOWN: break;
	}
	return UNPACK_DAMAGED;
}

int payload_unpack(enum payload_format format, const uint8_t *in, size_t in_len, uint8_t *out,
		   size_t out_len, struct error *err)
{
	struct unpack_io io = {.in = in, .in_len = in_len, .out = out, .cap = out_len};

	/* The libraries count in 32 bits. */
	if (in_len < 4 || in_len > INT32_MAX || out_len > INT32_MAX)
		return error_set(err, -EINVAL, "its %s payload has an impossible size",
				 payload_name(format));
	switch (unpack_any(format, &io)) {
	case UNPACK_OK:
		if (io.out_len == out_len)
			return 0;
		break;
	case UNPACK_TOO_BIG:
		return error_set(err, -EFBIG,
				 "its %s payload unpacks to more than the %zu bytes "
				 "that it says",
				 payload_name(format), out_len);
	case UNPACK_NO_MEMORY:
		return error_set(err, -ENOMEM, "no memory to unpack its %s payload",
				 payload_name(format));
	case UNPACK_DAMAGED: break;
	}
	return error_set(err, -EINVAL, "its %s payload is damaged", payload_name(format));
}
