/* cmd_run.c: "polyvisor run": boots a VM in this terminal. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/trace.h"
#include "cli/cli.h"
#include "proto/spec.h"
#include "vmm/gdb_server.h"
#include "vmm/rundir.h"
#include "vmm/vm.h"

enum option_code {
	OPT_KERNEL = 256,
	OPT_INITRD,
	OPT_DISK,
	OPT_FS,
	OPT_CDROM,
	OPT_APPEND,
	OPT_CPUS,
	OPT_ENGINE,
	OPT_PERSONALITY,
	OPT_BOOT,
	OPT_UNPACK,
	OPT_NO_REBOOT,
	OPT_DEBUG_EXIT,
	OPT_HUGE_PAGES,
	OPT_STATS,
	OPT_TRACE,
	OPT_SOFT,
	OPT_FIRMWARE,
	OPT_BOOT_MENU,
	OPT_NAME,
	OPT_CONTROL,
	OPT_GRACE,
	OPT_PAUSED,
	OPT_USER_DATA,
	OPT_META_DATA,
	OPT_SSH_KEY,
	OPT_HOSTNAME,
	OPT_NET,
	OPT_PUBLISH,
	OPT_BALLOON,
	OPT_CONSOLE,
	OPT_PORT,
	OPT_RNG,
	OPT_GDB,
	OPT_GDB_WAIT,
	OPT_TRACE_BLOCKS,
	OPT_PERF_MAP,
	OPT_SHARE,
	OPT_VSOCK,
	OPT_CPU_FEATURES,
};

static const struct option options[] = {
    {"kernel", required_argument, NULL, OPT_KERNEL},
    {"initrd", required_argument, NULL, OPT_INITRD},
    {"disk", required_argument, NULL, OPT_DISK},
    {"fs", required_argument, NULL, OPT_FS},
    {"cdrom", required_argument, NULL, OPT_CDROM},
    {"append", required_argument, NULL, OPT_APPEND},
    {"firmware", required_argument, NULL, OPT_FIRMWARE},
    {"boot-menu", no_argument, NULL, OPT_BOOT_MENU},
    {"user-data", required_argument, NULL, OPT_USER_DATA},
    {"meta-data", required_argument, NULL, OPT_META_DATA},
    {"ssh-key", required_argument, NULL, OPT_SSH_KEY},
    {"hostname", required_argument, NULL, OPT_HOSTNAME},
    {"net", required_argument, NULL, OPT_NET},
    {"publish", required_argument, NULL, OPT_PUBLISH},
    {"console", required_argument, NULL, OPT_CONSOLE},
    {"port", required_argument, NULL, OPT_PORT},
    {"balloon", required_argument, NULL, OPT_BALLOON},
    {"rng", required_argument, NULL, OPT_RNG},
    {"share", required_argument, NULL, OPT_SHARE},
    {"vsock", required_argument, NULL, OPT_VSOCK},
    {"memory", required_argument, NULL, 'm'},
    {"cpus", required_argument, NULL, OPT_CPUS},
    {"cpu-features", required_argument, NULL, OPT_CPU_FEATURES},
    {"engine", required_argument, NULL, OPT_ENGINE},
    {"soft", required_argument, NULL, OPT_SOFT},
    {"personality", required_argument, NULL, OPT_PERSONALITY},
    {"boot", required_argument, NULL, OPT_BOOT},
    {"unpack", required_argument, NULL, OPT_UNPACK},
    {"no-reboot", no_argument, NULL, OPT_NO_REBOOT},
    {"debug-exit", no_argument, NULL, OPT_DEBUG_EXIT},
    {"huge-pages", no_argument, NULL, OPT_HUGE_PAGES},
    {"stats", no_argument, NULL, OPT_STATS},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"trace-blocks", required_argument, NULL, OPT_TRACE_BLOCKS},
    {"perf-map", no_argument, NULL, OPT_PERF_MAP},
    {"name", required_argument, NULL, OPT_NAME},
    {"control", required_argument, NULL, OPT_CONTROL},
    {"grace", required_argument, NULL, OPT_GRACE},
    {"paused", no_argument, NULL, OPT_PAUSED},
    {"gdb", required_argument, NULL, OPT_GDB},
    {"gdb-wait", no_argument, NULL, OPT_GDB_WAIT},
    {"quiet", no_argument, NULL, 'q'},
    {"verbose", no_argument, NULL, 'v'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_help(void)
{
	fputs(
	    "usage: polyvisor run DISK[,OPTION...] [OPTION...]\n"
	    "       polyvisor run --kernel FILE [OPTION...]\n"
	    "\n"
	    "Boots a virtual machine whose serial console is this terminal.\n"
	    "\n"
	    "what to boot:\n"
	    "  DISK                 a disk image: through BIOS firmware and the boot loader on it; "
	    "with\n"
	    "                       --kernel, that kernel with this as its first disk\n"
	    "  --kernel FILE        a Linux bzImage, an ELF image with a PVH note, or a Multiboot "
	    "kernel\n"
	    "  --initrd FILE        initial RAM disk; several are joined (Multiboot: one module "
	    "each)\n"
	    "  --append TEXT        the kernel's command line, for example 'console=ttyS0 quiet'\n"
	    "  --boot PROTOCOL      auto (default), linux64, linux32, pvh or multiboot\n"
	    "  --firmware FILE      a BIOS image; bios (default without --kernel): the installed "
	    "SeaBIOS\n"
	    "  --boot-menu          the firmware's boot menu on the serial console\n"
	    "  --unpack WHO         host (default): the kernel is unpacked here; guest: by itself, "
	    "slower\n"
	    "\n"
	    "disks:\n"
	    "  --disk FILE[,OPTION...]  a raw image or block device, as /dev/vda, /dev/vdb ... in "
	    "order\n"
	    "      ro               read-only; several machines may share it\n"
	    "      serial=TEXT      serial number, up to 20 bytes\n"
	    "      queues=N         1 to 16 (default: one per CPU, up to 4)\n"
	    "      discard=off      keep space that the guest discards (default: on)\n"
	    "      direct           around the host's page cache\n"
	    "      mmio             a memory-mapped device, found through ACPI, instead of PCI\n"
	    "  --disk vhost-user=SOCKET[,queues=N][,mmio]\n"
	    "                       a disk that another process serves, which listens there\n"
	    "  --cdrom FILE         a CD or DVD image (ISO) in a virtio SCSI drive; booted from "
	    "when\n"
	    "                       no disk before it can be; none: an empty drive ('polyvisor "
	    "ctl\n"
	    "                       NAME insert FILE' fills it)\n"
	    "\n"
	    "files of this host:\n"
	    "  --fs vhost-user=SOCKET,tag=TAG[,queues=N]\n"
	    "                       a file system that another process (virtiofsd) serves, which "
	    "listens\n"
	    "                       there; in the guest: mount -t virtiofs TAG DIRECTORY\n"
	    "  --share DIR[:TAG][:ro]   the guest may mount it: 'mount -t 9p -o trans=virtio TAG "
	    "/mnt';\n"
	    "                       TAG is the directory's name unless said; ro: it may not write\n"
	    "\n"
	    "who the guest is (a NoCloud seed volume, as a last disk):\n"
	    "  --hostname NAME      its host name\n"
	    "  --ssh-key FILE       public keys that may log in, one a line "
	    "(~/.ssh/id_ed25519.pub)\n"
	    "  --user-data FILE     what cloud-init and its like are to do;  --meta-data FILE\n"
	    "\n"
	    "the machine:\n"
	    "  -m, --memory SIZE    RAM, for example 256M or 2G; a bare number is MiB (default "
	    "512M)\n"
	    "  --balloon [SIZE][,OPTION...]  memory that the guest lends to the host: from the "
	    "start\n"
	    "                       (default 0), and as 'polyvisor ctl NAME balloon SIZE' says\n"
	    "      deflate-on-oom   the guest takes it back rather than kill processes\n"
	    "      free-page-reporting  memory that the guest frees is the host's again, by "
	    "itself\n"
	    "      stats=SECONDS    how often the guest is asked for its figures (default 10; 0: "
	    "never)\n"
	    "  --balloon none       no balloon\n"
	    "  --rng rate=SIZE|none random numbers of this host's at most so many bytes a second\n"
	    "                       (default: no limit), or not at all\n"
	    "  --cpus N             1 to 64 virtual CPUs (default 1)\n"
	    "  --cpu-features LIST  +avx512: the guest has AVX-512, if this CPU does, or the VM is "
	    "not\n"
	    "                       started; -avx512: it has not (default: only with the kvm "
	    "engine)\n"
	    "  --engine NAME        auto (default) looks at this host and says what it chose;\n"
	    "                       kvm needs /dev/kvm; soft runs anywhere\n"
	    "  --soft KIND          the soft engine's way: direct (default), which turns guest\n"
	    "                       code into code of this CPU, and runs user code on the CPU\n"
	    "                       itself, in processes of its own, where that pays; translate\n"
	    "                       does the former only; interp is an interpreter, slow and\n"
	    "                       simple; lockstep runs translated and interpreted code,\n"
	    "                       compares them, stops at the first difference. To compare:\n"
	    "                       direct=auto is direct, direct=on runs user code on the CPU\n"
	    "                       wherever it is possible, direct=off is translate\n"
	    "  --personality NAME   kvm (default): the guest finds KVM's clock; none: plain "
	    "hardware\n"
	    "  --huge-pages         ask the host for huge pages behind the guest's RAM\n"
	    "\n"
	    "how it is spoken to:\n"
	    "  --console KIND       serial (default): this terminal is COM1, the guest's ttyS0;\n"
	    "                       virtio: it is hvc0, with its size, and COM1 leads nowhere\n"
	    "  --port NAME=unix:PATH  a port NAME of the guest's (/dev/virtio-ports/NAME) is the "
	    "Unix\n"
	    "                       socket PATH here, for one client at a time; up to 16 of them\n"
	    "  --name NAME          'polyvisor ctl NAME ...' reaches it, 'polyvisor ls' shows it\n"
	    "  --control PATH       the control socket is PATH (Unix socket, this user's only)\n"
	    "  --paused             waits for Ctrl-A P or 'polyvisor ctl NAME resume'\n"
	    "  --gdb WHERE          gdb may connect at unix:PATH, or tcp:PORT or :PORT of this "
	    "host\n"
	    "  --gdb-wait           nothing runs until it has\n"
	    "\n"
	    "the network:\n"
	    "  --net user[,restrict=on][,mtu=N]\n"
	    "                       (default) a private network behind this process: DHCP, DNS, "
	    "the "
	    "host is\n"
	    "                       10.0.2.2; restrict=on: the guest reaches nothing outside\n"
	    "  --net tap=NAME[,vhost[=on|off|auto]]\n"
	    "                       a tap interface of this host; vhost: its kernel moves the "
	    "frames\n"
	    "  --net vhost-user=SOCKET\n"
	    "                       another process that listens there moves the frames\n"
	    "  --net switch=NAME    a switch that all VMs of this user with the same NAME are on\n"
	    "  --net none           no card; every --net takes mac=ADDRESS and queues=N as well\n"
	    "  --publish [ADDRESS:]HOST:GUEST[/udp]\n"
	    "                       port HOST of this host (127.0.0.1 unless said) is the guest's "
	    "port GUEST\n"
	    "  --vsock CID,unix:PATH\n"
	    "                       sockets of the guest's (AF_VSOCK), whose number is CID (3 or "
	    "more): write\n"
	    "                       'CONNECT PORT' to PATH to reach it; its port P of the host is "
	    "PATH_P\n"
	    "\n"
	    "how it ends:\n"
	    "  --grace SECONDS      SIGTERM presses the power button if the guest listens to it; "
	    "the\n"
	    "                       guest has this long to power off (default 10; 0: none)\n"
	    "  --no-reboot          a guest's reset ends the process instead of starting over\n"
	    "  --debug-exit         a guest that writes V to port 0xf4 ends with status (V*2+1) "
	    "mod 256\n"
	    "\n"
	    "what it tells:\n"
	    "  --stats              counters on stderr at the end\n"
	    "  --trace TOPICS       io,irq,msr,int,pci,guest,vm on stderr (slow)\n"
	    "  --trace-blocks FILE[,FROM-TO]\n"
	    "                       guest code and the host code that the translator makes of it; "
	    "'-' is\n"
	    "                       stderr; FROM and TO are linear addresses, hexadecimal\n"
	    "  --perf-map           /tmp/perf-PID.map: guest addresses for 'perf report'\n"
	    "  -q, --quiet          no line about the engine;  -v, --verbose  more messages\n"
	    "\n"
	    "keys, when this is a terminal: Ctrl-A X quits, Ctrl-A H shows the others.\n"
	    "In a pipe, standard input is the serial line's input and standard output is its "
	    "output.\n"
	    "\n"
	    "exit status: 0 the guest powered off; 1 the host could not (a file, memory, the "
	    "engine);\n"
	    "  2 wrong command line; 3 guest panic; 4 reset with --no-reboot; 5 the guest's CPU "
	    "shut\n"
	    "  down (triple fault); 128+N ended by signal N\n"
	    "\n"
	    "examples:\n"
	    "  polyvisor run debian.img -m 1G --hostname web --ssh-key ~/.ssh/id_ed25519.pub\n"
	    "  polyvisor run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 -m 1G "
	    "--cpus 2\n",
	    stdout);
}

/* Index of `text` in a list of words, or -1 after an error was printed. */
static int parse_word(const char *option, const char *text, const char *const *words,
		      unsigned count)
{
	char list[128] = "";

	for (unsigned i = 0; i < count; i++) {
		if (!strcmp(text, words[i]))
			return (int)i;
		if (i)
			strcat(list, i + 1 == count ? " or " : ", ");
		strcat(list, words[i]);
	}
	cli_usage_error("run", "%s '%s' is not one of %s", option, text, list);
	return -1;
}

static const char *const engine_words[] = {"auto", "kvm", "soft"};
static const char *const personality_words[] = {"none", "kvm"};
static const char *const console_words[] = {"serial", "virtio"};
static const char *const boot_words[] = {"auto", "linux64", "linux32", "pvh", "multiboot"};
static const char *const unpack_words[] = {"host", "guest"};
static const char *const soft_words[] = {"translate",	"interp",     "lockstep", "direct",
					 "direct=auto", "direct=off", "direct=on"};
static const enum spec_soft soft_ways[] = {
    SPEC_SOFT_TRANSLATE, SPEC_SOFT_INTERP,    SPEC_SOFT_LOCKSTEP,      SPEC_SOFT_DIRECT,
    SPEC_SOFT_DIRECT,	 SPEC_SOFT_TRANSLATE, SPEC_SOFT_DIRECT_ALWAYS,
};
_Static_assert(ARRAY_SIZE(soft_words) == ARRAY_SIZE(soft_ways), "one way for each word");

/* One option with a word from a list: the other enums' order is the lists'. Returns -1 after an
 * error. */
static int apply_word(struct vm_spec *spec, int code, const char *text)
{
	int n;

	switch (code) {
	case OPT_ENGINE:
		n = parse_word("--engine", text, engine_words, ARRAY_SIZE(engine_words));
		spec->engine = text;
		return n;
	case OPT_PERSONALITY:
		n = parse_word("--personality", text, personality_words,
			       ARRAY_SIZE(personality_words));
		spec->personality = (enum spec_personality)n;
		return n;
	case OPT_CONSOLE:
		n = parse_word("--console", text, console_words, ARRAY_SIZE(console_words));
		spec->console = (enum spec_console)n;
		return n;
	case OPT_BOOT:
		n = parse_word("--boot", text, boot_words, ARRAY_SIZE(boot_words));
		spec->boot = (enum spec_boot)n;
		return n;
	case OPT_UNPACK:
		n = parse_word("--unpack", text, unpack_words, ARRAY_SIZE(unpack_words));
		spec->unpack = (enum spec_unpack)n;
		return n;
	default:
		n = parse_word("--soft", text, soft_words, ARRAY_SIZE(soft_words));
		if (n >= 0) {
			spec->soft = soft_ways[n];
			spec->soft_named = 1;
		}
		return n;
	}
}

/* 0, or the status to exit with (an error was printed). */
static int apply_option(struct vm_spec *spec, int code, char *text)
{
	struct error err;
	uint64_t n;

	switch (code) {
	case OPT_KERNEL: spec->kernel = text; return 0;
	case OPT_INITRD:
		if (spec->initrd_count == SPEC_MAX_INITRDS)
			return cli_usage_error("run", "more than %d initial RAM disks",
					       SPEC_MAX_INITRDS);
		spec->initrd[spec->initrd_count++] = text;
		return 0;
	case OPT_DISK:
		if (spec->disk_count == SPEC_MAX_DISKS)
			return cli_usage_error("run", "more than %d disks", SPEC_MAX_DISKS);
		if (spec_parse_disk(text, &spec->disk[spec->disk_count], &err))
			return cli_usage_error("run", "%s", err.text);
		spec->disk_count++;
		return 0;
	case OPT_FS:
		if (spec->fs_count == SPEC_MAX_FS)
			return cli_usage_error("run", "more than %d file systems", SPEC_MAX_FS);
		if (spec_parse_fs(text, &spec->fs[spec->fs_count++], &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_CDROM:
		if (spec->disk_count == SPEC_MAX_DISKS)
			return cli_usage_error("run", "more than %d disks", SPEC_MAX_DISKS);
		spec->disk[spec->disk_count++] = (struct spec_disk){
		    .path = strcmp(text, "none") ? text : NULL, .read_only = 1, .cdrom = 1};
		return 0;
	case OPT_APPEND: spec->append = text; return 0;
	case OPT_FIRMWARE: spec->firmware = text; return 0;
	case OPT_BOOT_MENU: spec->boot_menu = 1; return 0;
	case OPT_USER_DATA: spec->user_data = text; return 0;
	case OPT_META_DATA: spec->meta_data = text; return 0;
	case OPT_SSH_KEY: spec->ssh_key = text; return 0;
	case OPT_HOSTNAME: spec->hostname = text; return 0;
	case OPT_NET:
		if (spec->net_count == SPEC_MAX_NETS)
			return cli_usage_error("run", "more than %d network cards", SPEC_MAX_NETS);
		if (spec_parse_net(text, &spec->net[spec->net_count++], &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_SHARE:
		if (spec->share_count == SPEC_MAX_SHARES)
			return cli_usage_error("run", "more than %d shared directories",
					       SPEC_MAX_SHARES);
		if (spec_parse_share(text, &spec->share[spec->share_count++], &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_VSOCK:
		if (spec->vsock.cid)
			return cli_usage_error("run", "--vsock is given twice");
		if (spec_parse_vsock(text, &spec->vsock, &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_PUBLISH:
		if (spec->publish_count == SPEC_MAX_PUBLISH)
			return cli_usage_error("run", "more than %d published ports",
					       SPEC_MAX_PUBLISH);
		if (spec_parse_publish(text, &spec->publish[spec->publish_count++], &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_PORT:
		if (spec->port_count == SPEC_MAX_PORTS)
			return cli_usage_error("run", "more than %d ports", SPEC_MAX_PORTS);
		if (spec_parse_port(text, &spec->port[spec->port_count], &err))
			return cli_usage_error("run", "%s", err.text);
		spec->port_count++;
		return 0;
	case OPT_BALLOON:
		if (spec_parse_balloon(text, &spec->balloon, &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_RNG:
		if (spec_parse_rng(text, &spec->rng, &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case 'm':
		if (spec_parse_memory(text, &spec->memory_bytes, &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_CPUS:
		if (spec_parse_number("--cpus", text, 1, SPEC_MAX_CPUS, &n, &err))
			return cli_usage_error("run", "%s", err.text);
		spec->cpus = (unsigned)n;
		return 0;
	case OPT_CPU_FEATURES:
		if (spec_parse_cpu_features(text, &spec->avx512, &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_NAME:
		if (rundir_check_name(text, &err))
			return cli_usage_error("run", "%s", err.text);
		spec->name = text;
		return 0;
	case OPT_CONTROL: spec->control = text; return 0;
	case OPT_GRACE:
		if (spec_parse_number("--grace", text, 0, SPEC_MAX_GRACE, &n, &err))
			return cli_usage_error("run", "%s", err.text);
		spec->grace_seconds = (unsigned)n;
		return 0;
	case OPT_GDB:
		if (gdb_server_check(text, &err))
			return cli_usage_error("run", "%s", err.text);
		spec->gdb = text;
		return 0;
	case OPT_GDB_WAIT: spec->gdb_wait = 1; return 0;
	case OPT_PAUSED: spec->paused = 1; return 0;
	case OPT_NO_REBOOT: spec->no_reboot = 1; return 0;
	case OPT_DEBUG_EXIT: spec->debug_exit = 1; return 0;
	case OPT_HUGE_PAGES: spec->huge_pages = 1; return 0;
	case OPT_STATS: spec->stats = 1; return 0;
	case OPT_TRACE_BLOCKS:
		if (spec_parse_trace_blocks(text, spec, &err))
			return cli_usage_error("run", "%s", err.text);
		return 0;
	case OPT_PERF_MAP: spec->perf_map = 1; return 0;
	case OPT_TRACE:
		if (trace_parse(text, &trace_topics))
			return cli_usage_error("run", "--trace '%s' names an unknown topic", text);
		return 0;
	case 'q': spec->quiet = 1; return 0;
	case 'v':
		log_set_level(log_get_level() < LOG_DEBUG ? log_get_level() + 1 : LOG_DEBUG);
		return 0;
	default: return apply_word(spec, code, text) < 0 ? STATUS_USAGE : 0;
	}
}

/* The disk that stands without an option is the first one. */
static int apply_boot_disk(struct vm_spec *spec, char *text)
{
	struct spec_disk disk;
	struct error err;

	if (spec->disk_count == SPEC_MAX_DISKS)
		return cli_usage_error("run", "more than %d disks", SPEC_MAX_DISKS);
	if (spec_parse_disk(text, &disk, &err))
		return cli_usage_error("run", "%s", err.text);
	memmove(&spec->disk[1], &spec->disk[0], spec->disk_count * sizeof(disk));
	spec->disk[0] = disk;
	spec->disk_count++;
	return 0;
}

static int bad_option(char **argv)
{
	const char *names[ARRAY_SIZE(options)];
	const char *typed = argv[optind - 1], *near;
	unsigned n = 0;

	for (const struct option *o = options; o->name; o++)
		names[n++] = o->name;
	if (optopt && optopt < 256)
		return cli_usage_error("run", "unknown option '-%c'", optopt);
	if (optopt)
		return cli_usage_error("run", "option '%s' needs a value, or takes none", typed);
	near = strncmp(typed, "--", 2) ? NULL : cli_nearest(typed + 2, names, n);
	if (near)
		return cli_usage_error("run", "unknown option '%s'; did you mean '--%s'?", typed,
				       near);
	return cli_usage_error("run", "unknown option '%s'", typed);
}

/* -1: run the VM; else the status to exit with. */
static int parse_options(struct vm_spec *spec, int argc, char **argv)
{
	int code, status;

	opterr = 0;
	while ((code = getopt_long(argc, argv, ":m:qvh", options, NULL)) != -1) {
		if (code == 'h') {
			print_help();
			return STATUS_OK;
		}
		if (code == ':')
			return cli_usage_error("run", "option '%s' needs a value",
					       argv[optind - 1]);
		if (code == '?')
			return bad_option(argv);
		status = apply_option(spec, code, optarg);
		if (status)
			return status;
	}
	if (optind + 1 < argc)
		return cli_usage_error("run",
				       "'%s': one disk image is booted; more disks go with "
				       "--disk",
				       argv[optind + 1]);
	if (optind < argc) {
		status = apply_boot_disk(spec, argv[optind]);
		if (status)
			return status;
	}
	if (!spec->kernel && !spec->firmware && spec->disk_count)
		spec->firmware = "bios";
	return -1;
}

static int exit_status(const struct vm_result *result)
{
	switch (result->end) {
	case VM_END_POWER_OFF:
	case VM_END_QUIT: return STATUS_OK;
	case VM_END_SIGNAL: return 128 + (int)result->code;
	case VM_END_RESET: return STATUS_RESET;
	case VM_END_PANIC: return STATUS_PANIC;
	case VM_END_CRASH: return STATUS_CRASHED;
	case VM_END_DEBUG_EXIT: return (int)((result->code << 1 | 1) & 0xff);
	case VM_END_ERROR: break;
	}
	return STATUS_HOST;
}

int cmd_run(int argc, char **argv)
{
	struct vm_result result;
	struct vm_spec spec;
	struct error err;
	struct vm *vm;
	int status;

	spec_init(&spec);
	status = parse_options(&spec, argc, argv);
	if (status >= 0)
		return status;
	if (!spec.net_count)
		spec.net[spec.net_count++] = (struct spec_net){.kind = SPEC_NET_USER, .queues = 1};
	if (spec_check(&spec, &err))
		return cli_usage_error("run", "%s", err.text);
	if (vm_new(&vm, &spec, &err)) {
		fprintf(stderr, "polyvisor: %s\n", err.text);
		return STATUS_HOST;
	}
	if (!spec.quiet)
		fprintf(stderr, "polyvisor: %s\n", vm_engine_line(vm));
	vm_run(vm, &result);
	vm_free(vm);
	if (result.text[0])
		fprintf(stderr, "polyvisor: %s\n", result.text);
	return exit_status(&result);
}
