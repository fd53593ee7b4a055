/* loader_file.c: reads kernels and initrds, which are hostile files, with limits and clear
 * sentences. */
#include "machine/loader_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int file_refuse(const char *path, const char *what, int code, struct error *err)
{
	switch (code) {
	case ENOENT: return error_set(err, -code, "%s '%s' does not exist", what, path);
	case ENOTDIR:
		return error_set(err, -code, "%s '%s': a part of the path is not a directory", what,
				 path);
	case EISDIR: return error_set(err, -code, "%s '%s' is a directory", what, path);
	case EACCES:
		return error_set(err, -code, "%s '%s' may not be read by this user (permissions)",
				 what, path);
	default:
		return error_set(err, -code, "%s '%s' cannot be opened: %s", what, path,
				 strerror(code));
	}
}

int boot_file_open(const char *path, const char *what, struct boot_file *file, struct error *err)
{
	if (!*path)
		return error_set(err, -EINVAL, "the %s's path is empty", what);

	/* O_NONBLOCK: opening a FIFO must not wait for a writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return file_refuse(path, what, errno, err);

	struct stat st;
	int rc = 0;
	if (fstat(fd, &st) < 0)
		rc = file_refuse(path, what, errno, err);
	else if (S_ISDIR(st.st_mode))
		rc = file_refuse(path, what, EISDIR, err);
	else if (!S_ISREG(st.st_mode))
		rc = error_set(err, -EINVAL, "%s '%s' is not a regular file", what, path);
	else if (st.st_size == 0)
		rc = error_set(err, -EINVAL, "%s '%s' is empty", what, path);
	if (rc) {
		close(fd);
		return rc;
	}

	char *copy = strdup(path);
	if (!copy) {
		close(fd);
		return error_set(err, -ENOMEM, "out of memory");
	}
	*file = (struct boot_file){.fd = fd, .path = copy};
	return 0;
}

void boot_file_close(struct boot_file *file)
{
	if (file->path)
		close(file->fd);
	free(file->path);
	free(file->args);
	*file = (struct boot_file){.fd = -1};
}

int boot_file_image(const struct boot_file *file, const char *what, struct image *image,
		    struct error *err)
{
	struct stat st;
	if (fstat(file->fd, &st) < 0)
		return file_refuse(file->path, what, errno, err);
	if (st.st_size <= 0)
		return error_set(err, -EINVAL, "%s '%s' is empty", what, file->path);
	*image = (struct image){.name = file->path, .fd = file->fd, .size = (uint64_t)st.st_size};
	return 0;
}

static int image_truncated(const struct image *image, struct error *err)
{
	return error_set(err, -EINVAL, "'%s' is truncated: it ends before its own headers say",
			 image->name);
}

/* The range is inside the image. */
static int image_copy(const struct image *image, uint64_t off, void *buf, size_t len,
		      struct error *err)
{
	if (image->mem) {
		memcpy(buf, image->mem + off, len);
		return 0;
	}
	for (size_t done = 0; done < len;) {
		ssize_t n = pread(image->fd, (char *)buf + done, len - done, (off_t)(off + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return error_set(err, -errno, "'%s' cannot be read: %s", image->name,
					 strerror(errno));
		if (n == 0)
			return image_truncated(image, err);
		done += (size_t)n;
	}
	return 0;
}

int image_read(const struct image *image, uint64_t off, void *buf, size_t len, struct error *err)
{
	if (!range_fits(off, len, image->size))
		return image_truncated(image, err);
	return image_copy(image, off, buf, len, err);
}

int image_load(const struct image *image, uint64_t off, uint64_t len, struct gmem *mem,
	       uint64_t addr, struct error *err)
{
	if (!len)
		return 0;
	if (!range_fits(off, len, image->size))
		return image_truncated(image, err);

	void *ram = gmem_ptr(mem, gpa(addr), (size_t)len, 1);
	if (!ram)
		return error_set(err, -ENOMEM,
				 "'%s' wants %llu bytes at 0x%llx, and the VM has no RAM there "
				 "(give it more with -m)",
				 image->name, (unsigned long long)len, (unsigned long long)addr);
	int rc = image_copy(image, off, ram, (size_t)len, err);
	gmem_dirty(mem, gpa(addr), (size_t)len);
	return rc;
}

int scratch_alloc(struct scratch *scratch, size_t size, struct error *err)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return error_set(err, -ENOMEM, "no memory for %zu bytes while loading the kernel",
				 size);
	*scratch = (struct scratch){p, size};
	return 0;
}

void scratch_free(struct scratch *scratch)
{
	if (scratch->data)
		munmap(scratch->data, scratch->size);
	*scratch = (struct scratch){0};
}
