/* spec.h: what a person asks for: the description of one VM. */
#ifndef PROTO_SPEC_H
#define PROTO_SPEC_H

#include "base/error.h"

#define SPEC_MAX_INITRDS 8
#define SPEC_MAX_CPUS	 64
#define SPEC_MAX_GRACE	 86400
#define SPEC_MIN_MEMORY	 (UINT64_C(2) << 20)
#define SPEC_MAX_MEMORY	 (UINT64_C(1) << 40)

enum spec_personality { PERSONALITY_NONE, PERSONALITY_KVM };
/* The first is the default. */
enum spec_soft {
	SPEC_SOFT_DIRECT,
	SPEC_SOFT_DIRECT_ALWAYS,
	SPEC_SOFT_TRANSLATE,
	SPEC_SOFT_INTERP,
	SPEC_SOFT_LOCKSTEP
};
enum spec_boot {
	SPEC_BOOT_AUTO,
	SPEC_BOOT_LINUX64,
	SPEC_BOOT_LINUX32,
	SPEC_BOOT_PVH,
	SPEC_BOOT_MULTIBOOT
};
/* A feature of the host's CPU for the guest: as the engine thinks best, or as asked for. */
enum spec_feature { SPEC_FEATURE_AUTO, SPEC_FEATURE_ON, SPEC_FEATURE_OFF };
enum spec_unpack { SPEC_UNPACK_HOST, SPEC_UNPACK_GUEST };

#define SPEC_MAX_DISKS	     16
#define SPEC_MAX_DISK_QUEUES 16
#define SPEC_MAX_SERIAL	     20

struct spec_disk {
	const char *path;   /* of an image, or of a socket */
	const char *serial; /* up to SPEC_MAX_SERIAL bytes; NULL: none */
	unsigned queues;    /* 0: one per CPU, up to four */
	_Bool read_only;
	_Bool cdrom;	  /* a CD or DVD image in a drive, not a disk; path NULL: no disc */
	_Bool no_discard; /* space that the guest discards stays allocated */
	_Bool mmio;	  /* memory-mapped instead of on the PCI bus */
	_Bool direct;	  /* around the host's page cache */
	_Bool vhost_user; /* another process's, which listens at `path` */
};

#define SPEC_MAX_FS  8
#define SPEC_MAX_TAG 36

/* A file system that another process serves over vhost-user. */
struct spec_fs {
	const char *path; /* of its socket */
	const char *tag;  /* what the guest mounts it by; up to SPEC_MAX_TAG bytes */
	unsigned queues;  /* for requests; 0: one */
};

#define SPEC_MAX_NETS	    8
#define SPEC_MAX_NET_QUEUES 8
#define SPEC_MAX_PUBLISH    32

enum spec_net_kind {
	SPEC_NET_NONE,
	SPEC_NET_USER,
	SPEC_NET_TAP,
	SPEC_NET_SWITCH,
	SPEC_NET_VHOST_USER
};
enum spec_vhost { SPEC_VHOST_OFF, SPEC_VHOST_ON, SPEC_VHOST_AUTO };
#define SPEC_MAX_SOCKET 108

/* A network card and what it is connected to. */
struct spec_net {
	enum spec_net_kind kind;
	char name[33];		    /* tap, switch */
	char path[SPEC_MAX_SOCKET]; /* vhost-user */
	enum spec_vhost vhost;	    /* tap: frames are the host kernel's to move */
	_Bool restricted, has_mac;
	uint8_t mac[6];
	unsigned queues; /* pairs of them */
	unsigned mtu;	 /* user; 0: the usual */
};

/* A port of the host's that leads to one of the guest's on the first user network. */
struct spec_publish {
	_Bool udp;
	uint32_t addr; /* host byte order */
	uint16_t host_port, guest_port;
};

#define SPEC_MAX_PORTS	   16
#define SPEC_MAX_PORT_NAME 63

enum spec_console { SPEC_CONSOLE_SERIAL, SPEC_CONSOLE_VIRTIO };

/* A named port of the guest's and the Unix socket of this host that leads to it. */
struct spec_port {
	const char *name, *path;
};

#define SPEC_MAX_INTERVAL 86400

struct spec_balloon {
	_Bool absent, deflate_on_oom, free_page_reporting;
	uint64_t bytes; /* taken from the guest from the start */
	unsigned stats_seconds;
};

/* Random numbers for the guest. */
struct spec_rng {
	_Bool absent;
	uint64_t rate; /* bytes a second; 0: no limit */
};

#define SPEC_MAX_SHARES	   8
#define SPEC_MAX_SHARE_TAG 31

/* A directory of the host's that the guest may mount by its tag. */
struct spec_share {
	const char *path;
	char tag[SPEC_MAX_SHARE_TAG + 1];
	_Bool read_only;
};

/* Virtio sockets: the guest's number (0: no device), and where the host's side connects. */
struct spec_vsock {
	uint32_t cid;
	const char *path;
};

/* Strings are borrowed: they live as long as the command line. */
struct vm_spec {
	const char *kernel;
	const char *firmware; /* a BIOS image, or "bios" for the installed one; not with a kernel */
	const char *initrd[SPEC_MAX_INITRDS];
	unsigned initrd_count;
	struct spec_disk disk[SPEC_MAX_DISKS];
	unsigned disk_count;
	struct spec_fs fs[SPEC_MAX_FS];
	unsigned fs_count;
	/* The seed volume, a further disk: files, a file of public keys, a name; NULL for none. */
	const char *user_data, *meta_data, *ssh_key, *hostname;
	const char *append; /* kernel command line; "" for none */
	uint64_t memory_bytes;
	unsigned cpus;
	const char *engine; /* "auto", "soft", "kvm" */
	enum spec_feature avx512;
	enum spec_soft soft;
	_Bool soft_named; /* asked for, not the default: what of it cannot be had is said */
	enum spec_personality personality;
	enum spec_boot boot;
	enum spec_unpack unpack;
	struct spec_net net[SPEC_MAX_NETS];
	unsigned net_count;
	struct spec_publish publish[SPEC_MAX_PUBLISH];
	unsigned publish_count;
	enum spec_console console; /* what the terminal is connected to */
	struct spec_port port[SPEC_MAX_PORTS];
	unsigned port_count;
	struct spec_balloon balloon;
	struct spec_rng rng;
	struct spec_share share[SPEC_MAX_SHARES];
	unsigned share_count;
	struct spec_vsock vsock;
	_Bool boot_menu;	/* the firmware shows its menu */
	const char *name;	/* found by it in the user's runtime directory; NULL: no name */
	const char *control;	/* path of the control socket; NULL: by name, or none */
	unsigned grace_seconds; /* how long a guest that is asked to power off may take */
	const char *gdb;	/* where a debugger may connect (vmm/gdb_server.h); NULL: nowhere */
	_Bool gdb_wait;		/* nothing runs until one has */
	_Bool paused;		/* starts paused */
	_Bool no_reboot;	/* a guest reset ends the VM */
	_Bool debug_exit;	/* offer the debug exit port */
	_Bool huge_pages;
	_Bool stats; /* print counters at exit */
	/* What the soft engine's translator tells: blocks with bytes in [from, to] to a file ("-"
	 * is stderr; NULL: no), and a map for perf. */
	const char *trace_blocks;
	uint64_t trace_from, trace_to;
	_Bool perf_map;
	_Bool quiet; /* no line about the engine */
};

void spec_init(struct vm_spec *spec);

/* "512M", "2G", "1048576K", "256" (MiB, as users of other monitors expect). 0, or -EINVAL with a
 * sentence. */
NODISCARD int spec_parse_memory(const char *text, uint64_t *bytes, struct error *err);
/* "FILE[,ro][,serial=S][,queues=N][,discard=on|off][,direct][,mmio]", or
 * "vhost-user=SOCKET[,queues=N][,mmio]"; ",," stands for a comma in the file's name. Changes `text`
 * and keeps pointers into it. 0, or -EINVAL with a sentence. */
NODISCARD int spec_parse_disk(char *text, struct spec_disk *disk, struct error *err);
/* "FILE[,FROM-TO]", addresses hexadecimal. Changes `text` and keeps pointers into it. 0, or -EINVAL
 * with a sentence. */
NODISCARD int spec_parse_trace_blocks(char *text, struct vm_spec *spec, struct error *err);
/* "vhost-user=SOCKET,tag=TAG[,queues=N]", in the same way. */
NODISCARD int spec_parse_fs(char *text, struct spec_fs *fs, struct error *err);
/* "+avx512" or "-avx512", with commas between several; the last one counts. */
NODISCARD int spec_parse_cpu_features(const char *text, enum spec_feature *avx512,
				      struct error *err);
/* A whole decimal number in [min, max]. */
NODISCARD int spec_parse_number(const char *what, const char *text, uint64_t min, uint64_t max,
				uint64_t *out, struct error *err);

/* spec_net.c: "user,restrict=on", "tap=NAME,vhost,mac=...", "switch=NAME", "vhost-user=SOCKET",
 * "none"; and
 * "[ADDRESS:]HOST:GUEST[/udp]". The command line's word is in the sentence. */
NODISCARD int spec_parse_net(const char *text, struct spec_net *net, struct error *err);
NODISCARD int spec_parse_publish(const char *text, struct spec_publish *publish, struct error *err);
NODISCARD int spec_check_nets(const struct vm_spec *spec, struct error *err);

/* spec_virtio.c. "NAME=unix:PATH": changes `text` and keeps pointers into it; "none" or
 * "[SIZE][,deflate-on-oom][,free-page-reporting][,stats=SECONDS]"; "none" or "rate=SIZE". */
NODISCARD int spec_parse_port(char *text, struct spec_port *port, struct error *err);
NODISCARD int spec_parse_balloon(const char *text, struct spec_balloon *balloon, struct error *err);
NODISCARD int spec_parse_rng(const char *text, struct spec_rng *rng, struct error *err);
NODISCARD int spec_check_virtio(const struct vm_spec *spec, struct error *err);

/* spec_share.c: "DIR[:TAG][:ro]"; a colon that belongs to the directory has a slash behind it.
 * Changes `text` and keeps pointers into it. */
NODISCARD int spec_parse_share(char *text, struct spec_share *share, struct error *err);
/* spec_vsock.c: "CID,unix:PATH". As above. */
NODISCARD int spec_parse_vsock(char *text, struct spec_vsock *vsock, struct error *err);
NODISCARD int spec_check_shares(const struct vm_spec *spec, struct error *err);

/* Is every field something the product can do? 0, or -EINVAL with a sentence. */
NODISCARD int spec_check(const struct vm_spec *spec, struct error *err);

#endif
