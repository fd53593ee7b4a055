/* vm_gdb.c: the VM as a debugger's target: memory, breakpoints, running and stopping. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "vmm/gdb_server.h"
#include "vmm/vm_impl.h"
#include "x86/regs.h"
#include "x86/walk.h"

/*
 * While a debugger looks, the VM is held (HOLD_GDB). To run, every CPU is told its breakpoints and
 * whether to step, CPUs that shall stand still are marked in vm->frozen, and the hold is released.
 * A CPU that meets something leaves guest code and reports ENGINE_EVENT_DEBUG; the VM is held again
 * and the debugger is told of one CPU. What others met at the same time is met again when they run,
 * but for watchpoints, whose instruction has been executed: those are kept in `pending`.
 *
 * An engine that has few breakpoints of its own gets INT3s in guest memory for software
 * breakpoints. Reads show what was there, writes go beneath.
 */
#define INT3 0xcc

struct gdb_point {
	enum gdb_break kind;
	uint64_t addr;
	unsigned len;
	_Bool patched; /* an INT3 is at phys */
	uint8_t saved;
	uint64_t phys;
};

struct vm_gdb {
	struct vm *vm;
	struct gdb_server *server;
	struct gdb_point point[ENGINE_MAX_BREAKS];
	unsigned points;
	enum gdb_action action[ENGINE_MAX_CPUS];
	uint64_t pending; /* CPUs that hit a watchpoint not yet told of */
	_Bool physical;	  /* "monitor memory physical" */
	int cached;	  /* whose state is in `state`; -1: nobody's */
	struct x86_state state;
};

/* --- State and memory ------------------------------------------------------------------------ */

static int cpu_state(struct vm_gdb *g, unsigned cpu)
{
	int rc;

	if (g->cached == (int)cpu)
		return 0;
	g->cached = -1;
	rc = g->vm->ops->get_state(machine_vcpu(g->vm->machine, cpu), &g->state);
	if (!rc)
		g->cached = (int)cpu;
	return rc;
}

static int target_get(void *opaque, unsigned cpu, struct x86_state *s)
{
	struct vm_gdb *g = opaque;
	int rc = cpu_state(g, cpu);

	if (!rc)
		*s = g->state;
	return rc;
}

static int target_set(void *opaque, unsigned cpu, const struct x86_state *s)
{
	struct vm_gdb *g = opaque;
	struct error err;
	int rc = x86_state_check(s, &err);

	g->cached = -1;
	return rc ? rc : g->vm->ops->set_state(machine_vcpu(g->vm->machine, cpu), s);
}

static int walk_read_ram(void *opaque, uint64_t addr, void *buf, unsigned size)
{
	return gmem_read(opaque, gpa(addr), buf, size);
}

/* Where a linear address is, as the CPU sees it now. */
static int translate(struct vm_gdb *g, unsigned cpu, uint64_t addr, uint64_t *phys)
{
	struct vm *vm = g->vm;
	struct walk_result w;
	int rc;

	*phys = addr;
	if (g->physical)
		return 0;
	rc = cpu_state(g, cpu);
	if (!rc)
		rc = x86_walk(&g->state, machine_engine(vm->machine)->env->cpuid->phys_bits, addr,
			      walk_read_ram, machine_mem(vm->machine), &w);
	if (!rc)
		*phys = w.addr;
	return rc;
}

/* Shows (or, for a write, keeps) what lies beneath the INT3s in a piece of memory. */
static void overlay(struct vm_gdb *g, uint64_t phys, uint8_t *buf, size_t len, _Bool write)
{
	for (unsigned i = 0; i < g->points; i++) {
		struct gdb_point *p = &g->point[i];

		if (!p->patched || p->phys - phys >= len)
			continue;
		if (write) {
			p->saved = buf[p->phys - phys];
			buf[p->phys - phys] = INT3;
		} else if (buf[p->phys - phys] == INT3) {
			buf[p->phys - phys] = p->saved;
		}
	}
}

/* Page by page. A read or write that fails half-way has done the first half, as gdb expects. */
static int reach(struct vm_gdb *g, unsigned cpu, uint64_t addr, uint8_t *buf, size_t len,
		 _Bool write)
{
	struct gmem *mem = machine_mem(g->vm->machine);
	uint8_t page[GMEM_PAGE_SIZE];

	while (len) {
		size_t n = MIN(len, (size_t)(GMEM_PAGE_SIZE - addr % GMEM_PAGE_SIZE));
		uint64_t phys;
		int rc = translate(g, cpu, addr, &phys);

		if (!rc && write) {
			memcpy(page, buf, n);
			overlay(g, phys, page, n, 1);
			rc = gmem_write(mem, gpa(phys), page, n);
		} else if (!rc) {
			rc = gmem_read(mem, gpa(phys), buf, n);
			overlay(g, phys, buf, n, 0);
		}
		if (rc)
			return -EFAULT;
		addr += n;
		buf += n;
		len -= n;
	}
	return 0;
}

static int target_read(void *opaque, unsigned cpu, uint64_t addr, void *buf, size_t len)
{
	return reach(opaque, cpu, addr, buf, len, 0);
}

static int target_write(void *opaque, unsigned cpu, uint64_t addr, const void *buf, size_t len)
{
	return reach(opaque, cpu, addr, (uint8_t *)(uintptr_t)buf, len, 1);
}

/* --- Breakpoints ----------------------------------------------------------------------------- */

static _Bool wants_int3(const struct vm_gdb *g, enum gdb_break kind)
{
	return kind == GDB_BREAK_SOFT && g->vm->ops->break_max < ENGINE_MAX_BREAKS;
}

/* Writes an INT3 over the instruction, remembering what was there. */
static int patch(struct vm_gdb *g, unsigned cpu, struct gdb_point *p)
{
	struct gmem *mem = machine_mem(g->vm->machine);
	const uint8_t int3 = INT3;
	_Bool physical = g->physical;
	int rc;

	g->physical = 0; /* the CPU does not fetch by physical addresses */
	rc = translate(g, cpu, p->addr, &p->phys);
	g->physical = physical;
	if (!rc)
		rc = gmem_read(mem, gpa(p->phys), &p->saved, 1);
	overlay(g, p->phys, &p->saved, 1, 0); /* two addresses of one byte */
	if (!rc)
		rc = gmem_write(mem, gpa(p->phys), &int3, 1);
	p->patched = !rc;
	return rc ? -EFAULT : 0;
}

/* Unless the guest has put something else there, or another breakpoint needs it. */
static void unpatch(struct vm_gdb *g, struct gdb_point *p)
{
	struct gmem *mem = machine_mem(g->vm->machine);
	uint8_t now;

	if (!p->patched)
		return;
	p->patched = 0;
	for (unsigned i = 0; i < g->points; i++) {
		if (g->point[i].patched && g->point[i].phys == p->phys)
			return;
	}
	if (!gmem_read(mem, gpa(p->phys), &now, 1) && now == INT3 &&
	    gmem_write(mem, gpa(p->phys), &p->saved, 1))
		log_warn("a breakpoint could not be taken out of the guest's memory");
}

static struct gdb_point *find_point(struct vm_gdb *g, enum gdb_break kind, uint64_t addr,
				    unsigned len)
{
	for (unsigned i = 0; i < g->points; i++) {
		struct gdb_point *p = &g->point[i];

		if (p->kind == kind && p->addr == addr && p->len == len)
			return p;
	}
	return NULL;
}

static int target_insert(void *opaque, unsigned cpu, enum gdb_break kind, uint64_t addr,
			 unsigned len)
{
	struct vm_gdb *g = opaque;
	struct gdb_point *p = find_point(g, kind, addr, len);
	unsigned own = 0;
	int rc = 0;

	if (p)
		return 0;
	if (kind >= GDB_WATCH_WRITE && (len & (len - 1) || len < 1 || len > 8 || addr % len))
		return -EINVAL;
	if (kind == GDB_WATCH_READ && g->vm->ops->break_max < ENGINE_MAX_BREAKS)
		return -EOPNOTSUPP; /* the debugger then makes do with one for reads and writes */
	for (unsigned i = 0; i < g->points; i++)
		own += !wants_int3(g, g->point[i].kind);
	if (g->points == ENGINE_MAX_BREAKS ||
	    (!wants_int3(g, kind) && own >= g->vm->ops->break_max))
		return -ENOSPC;
	p = &g->point[g->points];
	*p = (struct gdb_point){.kind = kind, .addr = addr, .len = len};
	if (wants_int3(g, kind))
		rc = patch(g, cpu, p);
	if (!rc)
		g->points++;
	return rc;
}

static int target_remove(void *opaque, unsigned cpu, enum gdb_break kind, uint64_t addr,
			 unsigned len)
{
	struct vm_gdb *g = opaque;
	struct gdb_point *p = find_point(g, kind, addr, len);

	if (!p)
		return -ENOENT;
	unpatch(g, p);
	*p = g->point[--g->points];
	return 0;
}

static void remove_all(struct vm_gdb *g)
{
	while (g->points) {
		unpatch(g, &g->point[g->points - 1]);
		g->points--;
	}
}

/* --- Running and stopping -------------------------------------------------------------------- */

static enum engine_break_kind engine_kind(const struct gdb_point *p)
{
	switch (p->kind) {
	case GDB_WATCH_WRITE: return ENGINE_BREAK_WRITE;
	case GDB_WATCH_READ: return ENGINE_BREAK_READ;
	case GDB_WATCH_ACCESS: return ENGINE_BREAK_ACCESS;
	default: return p->patched ? ENGINE_BREAK_INT3 : ENGINE_BREAK_EXEC;
	}
}

static void make_wish(const struct vm_gdb *g, _Bool step, struct engine_debug *wish)
{
	wish->step = step;
	wish->count = 0;
	for (unsigned i = 0; i < g->points; i++) {
		const struct gdb_point *p = &g->point[i];
		struct engine_break *b = &wish->at[wish->count++];

		*b = (struct engine_break){.addr = p->addr, .len = p->len, .kind = engine_kind(p)};
	}
}

static void tell(struct vm_gdb *g, unsigned cpu, unsigned signal, _Bool met)
{
	const struct vcpu *vcpu = machine_vcpu(g->vm->machine, cpu);
	struct gdb_session *session = gdb_server_session(g->server);
	struct gdb_stop stop = {.cpu = cpu, .signal = signal};

	for (unsigned i = 0; met && vcpu->stop.why != ENGINE_STOP_STEP && i < g->points; i++) {
		const struct gdb_point *p = &g->point[i];

		if (p->addr != vcpu->stop.at.addr || engine_kind(p) != vcpu->stop.at.kind)
			continue;
		stop.is_break = 1;
		stop.kind = p->kind;
		stop.addr = p->addr;
		break;
	}
	g->pending &= ~BIT64(cpu);
	if (session)
		gdb_session_stopped(session, &stop);
}

static void target_resume(void *opaque, const enum gdb_action *actions)
{
	struct vm_gdb *g = opaque;
	struct vm *vm = g->vm;
	struct engine_debug *wish = malloc(sizeof(*wish));
	uint64_t frozen = 0;
	int rc = wish ? 0 : -ENOMEM;

	if (g->pending) {
		free(wish);
		tell(g, (unsigned)__builtin_ctzll(g->pending), 5, 1);
		return;
	}
	for (unsigned i = 0; !rc && i < machine_cpus(vm->machine); i++) {
		g->action[i] = actions[i];
		if (actions[i] == GDB_STAY)
			frozen |= BIT64(i);
		make_wish(g, actions[i] == GDB_STEP, wish);
		rc = vm->ops->debug(machine_vcpu(vm->machine, i),
				    wish->step || wish->count ? wish : NULL);
	}
	free(wish);
	if (rc) {
		log_error("the engine cannot run under the debugger: %s", strerror(-rc));
		tell(g, 0, 6, 0);
		return;
	}
	g->cached = -1;
	vm->frozen = frozen;
	vm_release(vm, HOLD_GDB);
}

/* The debugger leaves: the VM goes on as if it had not been there. */
static void target_detach(void *opaque)
{
	struct vm_gdb *g = opaque;
	struct vm *vm = g->vm;

	vm_hold(vm, HOLD_GDB);
	remove_all(g);
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++)
		(void)vm->ops->debug(machine_vcpu(vm->machine, i), NULL);
	g->pending = 0;
	g->cached = -1;
	vm->frozen = 0;
	vm_release(vm, HOLD_GDB);
}

static void target_interrupt(void *opaque)
{
	struct vm_gdb *g = opaque;
	unsigned cpu = 0;

	vm_hold(g->vm, HOLD_GDB);
	while (cpu + 1 < machine_cpus(g->vm->machine) && g->action[cpu] == GDB_STAY)
		cpu++;
	tell(g, cpu, 2, 0);
}

static void target_kill(void *opaque)
{
	struct vm_gdb *g = opaque;

	vm_stop_now(g->vm, 0);
}

static void on_attached(void *opaque)
{
	struct vm_gdb *g = opaque;

	g->cached = -1;
	g->physical = 0;
	vm_hold(g->vm, HOLD_GDB);
	control_event(g->vm->control, "debugger", json_pack("{s:b}", "attached", 1));
}

static void on_lost(void *opaque)
{
	struct vm_gdb *g = opaque;

	target_detach(g);
	control_event(g->vm->control, "debugger", json_pack("{s:b}", "attached", 0));
}

void vm_gdb_met(struct vm *vm, uint64_t cpus)
{
	struct vm_gdb *g = vm->gdb;
	struct gdb_session *session = gdb_server_session(g->server);
	int first = -1;

	vm_hold(vm, HOLD_GDB);
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++) {
		if (!(cpus >> i & 1))
			continue;
		if (machine_vcpu(vm->machine, i)->stop.why == ENGINE_STOP_WATCH)
			g->pending |= BIT64(i);
		/* A step that ended is what the debugger waits for most. */
		if (first < 0 || g->action[i] == GDB_STEP)
			first = (int)i;
	}
	if (!session) {
		target_detach(g);
		return;
	}
	if (first >= 0 && gdb_session_running(session))
		tell(g, (unsigned)first, 5, 1);
	gdb_server_flush(g->server);
}

/* --- For the person -------------------------------------------------------------------------- */

static void say(struct wbuf *out, const char *fmt, ...) PRINTF(2, 3);
static void say(struct wbuf *out, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	wbuf_put(out, text, MIN((size_t)n, sizeof(text) - 1));
}

static void target_describe(void *opaque, unsigned cpu, struct wbuf *out)
{
	static const char *const activity[] = {"running", "halted", "waiting for SIPI",
					       "shut down"};
	struct vm_gdb *g = opaque;

	if (cpu_state(g, cpu))
		say(out, "CPU %u", cpu);
	else
		say(out, "CPU %u [%s]", cpu, activity[g->state.activity & 3]);
}

static void monitor_info(struct vm_gdb *g, struct wbuf *out)
{
	struct vm *vm = g->vm;

	say(out, "%s, engine %s, %u breakpoints\n", vm_state_name(vm->state), vm->ops->name,
	    g->points);
	for (unsigned i = 0; i < machine_cpus(vm->machine); i++) {
		const struct x86_state *s = &g->state;

		target_describe(g, i, out);
		if (g->cached == (int)i)
			say(out,
			    " rip=%#" PRIx64 " cs=%#x cpl=%u cr0=%#" PRIx64 " cr3=%#" PRIx64
			    " cr4=%#" PRIx64 " efer=%#" PRIx64,
			    s->rip, s->seg[X86_CS].selector, X86_SEG_DPL(s->seg[X86_SS].attr),
			    s->cr0, s->cr3, s->cr4, s->efer);
		say(out, "\n");
	}
}

static void monitor_translate(struct vm_gdb *g, unsigned cpu, const char *text, struct wbuf *out)
{
	_Bool physical = g->physical;
	uint64_t addr, phys;
	char *end;

	errno = 0;
	addr = strtoull(text, &end, 0);
	if (errno || end == text || *end) {
		say(out, "translate needs an address, as 0x1000\n");
		return;
	}
	g->physical = 0;
	if (translate(g, cpu, addr, &phys))
		say(out, "%#" PRIx64 " is not mapped\n", addr);
	else
		say(out, "%#" PRIx64 " is at physical %#" PRIx64 "\n", addr, phys);
	g->physical = physical;
}

static void target_monitor(void *opaque, unsigned cpu, const char *command, struct wbuf *out)
{
	struct vm_gdb *g = opaque;

	if (!strcmp(command, "info")) {
		monitor_info(g, out);
	} else if (!strcmp(command, "reset")) {
		vm_request(g->vm, REQ_RESET);
		g->cached = -1;
		say(out, "the machine is being reset\n");
	} else if (!strcmp(command, "memory physical") || !strcmp(command, "memory virtual")) {
		g->physical = command[7] == 'p';
		say(out, "addresses of memory are %s now\n", command + 7);
	} else if (!strncmp(command, "translate ", 10)) {
		monitor_translate(g, cpu, command + 10, out);
	} else {
		say(out,
		    "%s%s%s"
		    "info                     the CPUs\n"
		    "memory physical|virtual  what addresses of memory mean\n"
		    "translate ADDRESS        where a virtual address is\n"
		    "reset                    resets the machine\n",
		    strcmp(command, "help") ? "'" : "", strcmp(command, "help") ? command : "",
		    strcmp(command, "help") ? "' is no command here; there are:\n" : "");
	}
}

/* --- Life ------------------------------------------------------------------------------------ */

int vm_gdb_open(struct vm *vm, struct error *err)
{
	struct gdb_server_config cfg = {
	    .loop = vm->loop,
	    .where = vm->spec.gdb,
	    .attached = on_attached,
	    .lost = on_lost,
	};
	struct vm_gdb *g;
	int rc;

	if (!vm->spec.gdb)
		return 0;
	if (!vm->ops->debug)
		return error_set(err, -ENOTSUP, "--gdb: the engine %s cannot be debugged",
				 vm->ops->name);
	g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64));
	if (!g)
		return error_set(err, -ENOMEM, "out of memory");
	memset(g, 0, sizeof(*g));
	g->vm = vm;
	g->cached = -1;
	cfg.opaque = g;
	cfg.target = (struct gdb_target){
	    .cpus = machine_cpus(vm->machine),
	    .avx512 = !!(machine_engine(vm->machine)->env->cpuid->xcr0_allowed & X86_XCR0_AVX512),
	    .get = target_get,
	    .set = target_set,
	    .read = target_read,
	    .write = target_write,
	    .insert = target_insert,
	    .remove = target_remove,
	    .resume = target_resume,
	    .interrupt = target_interrupt,
	    .detach = target_detach,
	    .kill = target_kill,
	    .describe = target_describe,
	    .monitor = target_monitor,
	    .opaque = g,
	};
	rc = gdb_server_new(&g->server, &cfg, err);
	if (rc) {
		free(g);
		return rc;
	}
	vm->gdb = g;
	return 0;
}

void vm_gdb_changed(struct vm *vm)
{
	if (vm->gdb)
		vm->gdb->cached = -1;
}

void vm_gdb_ended(struct vm *vm, unsigned status)
{
	struct gdb_session *session = vm->gdb ? gdb_server_session(vm->gdb->server) : NULL;

	if (!session)
		return;
	gdb_session_ended(session, status);
	gdb_server_flush(vm->gdb->server);
}

void vm_gdb_close(struct vm *vm)
{
	if (!vm->gdb)
		return;
	gdb_server_free(vm->gdb->server);
	free(vm->gdb);
	vm->gdb = NULL;
}
