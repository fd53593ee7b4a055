/* spec_net.c: parsing of network cards and published ports. */
#include "proto/spec.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int parse_mac(const char *text, struct spec_net *net, struct error *err)
{
	unsigned b[6], used = 0;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		   &used) != 6 ||
	    text[used] || used != 17)
		return error_set(err, -EINVAL,
				 "'%s' is not a MAC address such as 52:54:00:12:34:56", text);
	if (b[0] & 1 || !(b[0] | b[1] | b[2] | b[3] | b[4] | b[5]))
		return error_set(err, -EINVAL,
				 "MAC address '%s' cannot be a card's: its first byte must be "
				 "even, and not all bytes zero",
				 text);
	for (unsigned i = 0; i < 6; i++)
		net->mac[i] = (uint8_t)b[i];
	net->has_mac = 1;
	return 0;
}

static int parse_name(const char *what, const char *text, struct spec_net *net, struct error *err)
{
	if (!text || !*text)
		return error_set(err, -EINVAL, "--net %s needs a name: %s=NAME", what, what);
	if (strlen(text) >= sizeof(net->name))
		return error_set(err, -EINVAL, "--net %s: the name '%s' is too long", what, text);
	memcpy(net->name, text, strlen(text) + 1);
	return 0;
}

static int parse_kind(const char *key, const char *value, struct spec_net *net, struct error *err)
{
	if (!strcmp(key, "tap")) {
		net->kind = SPEC_NET_TAP;
		return parse_name(key, value, net, err);
	}
	if (!strcmp(key, "switch")) {
		net->kind = SPEC_NET_SWITCH;
		return parse_name(key, value, net, err);
	}
	if (!strcmp(key, "vhost-user")) {
		net->kind = SPEC_NET_VHOST_USER;
		if (!value || !*value || strlen(value) >= sizeof(net->path))
			return error_set(err, -EINVAL,
					 "--net vhost-user=SOCKET: a path of 1 to %zu characters",
					 sizeof(net->path) - 1);
		memcpy(net->path, value, strlen(value) + 1);
		return 0;
	}
	if (!value && (!strcmp(key, "user") || !strcmp(key, "none"))) {
		net->kind = key[0] == 'u' ? SPEC_NET_USER : SPEC_NET_NONE;
		return 0;
	}
	return error_set(err, -EINVAL,
			 "--net '%s' is not one of user, tap=NAME, switch=NAME, vhost-user=SOCKET "
			 "or none",
			 key);
}

static int parse_restrict(const char *value, struct spec_net *net, struct error *err)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return error_set(err, -EINVAL, "--net restrict=%s: on or off", value);
	net->restricted = !strcmp(value, "on");
	return 0;
}

static int parse_vhost(const char *value, struct spec_net *net, struct error *err)
{
	static const char *const words[] = {"off", "on", "auto"};

	for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
		if (value && strcmp(value, words[i]))
			continue;
		net->vhost = value ? (enum spec_vhost)i : SPEC_VHOST_ON;
		return 0;
	}
	return error_set(err, -EINVAL, "--net vhost=%s: on, off or auto", value);
}

static const char *kind_word(const struct spec_net *net)
{
	switch (net->kind) {
	case SPEC_NET_USER: return "user";
	case SPEC_NET_TAP: return "tap";
	case SPEC_NET_VHOST_USER: return "vhost-user";
	default: return "switch";
	}
}

static const char *kind_options(const struct spec_net *net)
{
	switch (net->kind) {
	case SPEC_NET_USER: return "are restrict, mtu, mac and queues";
	case SPEC_NET_TAP: return "are vhost, mac and queues";
	default: return "are mac and queues";
	}
}

static int parse_option(const char *key, const char *value, struct spec_net *net, struct error *err)
{
	uint64_t n;
	int r;

	if (net->kind == SPEC_NET_NONE)
		return error_set(err, -EINVAL, "--net none takes no options");
	if (net->kind == SPEC_NET_TAP && !strcmp(key, "vhost"))
		return parse_vhost(value, net, err);
	if (!value)
		return error_set(err, -EINVAL, "--net option '%s' needs a value: %s=...", key, key);
	if (!strcmp(key, "mac"))
		return parse_mac(value, net, err);
	if (!strcmp(key, "queues")) {
		r = spec_parse_number("--net queues", value, 1, SPEC_MAX_NET_QUEUES, &n, err);
		net->queues = r ? net->queues : (unsigned)n;
		return r;
	}
	if (net->kind == SPEC_NET_USER && !strcmp(key, "restrict"))
		return parse_restrict(value, net, err);
	if (net->kind == SPEC_NET_USER && !strcmp(key, "mtu")) {
		r = spec_parse_number("--net mtu", value, 576, 65520, &n, err);
		net->mtu = r ? net->mtu : (unsigned)n;
		return r;
	}
	return error_set(err, -EINVAL, "--net %s has no option '%s'; there %s", kind_word(net), key,
			 kind_options(net));
}

int spec_parse_net(const char *text, struct spec_net *out, struct error *err)
{
	struct spec_net net = {.queues = 1};
	char copy[256], *save = NULL, *part;
	_Bool first = 1;

	if (strlen(text) >= sizeof(copy))
		return error_set(err, -EINVAL, "--net '%.40s...' is too long", text);
	memcpy(copy, text, strlen(text) + 1);
	for (part = strtok_r(copy, ",", &save); part; part = strtok_r(NULL, ",", &save)) {
		char *value = strchr(part, '=');
		int r;

		if (value)
			*value++ = 0;
		r = first ? parse_kind(part, value, &net, err)
			  : parse_option(part, value, &net, err);
		if (r)
			return r;
		first = 0;
	}
	if (first)
		return parse_kind(text, NULL, &net, err);
	*out = net;
	return 0;
}

static int parse_port(const char *text, const char *all, uint16_t *port, struct error *err)
{
	char *end;
	unsigned long v = isdigit((unsigned char)*text) ? strtoul(text, &end, 10) : 0;

	if (!v || v > 65535 || *end)
		return error_set(err, -EINVAL, "--publish '%s': '%s' is not a port from 1 to 65535",
				 all, text);
	*port = (uint16_t)v;
	return 0;
}

int spec_parse_publish(const char *text, struct spec_publish *out, struct error *err)
{
	struct spec_publish p = {.addr = INADDR_LOOPBACK};
	char copy[64], *guest, *host, *protocol;
	struct in_addr addr;
	int r;

	if (strlen(text) >= sizeof(copy))
		return error_set(err, -EINVAL, "--publish '%.40s...' is too long", text);
	memcpy(copy, text, strlen(text) + 1);
	protocol = strchr(copy, '/');
	if (protocol) {
		*protocol++ = 0;
		if (strcmp(protocol, "tcp") && strcmp(protocol, "udp"))
			return error_set(err, -EINVAL, "--publish '%s': '%s' is not tcp or udp",
					 text, protocol);
		p.udp = !strcmp(protocol, "udp");
	}
	guest = strrchr(copy, ':');
	if (!guest)
		return error_set(err, -EINVAL,
				 "--publish '%s' is not [ADDRESS:]HOSTPORT:GUESTPORT[/udp], for "
				 "example 2222:22",
				 text);
	*guest++ = 0;
	host = strrchr(copy, ':');
	if (host) {
		*host++ = 0;
		if (inet_pton(AF_INET, copy, &addr) != 1)
			return error_set(err, -EINVAL,
					 "--publish '%s': '%s' is not an IPv4 address of this host",
					 text, copy);
		p.addr = ntohl(addr.s_addr);
	}
	r = parse_port(host ? host : copy, text, &p.host_port, err);
	if (!r)
		r = parse_port(guest, text, &p.guest_port, err);
	if (!r)
		*out = p;
	return r;
}

int spec_check_nets(const struct vm_spec *spec, struct error *err)
{
	_Bool user = 0, none = 0;

	for (unsigned i = 0; i < spec->net_count; i++) {
		user |= spec->net[i].kind == SPEC_NET_USER;
		none |= spec->net[i].kind == SPEC_NET_NONE;
		if (spec->net[i].vhost != SPEC_VHOST_OFF && spec->net[i].queues > 1)
			return error_set(err, -EINVAL,
					 "--net tap: vhost goes with one queue pair; leave out "
					 "vhost or queues");
	}
	if (none && spec->net_count > 1)
		return error_set(err, -EINVAL, "--net none contradicts the other --net options");
	if (spec->publish_count && !user)
		return error_set(err, -EINVAL,
				 "--publish needs the user network: --net user (the default)");
	return 0;
}
