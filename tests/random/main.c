/* main.c: randinsn: runs random instruction sequences on the CPU and in the interpreter. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "randinsn.h"

struct run {
	struct ri_native *native;
	struct ri_guest *guest;
	_Bool shrink, verbose, translate, programs, avx512;
	unsigned differences, max_shown;
	const char *seeds_path;
	uint64_t lost;
};

/* Both sides of one case; true when they differ. */
static _Bool differs(struct run *r, const struct ri_case *c, struct ri_result *native,
		     struct ri_result *guest)
{
	char what[512];

	ri_native_start(r->native, c, 1);
	ri_guest_run(r->guest, c, guest);
	*native = *ri_native_wait(r->native);
	ri_compare(c, native, guest, what, sizeof(what));
	return what[0] != 0;
}

static void insn_remove(struct ri_case *c, unsigned n)
{
	memmove(&c->insn[n], &c->insn[n + 1], (c->count - n - 1) * sizeof(c->insn[0]));
	c->count--;
}

/* Tries a simpler case: keeps it when the difference is still there. */
static _Bool try_case(struct run *r, struct ri_case *c, const struct ri_case *simpler)
{
	struct ri_result a, b;

	if (memcmp(c, simpler, sizeof(*c)) == 0 || !differs(r, simpler, &a, &b))
		return 0;
	*c = *simpler;
	return 1;
}

static void shrink_instructions(struct run *r, struct ri_case *c)
{
	_Bool again = 1;

	while (again) {
		again = 0;
		for (unsigned i = c->count; i-- > 0;) {
			struct ri_case t = *c;

			if (c->count == 1)
				break;
			insn_remove(&t, i);
			again |= try_case(r, c, &t);
		}
	}
}

static void shrink_state(struct run *r, struct ri_case *c)
{
	struct ri_case t;

	for (unsigned i = 0; i < 16; i++) {
		t = *c;
		t.state.gpr[i] = 0;
		try_case(r, c, &t);
		t = *c;
		memset(t.state.vec[i], 0, 64);
		try_case(r, c, &t);
		t = *c;
		memset(t.state.vec[16 + i], 0, 64);
		try_case(r, c, &t);
	}
	t = *c;
	t.state.rflags = 0x202;
	try_case(r, c, &t);
	t = *c;
	memset(t.state.fx, 0, 24);
	memcpy(t.state.fx, "\x7f\x03", 2);
	try_case(r, c, &t);
	t = *c;
	memcpy(t.state.fx + 24, "\x80\x1f\0", 4);
	try_case(r, c, &t);
	t = *c;
	memset(t.state.fx + 32, 0, 128);
	try_case(r, c, &t);
	for (unsigned size = RI_PAGE; size >= 64; size /= 4) {
		for (unsigned at = 0; at < RI_PAGE; at += size) {
			t = *c;
			memset(t.data + at, 0, size);
			try_case(r, c, &t);
		}
	}
}

static void seed_keep(const struct run *r, uint64_t seed)
{
	FILE *f = r->seeds_path ? fopen(r->seeds_path, "a") : NULL;

	if (!f)
		return;
	fprintf(f, "%llu\n", (unsigned long long)seed);
	fclose(f);
}

static void report(struct run *r, const struct ri_case *found, const struct ri_result *native,
		   const struct ri_result *guest)
{
	struct ri_case c = *found;
	struct ri_result a, b;
	char what[512];

	_Bool again = differs(r, &c, &a, &b);

	/* The interpreter's answer stands, the host's has changed: a process can be starved, and a
	 * change of tasks loses the x87 pointers of masked exceptions. */
	ri_compare(&c, guest, &b, what, sizeof(what));
	if (!again && !what[0]) {
		fprintf(stderr, "randinsn: seed %llu differed once natively, and not again\n",
			(unsigned long long)c.seed);
		return;
	}
	r->differences++;
	seed_keep(r, c.seed);
	if (r->differences > r->max_shown)
		return;
	if (!again) {
		printf("differed once and not again: ");
		ri_show(found, native, guest);
		return;
	}
	if (r->shrink) {
		shrink_instructions(r, &c);
		shrink_state(r, &c);
		shrink_instructions(r, &c);
		differs(r, &c, &a, &b);
	}
	ri_show(&c, &a, &b);
	fflush(stdout);
}

static void run_batch(struct run *r, uint64_t seed, unsigned count)
{
	static struct ri_case cases[RI_BATCH];
	static struct ri_result guest[RI_BATCH], native[RI_BATCH];

	for (unsigned i = 0; i < count; i++)
		ri_generate(&cases[i], seed + i, r->programs, r->avx512);
	ri_native_start(r->native, cases, count);
	for (unsigned i = 0; i < count; i++)
		ri_guest_run(r->guest, &cases[i], &guest[i]);
	memcpy(native, ri_native_wait(r->native), count * sizeof(native[0]));
	for (unsigned i = 0; i < count; i++) {
		char what[512];

		ri_compare(&cases[i], &native[i], &guest[i], what, sizeof(what));
		r->lost += native[i].lost && guest[i].lost;
		if (what[0])
			report(r, &cases[i], &native[i], &guest[i]);
		else if (r->verbose)
			ri_show(&cases[i], &native[i], &guest[i]);
	}
}

static void usage(FILE *f)
{
	fprintf(f,
		"usage: randinsn [--seed N] [--count N] [--shrink] [--show N] [--plant NAME]\n"
		"                [--expect-difference] [--seeds FILE] [--replay FILE]\n\n"
		"Random instruction sequences, run by the host's CPU and by the interpreter, and\n"
		"compared bit for bit. A sequence is determined by its seed; --count N runs the\n"
		"seeds from --seed on. --shrink makes a failing sequence as short as it can.\n"
		"--seeds appends the seeds that failed to a file, --replay runs such a file.\n"
		"--translate takes the translator instead of the interpreter.\n"
		"--programs makes sequences that also loop, branch more, write into their own\n"
		"code and lie across pages.\n"
		"--avx512 makes mostly instructions of AVX-512; without it in the host, nothing.\n"
		"--verbose shows every sequence.\n\n"
		"Plants, bugs put into the interpreter on purpose:\n");
	ri_plant_list();
}

static uint64_t replay(struct run *r, const char *path)
{
	FILE *f = fopen(path, "r");
	unsigned long long seed;
	uint64_t n = 0;

	if (!f) {
		fprintf(stderr, "randinsn: cannot open %s\n", path);
		exit(2);
	}
	for (; fscanf(f, "%llu", &seed) == 1; n++)
		run_batch(r, seed, 1);
	fclose(f);
	return n;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", 1, NULL, 's'},
						{"count", 1, NULL, 'n'},
						{"shrink", 0, NULL, 'S'},
						{"plant", 1, NULL, 'p'},
						{"show", 1, NULL, 'm'},
						{"verbose", 0, NULL, 'v'},
						{"seeds", 1, NULL, 'f'},
						{"replay", 1, NULL, 'r'},
						{"translate", 0, NULL, 't'},
						{"programs", 0, NULL, 'P'},
						{"avx512", 0, NULL, 'w'},
						{"help", 0, NULL, 'h'},
						{"expect-difference", 0, NULL, 'x'},
						{NULL, 0, NULL, 0}};
	struct run r = {.max_shown = 5};
	uint64_t seed = 1, count = 100000, done = 0;
	const char *replay_path = NULL;
	_Bool expect = 0;

	for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (o) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'n': count = strtoull(optarg, NULL, 0); break;
		case 'S': r.shrink = 1; break;
		case 'm': r.max_shown = (unsigned)atoi(optarg); break;
		case 'v': r.verbose = 1; break;
		case 'f': r.seeds_path = optarg; break;
		case 'r': replay_path = optarg; break;
		case 'x': expect = 1; break;
		case 't': r.translate = 1; break;
		case 'P': r.programs = 1; break;
		case 'w': r.avx512 = 1; break;
		case 'p':
			if (ri_plant(optarg))
				break;
			fprintf(stderr, "randinsn: there is no plant '%s'\n", optarg);
			return 2;
		case 'h': usage(stdout); return 0;
		default: usage(stderr); return 2;
		}
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (r.avx512 && !ri_native_avx512()) {
		printf("skipped: this host has no AVX-512, or not with all lengths\n");
		return 77; /* meson: skipped */
	}
	if (ri_native_new(&r.native) < 0 || ri_guest_new(&r.guest, r.translate, r.avx512) < 0) {
		fprintf(stderr, "randinsn: cannot set up\n");
		return 2;
	}
	if (replay_path)
		done = replay(&r, replay_path);
	else
		for (; done < count && !(expect && r.differences); done += RI_BATCH)
			run_batch(&r, seed + done, (unsigned)MIN(count - done, RI_BATCH));
	ri_native_free(r.native);
	ri_guest_free(r.guest);
	if (r.lost)
		printf("%llu sequences ended on neither side\n", (unsigned long long)r.lost);
	printf("%llu sequences, %u differences\n",
	       (unsigned long long)(replay_path ? done : MIN(done, count)), r.differences);
	return expect ? !r.differences : r.differences != 0;
}
