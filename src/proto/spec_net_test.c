/* spec_net_test.c: parsing of network cards and published ports. */
#include "proto/spec.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static void reads_every_kind_of_card(void **state)
{
	const uint8_t mac[6] = {0x52, 0x54, 0, 0xab, 0xcd, 0xef};
	struct spec_net n;

	assert_int_equal(spec_parse_net("user", &n, NULL), 0);
	assert_int_equal(n.kind, SPEC_NET_USER);
	assert_int_equal(n.queues, 1);
	assert_false(n.restricted || n.has_mac || n.mtu);
	assert_int_equal(
	    spec_parse_net("user,restrict=on,mtu=9000,mac=52:54:00:AB:cd:ef", &n, NULL), 0);
	assert_true(n.restricted && n.has_mac);
	assert_int_equal(n.mtu, 9000);
	assert_memory_equal(n.mac, mac, 6);
	assert_int_equal(spec_parse_net("tap=tap0,queues=4", &n, NULL), 0);
	assert_int_equal(n.kind, SPEC_NET_TAP);
	assert_string_equal(n.name, "tap0");
	assert_int_equal(n.queues, 4);
	assert_int_equal(n.vhost, SPEC_VHOST_OFF);
	assert_int_equal(spec_parse_net("tap=tap0,vhost", &n, NULL), 0);
	assert_int_equal(n.vhost, SPEC_VHOST_ON);
	assert_int_equal(spec_parse_net("tap=tap0,vhost=auto", &n, NULL), 0);
	assert_int_equal(n.vhost, SPEC_VHOST_AUTO);
	assert_int_equal(spec_parse_net("tap=tap0,vhost=off", &n, NULL), 0);
	assert_int_equal(n.vhost, SPEC_VHOST_OFF);
	assert_int_equal(spec_parse_net("vhost-user=/run/net.sock,queues=2", &n, NULL), 0);
	assert_int_equal(n.kind, SPEC_NET_VHOST_USER);
	assert_string_equal(n.path, "/run/net.sock");
	assert_int_equal(spec_parse_net("switch=lab", &n, NULL), 0);
	assert_int_equal(n.kind, SPEC_NET_SWITCH);
	assert_int_equal(spec_parse_net("none", &n, NULL), 0);
	assert_int_equal(n.kind, SPEC_NET_NONE);
}

static void refuses_what_is_no_card_with_a_sentence(void **state)
{
	static const char *const bad[] = {
	    "",
	    ",",
	    "bridge",
	    "user=x",
	    "tap",
	    "tap=",
	    "switch=",
	    "none,mac=52:54:00:12:34:56",
	    "user,restrict",
	    "user,restrict=yes",
	    "user,mac=52:54:00:12:34",
	    "user,mac=52:54:00:12:34:5g",
	    "user,mac=53:54:00:12:34:56",
	    "user,mac=00:00:00:00:00:00",
	    "user,mac=52:54:00:12:34:56:78",
	    "user,queues=0",
	    "user,queues=9",
	    "tap=a,restrict=on",
	    "tap=a,vhost=maybe",
	    "user,vhost=on",
	    "vhost-user",
	    "vhost-user=",
	    "vhost-user=a,mtu=1500",
	    "user,mtu=100",
	    "user,colour=red",
	    "tap=a-name-that-is-far-too-long-for-any-interface-of-a-host",
	};
	struct spec_net n = {.queues = 77};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = {0};

		assert_int_equal(spec_parse_net(bad[i], &n, &err), -EINVAL);
		assert_true(err.text[0]);
		assert_int_equal(n.queues, 77);
	}
}

static void reads_published_ports(void **state)
{
	struct spec_publish p;

	assert_int_equal(spec_parse_publish("2222:22", &p, NULL), 0);
	assert_true(p.addr == 0x7f000001 && p.host_port == 2222 && p.guest_port == 22 && !p.udp);
	assert_int_equal(spec_parse_publish("0.0.0.0:53:5353/udp", &p, NULL), 0);
	assert_true(p.addr == 0 && p.host_port == 53 && p.guest_port == 5353 && p.udp);
	assert_int_equal(spec_parse_publish("8080:80/tcp", &p, NULL), 0);
	assert_false(p.udp);
}

static void refuses_what_is_no_port(void **state)
{
	static const char *const bad[] = {"",	    "22",	 ":",	    "a:22", "22:b",
					  "0:22",   "22:65536",	 "-1:22",   "1:2/", "1:2/sctp",
					  "h:1:2",  "1.2.3:1:2", "1:2:3:4", ":1:2", "22:22x",
					  " 22:22", "1:"};
	struct spec_publish p = {.host_port = 7};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = {0};

		assert_int_equal(spec_parse_publish(bad[i], &p, &err), -EINVAL);
		assert_true(err.text[0]);
		assert_int_equal(p.host_port, 7);
	}
}

static void none_and_publish_need_a_fitting_list(void **state)
{
	struct vm_spec spec;

	spec_init(&spec);
	spec.net_count = 1;
	spec.net[0].kind = SPEC_NET_TAP;
	assert_int_equal(spec_check_nets(&spec, NULL), 0);
	spec.net[0].vhost = SPEC_VHOST_AUTO;
	spec.net[0].queues = 2;
	assert_int_equal(spec_check_nets(&spec, NULL), -EINVAL);
	spec.net[0].queues = 1;
	assert_int_equal(spec_check_nets(&spec, NULL), 0);
	spec.publish_count = 1;
	assert_int_equal(spec_check_nets(&spec, NULL), -EINVAL);
	spec.net[1].kind = SPEC_NET_USER;
	spec.net_count = 2;
	assert_int_equal(spec_check_nets(&spec, NULL), 0);
	spec.net[0].kind = SPEC_NET_NONE;
	assert_int_equal(spec_check_nets(&spec, NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reads_every_kind_of_card),
	    cmocka_unit_test(refuses_what_is_no_card_with_a_sentence),
	    cmocka_unit_test(reads_published_ports),
	    cmocka_unit_test(refuses_what_is_no_port),
	    cmocka_unit_test(none_and_publish_need_a_fitting_list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
