/* rundir.c: the directory in which a user's running VMs are found by name. */
#include "vmm/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".sock"

int rundir_check_name(const char *name, struct error *err)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789-_.";
	size_t len = strlen(name);

	if (len < 1 || len > RUNDIR_NAME_MAX || name[0] == '.' || name[0] == '-' ||
	    strspn(name, allowed) != len)
		return error_set(err, -EINVAL,
				 "'%.70s' is not a name for a VM: use 1 to %d letters, digits, "
				 "'-', '_' and '.', beginning with a letter or digit",
				 name, RUNDIR_NAME_MAX);
	return 0;
}

static _Bool is_mine(const char *dir)
{
	struct stat st;

	return !lstat(dir, &st) && S_ISDIR(st.st_mode) && st.st_uid == geteuid();
}

static int find_dir(char *dir, size_t len, struct error *err)
{
	const char *xdg = getenv("XDG_RUNTIME_DIR");
	struct stat st;
	int n;

	if (xdg && xdg[0] == '/' && is_mine(xdg))
		n = snprintf(dir, len, "%s/polyvisor", xdg);
	else
		n = snprintf(dir, len, "/tmp/polyvisor-%u", (unsigned)geteuid());
	if (n < 0 || (size_t)n >= len)
		return error_set(err, -ENAMETOOLONG, "the path in XDG_RUNTIME_DIR is too long");
	if (mkdir(dir, 0700) && errno != EEXIST)
		return error_set(err, -errno, "cannot make the directory '%s': %s", dir,
				 strerror(errno));
	if (!is_mine(dir) || lstat(dir, &st) || (st.st_mode & 077))
		return error_set(
		    err, -EPERM,
		    "'%s' is not a directory that belongs to this user alone (mode 0700)", dir);
	return 0;
}

int rundir_socket(const char *name, char *path, size_t len, struct error *err)
{
	char dir[256];
	int rc = rundir_check_name(name, err), n;

	if (!rc)
		rc = find_dir(dir, sizeof(dir), err);
	if (rc)
		return rc;
	n = snprintf(path, len, "%s/%s" SUFFIX, dir, name);
	if (n < 0 || (size_t)n >= len)
		return error_set(err, -ENAMETOOLONG,
				 "the name '%s' is too long for a socket in '%s'", name, dir);
	return 0;
}

static int is_socket_name(const struct dirent *entry)
{
	size_t len = strlen(entry->d_name), suffix = strlen(SUFFIX);

	return len > suffix && entry->d_name[0] != '.' &&
	       !strcmp(entry->d_name + len - suffix, SUFFIX);
}

int rundir_each(void (*fn)(void *opaque, const char *name, const char *path), void *opaque,
		struct error *err)
{
	struct dirent **list;
	char dir[256], name[256], path[600];
	int rc = find_dir(dir, sizeof(dir), err), n;

	if (rc)
		return rc;
	n = scandir(dir, &list, is_socket_name, alphasort);
	if (n < 0)
		return error_set(err, -errno, "cannot read the directory '%s': %s", dir,
				 strerror(errno));
	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, list[i]->d_name);
		snprintf(name, sizeof(name), "%.*s",
			 (int)(strlen(list[i]->d_name) - strlen(SUFFIX)), list[i]->d_name);
		fn(opaque, name, path);
		free(list[i]);
	}
	free(list);
	return 0;
}
