/* spec.c: defaults, parsing and checks of a VM's description. */
#include "proto/spec.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void spec_init(struct vm_spec *spec)
{
	memset(spec, 0, sizeof(*spec));
	spec->append = "";
	spec->memory_bytes = UINT64_C(512) << 20;
	spec->cpus = 1;
	spec->engine = "auto";
	spec->personality = PERSONALITY_KVM;
	spec->grace_seconds = 10;
	spec->balloon.stats_seconds = 10;
}

/* The digits at the start of `text`; false when there are none or they do not fit 64 bits. */
static _Bool parse_digits(const char *text, uint64_t *value, const char **rest)
{
	uint64_t v = 0;
	const char *p = text;

	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(v, 10, &v) ||
		    __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return 0;
	}
	*value = v;
	*rest = p;
	return p != text;
}

int spec_parse_memory(const char *text, uint64_t *bytes, struct error *err)
{
	static const char units[] = "KMGT";
	const char *rest;
	uint64_t v;
	unsigned shift = 20;

	if (!parse_digits(text, &v, &rest))
		return error_set(err, -EINVAL,
				 "memory size '%s' is not a number such as 512M or 2G", text);
	if (*rest) {
		const char *unit = strchr(units, toupper((unsigned char)*rest));
		if (!unit || (rest[1] && strcasecmp(rest + 1, "B") && strcasecmp(rest + 1, "iB")))
			return error_set(
			    err, -EINVAL,
			    "memory size '%s' has the unknown unit '%s'; use K, M, G or T", text,
			    rest);
		shift = 10 * (unsigned)(unit - units + 1);
	}
	if (v > UINT64_MAX >> shift)
		return error_set(err, -EINVAL, "memory size '%s' is larger than any machine's",
				 text);
	*bytes = v << shift;
	return 0;
}

int spec_parse_cpu_features(const char *text, enum spec_feature *avx512, struct error *err)
{
	enum spec_feature now = *avx512;

	for (const char *p = text;; p++) {
		size_t len = strcspn(p, ",");

		if (len != strlen("+avx512") || (*p != '+' && *p != '-') ||
		    memcmp(p + 1, "avx512", len - 1) != 0)
			return error_set(err, -EINVAL,
					 "--cpu-features '%s': '%.*s' is not +avx512 or -avx512",
					 text, (int)len, p);
		now = *p == '+' ? SPEC_FEATURE_ON : SPEC_FEATURE_OFF;
		p += len;
		if (!*p)
			break;
	}
	*avx512 = now;
	return 0;
}

int spec_parse_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out,
		      struct error *err)
{
	const char *rest;
	uint64_t v;

	if (!parse_digits(text, &v, &rest) || *rest || v < min || v > max)
		return error_set(err, -EINVAL, "%s '%s' is not a whole number from %llu to %llu",
				 what, text, (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return 0;
}

/* Ends the first item of a list at its comma, makes one of each ",,", and gives what follows, or
 * NULL. */
static char *split_item(char *text)
{
	char *to = text;

	for (char *p = text; *p; p++) {
		if (*p == ',' && p[1] != ',') {
			*to = 0;
			return p + 1;
		}
		if (*p == ',')
			p++;
		*to++ = *p;
	}
	*to = 0;
	return NULL;
}

static int disk_option(const char *item, struct spec_disk *disk, struct error *err)
{
	uint64_t n;
	int r;

	if (!strcmp(item, "ro")) {
		disk->read_only = 1;
	} else if (!strcmp(item, "direct")) {
		disk->direct = 1;
	} else if (!strcmp(item, "mmio")) {
		disk->mmio = 1;
	} else if (!strcmp(item, "discard=on") || !strcmp(item, "discard=off")) {
		disk->no_discard = item[9] == 'f';
	} else if (!strncmp(item, "serial=", 7)) {
		disk->serial = item + 7;
		if (!item[7] || strlen(item + 7) > SPEC_MAX_SERIAL)
			return error_set(err, -EINVAL,
					 "--disk: serial number '%s' does not have 1 to %d bytes",
					 item + 7, SPEC_MAX_SERIAL);
	} else if (!strncmp(item, "queues=", 7)) {
		r = spec_parse_number("--disk: queues", item + 7, 1, SPEC_MAX_DISK_QUEUES, &n, err);
		if (r)
			return r;
		disk->queues = (unsigned)n;
	} else {
		return error_set(err, -EINVAL,
				 "--disk: '%s' is not one of ro, serial=TEXT, queues=N, "
				 "discard=on, discard=off, direct, mmio",
				 item);
	}
	return 0;
}

#define VHOST_USER "vhost-user="

/* What follows "vhost-user=", or NULL. */
static const char *socket_path(const char *text)
{
	size_t len = strlen(VHOST_USER);

	return strncmp(text, VHOST_USER, len) ? NULL : text + len;
}

int spec_parse_disk(char *text, struct spec_disk *disk, struct error *err)
{
	struct spec_disk d = {.path = text};
	char *rest = split_item(text);
	const char *socket = socket_path(text);
	int r;

	if (socket) {
		d.path = socket;
		d.vhost_user = 1;
	}
	r = *d.path ? 0 : error_set(err, -EINVAL, "--disk: the name of the image is missing");
	while (!r && rest) {
		char *item = rest;
		rest = split_item(item);
		r = disk_option(item, &d, err);
	}
	if (!r && socket && (d.read_only || d.serial || d.no_discard || d.direct))
		r = error_set(err, -EINVAL,
			      "--disk vhost-user: its back end decides all but queues=N and mmio");
	if (!r)
		*disk = d;
	return r;
}

static int fs_option(const char *item, struct spec_fs *fs, struct error *err)
{
	uint64_t n;
	int r;

	if (!strncmp(item, "tag=", 4)) {
		fs->tag = item + 4;
		if (!item[4] || strlen(item + 4) > SPEC_MAX_TAG)
			return error_set(err, -EINVAL, "--fs: tag '%s' does not have 1 to %d bytes",
					 item + 4, SPEC_MAX_TAG);
	} else if (!strncmp(item, "queues=", 7)) {
		r = spec_parse_number("--fs: queues", item + 7, 1, SPEC_MAX_DISK_QUEUES, &n, err);
		if (r)
			return r;
		fs->queues = (unsigned)n;
	} else {
		return error_set(err, -EINVAL, "--fs: '%s' is not one of tag=TAG, queues=N", item);
	}
	return 0;
}

int spec_parse_fs(char *text, struct spec_fs *out, struct error *err)
{
	char *rest = split_item(text);
	struct spec_fs fs = {.path = socket_path(text)};
	int r = 0;

	if (!fs.path || !*fs.path)
		return error_set(err, -EINVAL,
				 "--fs '%s' is not vhost-user=SOCKET,tag=TAG: the socket of a back "
				 "end such as virtiofsd",
				 text);
	while (!r && rest) {
		char *item = rest;
		rest = split_item(item);
		r = fs_option(item, &fs, err);
	}
	if (!r && !fs.tag)
		r = error_set(err, -EINVAL,
			      "--fs needs tag=TAG: what the guest mounts the file system by");
	if (!r)
		*out = fs;
	return r;
}

static int check_boot(const struct vm_spec *spec, struct error *err)
{
	if (!spec->kernel && !spec->firmware)
		return error_set(err, -EINVAL,
				 "nothing to boot: name a disk image, or a kernel with --kernel "
				 "FILE (a Linux bzImage, an ELF image with a PVH note, or a "
				 "Multiboot kernel)");
	if (spec->kernel && spec->firmware)
		return error_set(err, -EINVAL,
				 "--kernel starts without firmware: leave out --kernel or "
				 "--firmware");
	if (!spec->kernel && (spec->initrd_count || *spec->append))
		return error_set(
		    err, -EINVAL,
		    "--initrd and --append go with --kernel; firmware boots what is on "
		    "the disk");
	if (spec->kernel && spec->boot_menu)
		return error_set(err, -EINVAL,
				 "--boot-menu is the firmware's: there is none with --kernel");
	return 0;
}

static int check_seed(const struct vm_spec *spec, struct error *err)
{
	if (spec->user_data && spec->ssh_key)
		return error_set(err, -EINVAL,
				 "--ssh-key writes a user-data of its own: leave out --user-data "
				 "or put the key into it");
	if (spec->meta_data && spec->hostname)
		return error_set(err, -EINVAL,
				 "--hostname writes a meta-data of its own: leave out --meta-data "
				 "or put local-hostname into it");
	if ((spec->user_data || spec->meta_data || spec->ssh_key || spec->hostname) &&
	    spec->disk_count == SPEC_MAX_DISKS)
		return error_set(err, -EINVAL,
				 "the seed volume is a disk too, and there are %d already",
				 SPEC_MAX_DISKS);
	return 0;
}

int spec_parse_trace_blocks(char *text, struct vm_spec *spec, struct error *err)
{
	char *range = split_item(text), *end;
	uint64_t from = 0, to = UINT64_MAX;

	if (range) {
		errno = 0;
		from = strtoull(range, &end, 16);
		_Bool good = end != range && *end == '-' && isxdigit((unsigned char)end[1]);
		if (good)
			to = strtoull(end + 1, &end, 16);
		if (!good || *end || errno || from > to)
			return error_set(err, -EINVAL,
					 "--trace-blocks: '%s' is not a range of addresses such as "
					 "ffffffff81000000-ffffffff81ffffff",
					 range);
	}
	if (!*text)
		return error_set(err, -EINVAL, "--trace-blocks: the file's name is missing");
	spec->trace_blocks = text;
	spec->trace_from = from;
	spec->trace_to = to;
	return 0;
}

int spec_check(const struct vm_spec *spec, struct error *err)
{
	int r = check_boot(spec, err);

	if (!r)
		r = check_seed(spec, err);
	if (r)
		return r;
	if (spec->memory_bytes < SPEC_MIN_MEMORY)
		return error_set(
		    err, -EINVAL,
		    "%llu KiB of memory are too few: the machine needs at least %llu MiB",
		    (unsigned long long)spec->memory_bytes >> 10,
		    (unsigned long long)SPEC_MIN_MEMORY >> 20);
	if (spec->memory_bytes > SPEC_MAX_MEMORY)
		return error_set(err, -EINVAL,
				 "%llu GiB of memory are more than the %llu GiB a machine can have",
				 (unsigned long long)spec->memory_bytes >> 30,
				 (unsigned long long)SPEC_MAX_MEMORY >> 30);
	if (spec->memory_bytes % 4096)
		return error_set(err, -EINVAL,
				 "the memory size must be a whole number of 4 KiB pages");
	if (spec->gdb_wait && !spec->gdb)
		return error_set(
		    err, -EINVAL,
		    "--gdb-wait waits for ever: --gdb WHERE says where gdb can connect");
	if (spec->cpus < 1 || spec->cpus > SPEC_MAX_CPUS)
		return error_set(err, -EINVAL, "%u CPUs: a machine has 1 to %u", spec->cpus,
				 SPEC_MAX_CPUS);
	if (spec->soft == SPEC_SOFT_LOCKSTEP && spec->cpus != 1)
		return error_set(err, -EINVAL, "--soft lockstep runs one CPU, not %u", spec->cpus);
	if (spec_check_shares(spec, err))
		return -EINVAL;
	r = spec_check_virtio(spec, err);
	return r ? r : spec_check_nets(spec, err);
}
