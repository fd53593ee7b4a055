/* fuzz_p9.c: the 9P server with messages that a guest makes up, on a directory with everything in
 * it. */
#include "backend/p9_testing.h"

#include "base/log.h"

/*
 * Input: messages, each a length byte (times four), then its bytes from the type on. Two names that
 * the directory knows can be written short, so that the fuzzer finds deeper ground: bytes 0xf0 to
 * 0xf3 in place of a string. Whatever was sent, every answer is well formed and "outside" is as it
 * was.
 */
static const char *const words[] = {"file", "link", "dir", ".."};

static struct p9t *share_make(void)
{
	struct p9t *t = p9t_new();

	p9t_host_mkdir(t, "share/dir");
	p9t_host_mkdir(t, "share/dir/sub");
	p9t_host_write(t, "share/file", "0123456789");
	p9t_host_link(t, "../outside/secret", "share/link");
	return t;
}

static void message(struct p9t *t, const uint8_t *data, size_t len)
{
	p9t_begin(t, len ? data[0] : 0);
	for (size_t i = 1; i < len; i++) {
		if (data[i] >= 0xf0 && data[i] < 0xf0 + ARRAY_SIZE(words))
			p9t_str(t, words[data[i] - 0xf0]);
		else
			p9t_u8(t, data[i]);
	}
	(void)p9t_call(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct p9t *t;

	log_set_level(LOG_ERROR);
	t = share_make();
	if (size && *data & 1)
		p9_without_openat2(t->p9);
	for (unsigned n = 0; size && n < 64; n++) {
		size_t len = MIN((size_t)1 + *data / 2, size);

		message(t, data + 1, len - 1);
		data += len;
		size -= len;
	}
	p9t_host_is(t, "outside/secret", "secret");
	p9t_free(t);
	return 0;
}
