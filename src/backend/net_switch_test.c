/* net_switch_test.c: ports of a switch, several in one process. */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "backend/net.h"
#include "base/accept_testing.h"
#include "base/unix_socket.h"

#define PORTS 3

struct vm {
	struct net *net;
	unsigned got, can_send;
	uint8_t last[NET_MAC_LEN * 2];
	_Bool full;
};

struct rig {
	char dir[64];
	struct loop *loop;
	struct vm vm[PORTS];
};

static _Bool on_receive(void *opaque, const uint8_t *frame, size_t len,
			const struct net_offload *off)
{
	struct vm *vm = opaque;

	if (vm->full)
		return 0;
	vm->got++;
	memcpy(vm->last, frame, sizeof(vm->last));
	return 1;
}

static void on_can_send(void *opaque)
{
	((struct vm *)opaque)->can_send++;
}

static void on_turn(struct loop_work *work)
{
	loop_stop(work->opaque, 7);
}

/* Lets the loop look at its descriptors and work a few times. */
static void turn(struct rig *r)
{
	struct loop_work work = {.fn = on_turn, .opaque = r->loop};

	for (unsigned i = 0; i < 8; i++) {
		loop_post(r->loop, &work);
		assert_int_equal(loop_run(r->loop), 7);
	}
}

static void rig_new(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	strcpy(r->dir, "/tmp/pvswitch.XXXXXX");
	assert_non_null(mkdtemp(r->dir));
	assert_int_equal(loop_new(&r->loop, NULL), 0);
	for (unsigned i = 0; i < PORTS; i++) {
		const struct net_client client = {
		    .receive = on_receive, .can_send = on_can_send, .opaque = &r->vm[i]};

		assert_int_equal(net_switch_new(&r->vm[i].net, r->loop, "lab", r->dir, NULL), 0);
		net_attach(r->vm[i].net, &client);
		turn(r);
	}
}

static void rig_free(struct rig *r)
{
	for (unsigned i = 0; i < PORTS; i++)
		net_free(r->vm[i].net);
	loop_free(r->loop);
	assert_int_equal(rmdir(r->dir), 0); /* nothing was left in it */
}

static _Bool frame_send(struct rig *r, unsigned from, unsigned to)
{
	static const struct net_offload none;
	uint8_t f[1000] = {0x52, 0, 0, 0, 0, (uint8_t)to, 0x52, 0, 0, 0, 0, (uint8_t)from};
	struct iovec iov = {f, sizeof(f)};

	if (to == 0xff)
		memset(f, 0xff, NET_MAC_LEN);
	return net_send(r->vm[from].net, &iov, 1, &none);
}

static void frames_go_to_all_until_an_address_is_known(void **state)
{
	struct rig r;

	rig_new(&r);
	assert_true(frame_send(&r, 0, 1));
	turn(&r);
	assert_true(r.vm[1].got == 1 && r.vm[2].got == 1 && r.vm[0].got == 0);
	assert_true(frame_send(&r, 1, 0)); /* 0 was learned from its frame */
	turn(&r);
	assert_true(r.vm[0].got == 1 && r.vm[2].got == 1);
	assert_true(frame_send(&r, 0, 1));
	turn(&r);
	assert_true(r.vm[1].got == 2 && r.vm[2].got == 1);
	assert_true(frame_send(&r, 2, 0xff));
	turn(&r);
	assert_true(r.vm[0].got == 2 && r.vm[1].got == 3);
	rig_free(&r);
}

static void a_port_that_leaves_and_comes_back_is_found_again(void **state)
{
	const struct net_client client = {.receive = on_receive};
	struct net_client mine = client;
	struct rig r;

	rig_new(&r);
	assert_true(frame_send(&r, 1, 0xff));
	turn(&r);
	net_free(r.vm[1].net);
	turn(&r);
	assert_true(frame_send(&r, 0, 1)); /* to nobody known: to all that are left */
	turn(&r);
	assert_int_equal(r.vm[2].got, 2);
	assert_int_equal(net_switch_new(&r.vm[1].net, r.loop, "lab", r.dir, NULL), 0);
	mine.opaque = &r.vm[1];
	net_attach(r.vm[1].net, &mine);
	turn(&r);
	assert_true(frame_send(&r, 0, 1));
	turn(&r);
	assert_int_equal(r.vm[1].got, 1);
	rig_free(&r);
}

static void a_slow_port_holds_up_who_sends_to_it_and_loses_nothing(void **state)
{
	unsigned sent = 0, before;
	struct rig r;

	rig_new(&r);
	net_switch_set_patience(r.vm[0].net, UINT64_C(1) << 60);
	assert_true(frame_send(&r, 1, 0xff));
	turn(&r);
	before = r.vm[1].got;
	r.vm[1].full = 1;
	while (sent < 100000 && frame_send(&r, 0, 1)) {
		sent++;
		if (sent % 100 == 0)
			turn(&r);
	}
	assert_true(sent > 10 && sent < 100000);
	turn(&r);
	assert_int_equal(r.vm[0].can_send, 0);
	r.vm[1].full = 0;
	net_kick(r.vm[1].net);
	for (unsigned i = 0; i < 1000 && r.vm[1].got < before + sent; i++)
		turn(&r);
	assert_int_equal(r.vm[1].got, before + sent);
	assert_true(r.vm[0].can_send > 0);
	assert_true(frame_send(&r, 0, 1));
	rig_free(&r);
}

static uint64_t lost(struct rig *r)
{
	struct net_counts counts;

	net_counts(r->vm[0].net, &counts);
	return counts.dropped;
}

/* Sends from 0 to 1, which takes nothing, until it has to wait; then until it need not any more. */
static void patience_end(struct rig *r)
{
	unsigned before = r->vm[0].can_send;

	while (frame_send(r, 0, 1))
		turn(r);
	while (r->vm[0].can_send == before)
		turn(r);
}

static void a_port_that_takes_nothing_does_not_cut_off_the_others(void **state)
{
	unsigned got;
	struct rig r;

	rig_new(&r);
	net_switch_set_patience(r.vm[0].net, 1);
	assert_true(frame_send(&r, 1, 0xff) && frame_send(&r, 2, 0xff));
	turn(&r);
	r.vm[1].full = 1;
	patience_end(&r);
	assert_int_equal(lost(&r), 0); /* that one was to be sent again */
	got = r.vm[2].got;
	for (unsigned i = 1; i <= 100; i++) {
		assert_true(frame_send(&r, 0, 1));
		assert_true(frame_send(&r, 0, 2));
		turn(&r);
		assert_int_equal(lost(&r), i);
		assert_int_equal(r.vm[2].got, got + i);
	}
	/* Who takes frames again is waited for again. */
	r.vm[1].full = 0;
	net_kick(r.vm[1].net);
	got = r.vm[1].got;
	while (r.vm[1].got == got)
		turn(&r);
	turn(&r);
	assert_true(frame_send(&r, 0, 1));
	turn(&r);
	r.vm[1].full = 1;
	patience_end(&r);
	assert_int_equal(lost(&r), 100);
	rig_free(&r);
}

static void a_socket_that_nobody_listens_at_is_swept_away(void **state)
{
	struct error err;
	struct rig r;
	char path[128], stale[128];
	struct dirent *de;
	DIR *d;

	rig_new(&r);
	/* As after a crash: a port's socket stays behind. */
	d = opendir(r.dir);
	assert_non_null(d);
	path[0] = 0;
	while ((de = readdir(d)))
		if (strstr(de->d_name, ".port"))
			snprintf(path, sizeof(path), "%s/%.40s", r.dir, de->d_name);
	closedir(d);
	snprintf(stale, sizeof(stale), "%s/1-1.port", r.dir);
	assert_int_equal(link(path, stale), 0);
	for (unsigned i = 0; i < PORTS; i++) {
		net_free(r.vm[i].net);
		r.vm[i].net = NULL;
	}
	assert_int_equal(access(stale, F_OK), 0);
	assert_int_equal(net_switch_new(&r.vm[0].net, r.loop, "lab", r.dir, &err), 0);
	assert_int_not_equal(access(stale, F_OK), 0);
	rig_free(&r);
}

static void names_and_directories_that_do_not_fit_are_refused(void **state)
{
	static const char *const bad[] = {
	    "", ".", "../x", "a/b", "a b", "a-name-of-more-than-thirty-two-characters"};
	struct error err;
	struct rig r;
	struct net *net;

	rig_new(&r);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(net_switch_new(&net, r.loop, bad[i], r.dir, &err), -EINVAL);
	assert_int_equal(chmod(r.dir, 0777), 0);
	assert_int_equal(net_switch_new(&net, r.loop, "lab", r.dir, &err), -EPERM);
	assert_non_null(strstr(err.text, "alone"));
	rig_free(&r);
}

static void a_newcomer_waits_while_there_is_no_descriptor(void **state)
{
	struct rig r;
	uint64_t begin = host_time_ms();

	accepts_denied = 1; /* when the second port comes to the first */
	rig_new(&r);
	while (!r.vm[0].got) {
		assert_true(frame_send(&r, 1, 0xff));
		turn(&r);
	}
	assert_int_equal(accepts_denied, 0);
	assert_true(host_time_ms() - begin >= UNIX_ACCEPT_REST_MS - 1);
	rig_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(frames_go_to_all_until_an_address_is_known),
	    cmocka_unit_test(a_port_that_leaves_and_comes_back_is_found_again),
	    cmocka_unit_test(a_slow_port_holds_up_who_sends_to_it_and_loses_nothing),
	    cmocka_unit_test(a_port_that_takes_nothing_does_not_cut_off_the_others),
	    cmocka_unit_test(a_socket_that_nobody_listens_at_is_swept_away),
	    cmocka_unit_test(names_and_directories_that_do_not_fit_are_refused),
	    cmocka_unit_test(a_newcomer_waits_while_there_is_no_descriptor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
