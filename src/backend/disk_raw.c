/* disk_raw.c: raw images: regular files and block devices. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/disk_impl.h"

#define POOL_THREADS   4
#define FILE_PHYSICAL  4096
#define DIRECT_DEFAULT 4096

struct disk_raw {
	struct disk disk;
	int fd;
	_Bool device; /* a block device */
	char *path;
	struct disk_pool *pool;
	struct disk_uring *uring; /* NULL: the pool does everything */
};

static struct disk_raw *raw_of(const struct disk *disk)
{
	return (struct disk_raw *)(uintptr_t)disk;
}

static void raw_submit(struct disk *disk, struct disk_req *req)
{
	struct disk_raw *raw = raw_of(disk);

	if (raw->uring)
		disk_uring_add(raw->uring, req);
	else
		disk_pool_add(raw->pool, req);
}

static void raw_kick(struct disk *disk)
{
	if (raw_of(disk)->uring)
		disk_uring_kick(raw_of(disk)->uring);
}

static void raw_refuse(struct disk *disk, struct disk_req *req)
{
	disk_pool_add(raw_of(disk)->pool, req);
}

static const char *raw_method(const struct disk *disk)
{
	return raw_of(disk)->uring ? "io_uring" : "threads";
}

static void raw_free(struct disk *disk)
{
	struct disk_raw *raw = raw_of(disk);

	/* The pool first: it may still have to kick the ring (disk_pool_later). */
	disk_pool_free(raw->pool);
	disk_uring_free(raw->uring);
	if (raw->fd >= 0)
		close(raw->fd);
	free(raw->path);
	disk_fini(disk);
	free(raw);
}

static int raw_look(struct disk *disk, uint64_t *size, struct error *err)
{
	struct disk_raw *raw = raw_of(disk);
	struct stat st;
	uint64_t n = 0;

	if (raw->device ? ioctl(raw->fd, BLKGETSIZE64, &n) : fstat(raw->fd, &st))
		return error_set(err, -errno, "cannot find the size of %s: %s", raw->path,
				 strerror(errno));
	if (!raw->device)
		n = (uint64_t)st.st_size;
	if (!n)
		return error_set(err, -EINVAL, "disk image %s is empty", raw->path);
	if (n % DISK_SECTOR)
		return error_set(err, -EINVAL,
				 "disk image %s has %llu bytes, which is not a multiple of %d: it "
				 "is cut short, or no raw image",
				 raw->path, (unsigned long long)n, DISK_SECTOR);
	*size = n;
	return 0;
}

static int raw_resize(struct disk *disk, uint64_t size, struct error *err)
{
	struct disk_raw *raw = raw_of(disk);

	if (raw->device)
		return error_set(err, -EINVAL, "%s is a block device: its size is the host's",
				 raw->path);
	if (ftruncate(raw->fd, (off_t)size))
		return error_set(err, -errno, "cannot make %s %llu bytes large: %s", raw->path,
				 (unsigned long long)size, strerror(errno));
	return 0;
}

static const struct disk_ops raw_ops = {
    .submit = raw_submit,
    .kick = raw_kick,
    .refuse = raw_refuse,
    .look = raw_look,
    .resize = raw_resize,
    .method = raw_method,
    .free = raw_free,
};

/* ---- opening ---- */

static int open_sentence(const struct disk_raw_config *cfg, int e, struct error *err)
{
	if (e == ENOENT)
		return error_set(err, -e, "there is no disk image %s", cfg->path);
	if (e == EISDIR)
		return error_set(err, -e, "%s is a directory, not a disk image", cfg->path);
	if ((e == EACCES || e == EROFS || e == EPERM) && !cfg->read_only &&
	    !access(cfg->path, R_OK))
		return error_set(err, -e,
				 "disk image %s may only be read (%s): add ',ro' to attach it "
				 "read-only",
				 cfg->path, strerror(e));
	if (e == EINVAL && cfg->direct)
		return error_set(err, -e,
				 "disk image %s is on a file system that has no direct I/O: leave "
				 "',direct' out",
				 cfg->path);
	return error_set(err, -e, "cannot open disk image %s: %s", cfg->path, strerror(e));
}

/* A lock of the open file: it goes when the last descriptor does, also after a SIGKILL. */
static int take_lock(struct disk_raw *raw, const struct disk_raw_config *cfg, struct error *err)
{
	struct flock lock = {.l_type = cfg->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};

	if (!fcntl(raw->fd, F_OFD_SETLK, &lock))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return error_set(
		    err, -EBUSY,
		    "disk image %s is in use by another program, or is another disk of "
		    "this machine: two writers would destroy what is on it",
		    cfg->path);
	if (errno == EINVAL || errno == ENOLCK || errno == EOPNOTSUPP)
		return 0; /* a file system without locks */
	return error_set(err, -errno, "cannot lock disk image %s: %s", cfg->path, strerror(errno));
}

/* Formats that would be nonsense as a raw disk, and that people try. */
static int refuse_other_formats(const struct disk_raw *raw, struct error *err)
{
	static const struct {
		const char *magic, *name;
	} formats[] = {
	    {"QFI\xfb", "qcow2"}, {"KDMV", "VMDK"},    {"# Disk DescriptorFile", "VMDK"},
	    {"vhdxfile", "VHDX"}, {"conectix", "VHD"},
	};
	char head[512] __attribute__((aligned(4096)));

	if (pread(raw->fd, head, sizeof(head), 0) != (ssize_t)sizeof(head))
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		if (!memcmp(head, formats[i].magic, strlen(formats[i].magic)))
			return error_set(err, -EINVAL,
					 "%s is a %s image; only raw images can be attached: "
					 "convert it with 'qemu-img convert -O raw'",
					 raw->path, formats[i].name);
	}
	return 0;
}

static int open_file(struct disk_raw *raw, const struct disk_raw_config *cfg, struct error *err)
{
	struct stat st;

	/* Not a FIFO that would wait for its other end. */
	if (!stat(cfg->path, &st) && S_ISDIR(st.st_mode))
		return open_sentence(cfg, EISDIR, err);
	raw->fd = open(cfg->path, (cfg->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK |
				      (cfg->direct ? O_DIRECT : 0));
	if (raw->fd < 0)
		return open_sentence(cfg, errno, err);
	if (fstat(raw->fd, &st))
		return open_sentence(cfg, errno, err);
	raw->device = S_ISBLK(st.st_mode);
	if (!raw->device && !S_ISREG(st.st_mode))
		return error_set(err, -EINVAL, "%s is neither a file nor a block device",
				 cfg->path);
	fcntl(raw->fd, F_SETFL, fcntl(raw->fd, F_GETFL) & ~O_NONBLOCK);
	return take_lock(raw, cfg, err);
}

static void find_blocks(struct disk_raw *raw, const struct disk_raw_config *cfg)
{
	struct disk_info *info = &raw->disk.info;
	int logical = DISK_SECTOR;
	unsigned physical = FILE_PHYSICAL;

	if (raw->device) {
		if (ioctl(raw->fd, BLKSSZGET, &logical) || logical < DISK_SECTOR)
			logical = DISK_SECTOR;
		if (ioctl(raw->fd, BLKPBSZGET, &physical) || physical < (unsigned)logical)
			physical = (unsigned)logical;
	} else if (cfg->direct) {
		struct stat st;
		logical = !fstat(raw->fd, &st) && st.st_blksize < DIRECT_DEFAULT
			      ? (int)MAX(st.st_blksize, DISK_SECTOR)
			      : DIRECT_DEFAULT;
	}
	info->logical_block = (uint32_t)logical;
	info->physical_block = MAX(physical, (uint32_t)logical);
	info->read_only = cfg->read_only;
	info->discard = cfg->discard && !cfg->read_only;
}

static int start(struct disk_raw *raw, const struct disk_raw_config *cfg, struct error *err)
{
	unsigned align = cfg->direct ? raw->disk.info.logical_block : 1;
	/* With direct I/O, unaligned memory of the guest goes through the pool's buffers. */
	_Bool uring = !cfg->no_uring && !cfg->direct;
	unsigned threads = cfg->threads ? cfg->threads : POOL_THREADS;
	int r = disk_pool_new(&raw->pool, &raw->disk, raw->fd, uring ? 1 : threads, align, err);

	if (r || !uring || !disk_uring_new(&raw->uring, &raw->disk, raw->fd, raw->pool))
		return r;
	/* The host refuses io_uring. */
	disk_pool_free(raw->pool);
	raw->pool = NULL;
	return disk_pool_new(&raw->pool, &raw->disk, raw->fd, threads, align, err);
}

int disk_raw_open(struct disk **out, const struct disk_raw_config *cfg, struct error *err)
{
	struct disk_raw *raw = calloc(1, sizeof(*raw));
	int r;

	if (!raw)
		return error_set(err, -ENOMEM, "out of memory");
	disk_init(&raw->disk, &raw_ops);
	raw->fd = -1;
	raw->path = strdup(cfg->path);
	r = raw->path ? open_file(raw, cfg, err) : error_set(err, -ENOMEM, "out of memory");
	if (!r)
		r = refuse_other_formats(raw, err);
	if (!r)
		r = raw_look(&raw->disk, &raw->disk.info.size_bytes, err);
	if (!r) {
		find_blocks(raw, cfg);
		r = start(raw, cfg, err);
	}
	if (r) {
		raw_free(&raw->disk);
		return r;
	}
	*out = &raw->disk;
	return 0;
}
