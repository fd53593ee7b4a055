/* seed.c: makes the NoCloud seed volume from files and from what the command line says. */
#include "backend/seed.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/fat12.h"

#define LABEL	     "CIDATA"
#define MAX_HOSTNAME 253
#define MAX_LABEL    63
#define MAX_KEY_LINE 16384

_Bool seed_wanted(const struct seed_config *cfg)
{
	return cfg->user_data || cfg->meta_data || cfg->ssh_key || cfg->hostname;
}

static int read_file(const char *option, const char *path, struct wbuf *out, struct error *err)
{
	uint8_t buf[4096];
	struct stat st;
	ssize_t n = 0;
	int rc = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return error_set(err, -errno, "cannot open %s '%s': %s", option, path,
				 strerror(errno));
	if (!fstat(fd, &st) && S_ISDIR(st.st_mode)) {
		close(fd);
		return error_set(err, -EISDIR, "%s '%s' is a directory", option, path);
	}
	while (!out->failed && ((n = read(fd, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)))
		if (n > 0)
			wbuf_put(out, buf, (size_t)n);
	if (!out->failed && n < 0)
		rc = error_set(err, -errno, "cannot read %s '%s': %s", option, path,
			       strerror(errno));
	else if (out->failed)
		rc = error_set(err, -EFBIG, "%s '%s' is larger than %u KiB", option, path,
			       SEED_MAX_FILE >> 10);
	close(fd);
	return rc;
}

static void put_text(struct wbuf *out, const char *text)
{
	wbuf_put(out, text, strlen(text));
}

/* RFC 1123 2.1: labels of letters, digits and inner hyphens, with dots between. */
static int check_hostname(const char *name, struct error *err)
{
	size_t len = strlen(name), label = 0;
	_Bool ok = len > 0 && len <= MAX_HOSTNAME;

	for (size_t i = 0; ok && i <= len; i++) {
		if (name[i] == '.' || !name[i]) {
			ok = label > 0 && label <= MAX_LABEL && name[i - 1] != '-';
			label = 0;
		} else {
			ok = isalnum((unsigned char)name[i]) || (name[i] == '-' && label > 0);
			label++;
		}
	}
	return ok ? 0
		  : error_set(err, -EINVAL,
			      "--hostname '%s' is no host name: letters, digits and hyphens, in "
			      "parts of at most 63 with dots between",
			      name);
}

static _Bool looks_like_key(const char *line)
{
	return !strncmp(line, "ssh-", 4) || !strncmp(line, "ecdsa-", 6) || !strncmp(line, "sk-", 3);
}

/* One public key as an item of a YAML list, in single quotes. */
static void put_key(struct wbuf *out, const char *line)
{
	put_text(out, "  - '");
	for (const char *p = line; *p; p++) {
		wbuf_put(out, p, 1);
		if (*p == '\'')
			wbuf_put(out, p, 1);
	}
	put_text(out, "'\n");
}

static int key_error(const char *path, struct error *err)
{
	return error_set(err, -EINVAL, "--ssh-key '%s' is not a file of public keys, one a line",
			 path);
}

/* Cuts the text into lines; changes it. */
static int put_keys(struct wbuf *out, const char *path, char *text, struct error *err)
{
	unsigned keys = 0;
	char *rest = text;

	if (strstr(text, "PRIVATE KEY-----"))
		return error_set(err, -EINVAL,
				 "--ssh-key '%s' is a private key, which no guest needs: name the "
				 "public one ('%s.pub')",
				 path, path);
	put_text(out, "ssh_authorized_keys:\n");
	for (char *line; (line = strsep(&rest, "\n"));) {
		size_t len = strlen(line);

		while (len && isspace((unsigned char)line[len - 1]))
			line[--len] = 0;
		while (isspace((unsigned char)*line))
			line++;
		if (!*line || *line == '#')
			continue;
		if (!looks_like_key(line) || len > MAX_KEY_LINE)
			return key_error(path, err);
		for (const char *p = line; *p; p++)
			if (iscntrl((unsigned char)*p))
				return key_error(path, err);
		put_key(out, line);
		keys++;
	}
	return keys ? 0 : error_set(err, -EINVAL, "--ssh-key '%s' holds no key", path);
}

static int make_user_data(const struct seed_config *cfg, struct wbuf *out, struct error *err)
{
	struct wbuf keys;
	int rc;

	if (cfg->user_data)
		return read_file("--user-data", cfg->user_data, out, err);
	put_text(out, "#cloud-config\n");
	if (!cfg->ssh_key)
		return 0;
	wbuf_init(&keys, SEED_MAX_FILE);
	rc = read_file("--ssh-key", cfg->ssh_key, &keys, err);
	wbuf_u8(&keys, 0);
	if (!rc && keys.failed)
		rc = key_error(cfg->ssh_key, err);
	if (!rc)
		rc = put_keys(out, cfg->ssh_key, (char *)keys.data, err);
	wbuf_fini(&keys);
	return rc;
}

/* FNV-1a, 64 bits. */
static uint64_t hash_add(uint64_t h, const void *data, size_t len)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return h;
}

static int make_meta_data(const struct seed_config *cfg, const struct wbuf *user, struct wbuf *out,
			  struct error *err)
{
	uint64_t h = hash_add(UINT64_C(0xcbf29ce484222325), user->data, user->len);
	char line[64];

	if (cfg->meta_data)
		return read_file("--meta-data", cfg->meta_data, out, err);
	if (cfg->hostname)
		h = hash_add(h, cfg->hostname, strlen(cfg->hostname));
	/* A guest does once per instance-id what it does at a first boot. */
	snprintf(line, sizeof(line), "instance-id: iid-%016llx\n", (unsigned long long)h);
	put_text(out, line);
	if (cfg->hostname) {
		put_text(out, "local-hostname: ");
		put_text(out, cfg->hostname);
		put_text(out, "\n");
	}
	return 0;
}

static int store(const struct wbuf *image, int *fd, struct error *err)
{
	int file = memfd_create("seed", MFD_CLOEXEC);
	size_t done = 0;

	while (file >= 0 && done < image->len) {
		ssize_t n = write(file, image->data + done, image->len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	if (file < 0 || done < image->len) {
		int rc = error_set(err, -errno, "cannot make the seed volume: %s", strerror(errno));
		if (file >= 0)
			close(file);
		return rc;
	}
	*fd = file;
	return 0;
}

int seed_make(const struct seed_config *cfg, int *fd, struct error *err)
{
	struct wbuf user, meta, image;
	int rc = cfg->hostname ? check_hostname(cfg->hostname, err) : 0;

	wbuf_init(&user, SEED_MAX_FILE);
	wbuf_init(&meta, SEED_MAX_FILE);
	wbuf_init(&image, FAT12_MAX_BYTES + (64 << 10));
	if (!rc)
		rc = make_user_data(cfg, &user, err);
	if (!rc)
		rc = make_meta_data(cfg, &user, &meta, err);
	if (!rc && (user.failed || meta.failed))
		rc = error_set(err, -EFBIG, "the seed is larger than %u KiB", SEED_MAX_FILE >> 10);
	const struct fat12_file files[] = {
	    {"user-data", user.data, user.len},
	    {"meta-data", meta.data, meta.len},
	};
	if (!rc)
		rc = fat12_make(LABEL, files, ARRAY_SIZE(files), &image, err);
	if (!rc)
		rc = store(&image, fd, err);
	wbuf_fini(&user);
	wbuf_fini(&meta);
	wbuf_fini(&image);
	return rc;
}
