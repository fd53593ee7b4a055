/* seed_test.c: tests of the seed volume and of the small file system under it. */
#include "backend/seed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/fat12.h"
#include "base/le.h"

struct temp {
	int fd;
	char path[64];
};
static struct temp temp_new(const char *text)
{
	struct temp t = {.fd = memfd_create("test", MFD_CLOEXEC)};

	assert_true(t.fd >= 0);
	assert_int_equal(write(t.fd, text, strlen(text)), (ssize_t)strlen(text));
	snprintf(t.path, sizeof(t.path), "/proc/self/fd/%d", t.fd);
	return t;
}

/* A reader of FAT12 that knows nothing of the writer: by the boot sector, the directory and the
 * chains. Returns the file's length, or -1. */
static long fat_read(const uint8_t *v, const char *wanted, char *out, size_t room)
{
	unsigned reserved = load_le16(v + 14), fat_len = load_le16(v + 22);
	unsigned root_len = load_le16(v + 17) * 32 / 512;
	const uint8_t *fat = v + reserved * 512, *root = fat + v[16] * fat_len * 512;
	const uint8_t *data = root + root_len * 512;
	char name[256] = "";

	for (const uint8_t *e = root; *e; e += 32) {
		static const uint8_t at[] = {1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30};
		if (e[11] == 0x0f) {
			for (unsigned i = 0; i < sizeof(at); i++)
				if (load_le16(e + at[i]) != 0xffff)
					name[((e[0] & 0x1f) - 1) * 13 + i] = (char)e[at[i]];
			continue;
		}
		if (!strcmp(name, wanted)) {
			size_t len = load_le32(e + 28), done = 0, step = v[13] * 512u;
			unsigned c = load_le16(e + 26);
			while (done < len) {
				size_t n = len - done < step ? len - done : step;
				assert_in_range(c, 2, 4085);
				assert_true(done + n < room);
				memcpy(out + done, data + (c - 2) * step, n);
				done += n;
				unsigned w = load_le16(fat + c * 3 / 2);
				c = c & 1 ? w >> 4 : w & 0xfff;
			}
			if (len)
				assert_int_equal(c, 0xfff);
			out[len] = 0;
			return (long)len;
		}
		memset(name, 0, sizeof(name));
	}
	return -1;
}

static void files_come_back_under_their_names(void **state)
{
	static char big[100000], out[100001];
	struct wbuf w;
	const struct fat12_file files[] = {{"user-data", "hello\n", 6},
					   {"empty", NULL, 0},
					   {"a-longer-name.Than13", big, sizeof(big)}};

	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)(i * 7 + i / 511);
	wbuf_init(&w, 1 << 20);
	assert_int_equal(fat12_make("LABEL", files, 3, &w, NULL), 0);
	assert_int_equal(w.len, load_le16(w.data + 19) * 512u);
	assert_int_equal(load_le16(w.data + 510), 0xaa55);
	assert_memory_equal(w.data + 43, "LABEL      ", 11);
	assert_int_equal(fat_read(w.data, "user-data", out, sizeof(out)), 6);
	assert_string_equal(out, "hello\n");
	assert_int_equal(fat_read(w.data, "empty", out, sizeof(out)), 0);
	assert_int_equal(fat_read(w.data, "a-longer-name.Than13", out, sizeof(out)), sizeof(big));
	assert_memory_equal(out, big, sizeof(big));
	assert_int_equal(fat_read(w.data, "nothing", out, sizeof(out)), -1);
	wbuf_fini(&w);
}

static void what_is_too_large_is_refused(void **state)
{
	struct error err;
	struct wbuf w;
	const struct fat12_file file = {"x", "", FAT12_MAX_BYTES + 1};

	wbuf_init(&w, 1 << 20);
	assert_int_equal(fat12_make("L", &file, 1, &w, &err), -EFBIG);
	assert_int_equal(w.len, 0);
	wbuf_fini(&w);
	wbuf_init(&w, 1000); /* no room for any volume */
	assert_int_equal(fat12_make("L", NULL, 0, &w, &err), -ENOMEM);
	wbuf_fini(&w);
}

static int make(const struct seed_config *cfg, uint8_t *out, size_t room, struct error *err)
{
	int fd = -1, rc = seed_make(cfg, &fd, err);

	if (!rc) {
		ssize_t n = pread(fd, out, room, 0);
		assert_true(n > 0 && n % 512 == 0 && (size_t)n < room);
		close(fd);
	} else {
		assert_int_equal(fd, -1);
	}
	return rc;
}

static void keys_and_name_become_cloud_config(void **state)
{
	static uint8_t v[1 << 20], v2[1 << 20];
	char text[4096];
	struct temp keys =
	    temp_new("# mine\n\nssh-ed25519 AAAA me@here's: #1\r\n  ecdsa-sha2 BBBB\n");
	struct seed_config cfg = {.ssh_key = keys.path, .hostname = "web-1.example"};

	assert_true(seed_wanted(&cfg));
	assert_int_equal(make(&cfg, v, sizeof(v), NULL), 0);
	assert_memory_equal(v + 43, "CIDATA     ", 11);
	assert_true(fat_read(v, "user-data", text, sizeof(text)) > 0);
	assert_string_equal(text, "#cloud-config\nssh_authorized_keys:\n"
				  "  - 'ssh-ed25519 AAAA me@here''s: #1'\n  - 'ecdsa-sha2 BBBB'\n");
	assert_true(fat_read(v, "meta-data", text, sizeof(text)) > 0);
	assert_memory_equal(text, "instance-id: iid-", 17);
	assert_non_null(strstr(text, "\nlocal-hostname: web-1.example\n"));

	assert_int_equal(make(&cfg, v2, sizeof(v2), NULL), 0);
	assert_memory_equal(v, v2, 100000); /* the same again */
	cfg.hostname = "web-2";
	assert_int_equal(make(&cfg, v2, sizeof(v2), NULL), 0);
	char other[4096];
	assert_true(fat_read(v2, "meta-data", other, sizeof(other)) > 0);
	assert_memory_not_equal(text, other, 33); /* another instance */
	close(keys.fd);
}

static void files_are_taken_as_they_are(void **state)
{
	static uint8_t v[1 << 20];
	char text[4096];
	struct temp user = temp_new("#!/bin/sh\necho hi\n"), meta = temp_new("instance-id: x\n");
	struct seed_config cfg = {.user_data = user.path, .meta_data = meta.path};

	assert_int_equal(make(&cfg, v, sizeof(v), NULL), 0);
	assert_true(fat_read(v, "user-data", text, sizeof(text)) > 0);
	assert_string_equal(text, "#!/bin/sh\necho hi\n");
	assert_true(fat_read(v, "meta-data", text, sizeof(text)) > 0);
	assert_string_equal(text, "instance-id: x\n");
	cfg.user_data = NULL;
	assert_int_equal(make(&cfg, v, sizeof(v), NULL), 0);
	assert_true(fat_read(v, "user-data", text, sizeof(text)) > 0);
	assert_string_equal(text, "#cloud-config\n");
	close(user.fd);
	close(meta.fd);
}

static void refused(const struct seed_config *cfg, int rc, const char *word)
{
	static uint8_t v[1 << 20];
	struct error err;

	assert_int_equal(make(cfg, v, sizeof(v), &err), rc);
	assert_non_null(strstr(err.text, word));
}

static void strange_input_is_refused_with_a_sentence(void **state)
{
	static const char *const names[] = {"",	   "-a",  "a-", "a..b", "a b",
					    "a_b", "a\n", ".a", "a.",	"xn--\xc3\xa4"};
	struct temp none = temp_new("\n# nothing\n"), text = temp_new("hello world\n");
	struct temp private = temp_new("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n");
	struct temp control = temp_new("ssh-rsa AAAA x\x1b[2J\n");

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		refused(&(struct seed_config){.hostname = names[i]}, -EINVAL, "no host name");
	refused(&(struct seed_config){.ssh_key = none.path}, -EINVAL, "no key");
	refused(&(struct seed_config){.ssh_key = text.path}, -EINVAL, "public keys");
	refused(&(struct seed_config){.ssh_key = control.path}, -EINVAL, "public keys");
	refused(&(struct seed_config){.ssh_key = private.path}, -EINVAL, ".pub");
	refused(&(struct seed_config){.ssh_key = "/nowhere"}, -ENOENT, "/nowhere");
	refused(&(struct seed_config){.user_data = "/"}, -EISDIR, "directory");
	refused(&(struct seed_config){.meta_data = "/nowhere"}, -ENOENT, "--meta-data");
	refused(&(struct seed_config){.user_data = "/dev/zero"}, -EFBIG, "1024 KiB");
	close(none.fd);
	close(text.fd);
	close(private.fd);
	close(control.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(files_come_back_under_their_names),
	    cmocka_unit_test(what_is_too_large_is_refused),
	    cmocka_unit_test(keys_and_name_become_cloud_config),
	    cmocka_unit_test(files_are_taken_as_they_are),
	    cmocka_unit_test(strange_input_is_refused_with_a_sentence),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
