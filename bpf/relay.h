/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The LWF relay: frames of EtherType 0x4C57 go on by the hint of their destination, with new
 * Ethernet addresses and otherwise as they came.
 *
 * As in the gate, relay_check() only looks and relay_commit() follows it: a refused frame changes
 * nothing. The kernel never learns a way by itself. A RELAY_FORWARD frame, by which a source asks
 * to be found where it arrives, is passed up to the control plane; that verifies its signature
 * before it writes a route.
 */
#ifndef ASSENT_RELAY_H
#define ASSENT_RELAY_H

#include <linux/errno.h>

#include "account.h"
#include "assent/lwf.h"
#include "assent/rate.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct assent_lwf_hint);
	__type(value, struct assent_lwf_route);
} lwf_routes SEC(".maps");

/* Interfaces, by small numbers that routes name. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} lwf_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct assent_lwf_hint);
	__type(value, struct assent_lwf_source);
} lwf_sources SEC(".maps");

/* Fingerprints of frames that came by; the oldest make room. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u8);
} lwf_seen SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct assent_lwf_config);
} lwf_config SEC(".maps");

const enum assent_lwf_route_flag *assent_btf_lwf_route_flag __attribute__((unused));
const enum assent_lwf_flag *assent_btf_lwf_flag __attribute__((unused));
const enum assent_lwf_class *assent_btf_lwf_class __attribute__((unused));
const struct assent_lwf_header *assent_btf_lwf_header __attribute__((unused));

/* What the checks found; what a frame was refused before is NULL. */
struct relay_checked {
	const struct assent_lwf_config *config;
	struct assent_lwf_source *source;     /* of a RELAY_FORWARD frame */
	const struct assent_lwf_route *route; /* NULL where the frame is for any relay */
	__u64 fingerprint;
	__u64 now;
	int has_port;
	int seen;
};

static __always_inline int relay_is_local(const struct relay_checked *found)
{
	return !found->route || found->route->flags & ASSENT_LWF_ROUTE_LOCAL;
}

/* May its source register, and has it not done so too often? */
static __always_inline enum assent_reason relay_check_source(const struct assent_lwf_header *h,
							     struct relay_checked *found)
{
	found->source = bpf_map_lookup_elem(&lwf_sources, &h->source);
	if (!found->source)
		return ASSENT_DROP_LWF_UNAUTHORIZED;
	return assent_rate_check(&found->source->due, found->now, found->config->register_burst);
}

static __always_inline enum assent_reason relay_check_route(const struct assent_lwf_header *h,
							    struct relay_checked *found)
{
	__u32 port;

	if (assent_lwf_is_registration(h) && assent_lwf_is_nobody(&h->dest))
		return ASSENT_ADMITTED;
	found->route = bpf_map_lookup_elem(&lwf_routes, &h->dest);
	if (!found->route || (found->route->expires && found->route->expires <= found->now))
		return ASSENT_DROP_LWF_UNKNOWN_HINT;
	if (relay_is_local(found))
		return ASSENT_ADMITTED;
	if (!assent_lwf_is_relayable(h))
		return ASSENT_DROP_LWF_NOT_RELAYABLE;
	/* An interface that is gone has left its port empty. */
	port = found->route->port;
	found->has_port = bpf_map_lookup_elem(&lwf_ports, &port) != 0;
	return found->has_port ? ASSENT_ADMITTED : ASSENT_DROP_LWF_UNKNOWN_HINT;
}

/* `len` counts from the header's first byte; the caller has made sure that 88 bytes are there. */
static __always_inline enum assent_reason relay_check(const struct assent_lwf_header *h, __u32 len,
						      struct relay_checked *found)
{
	enum assent_reason reason = assent_lwf_check(h, len);
	__u32 only = 0;

	if (reason)
		return reason;
	found->config = bpf_map_lookup_elem(&lwf_config, &only);
	if (!found->config)
		return ASSENT_DROP_LWF_UNKNOWN_HINT;
	found->now = assent_now();
	if (assent_lwf_is_registration(h)) {
		reason = relay_check_source(h, found);
		if (reason)
			return reason;
	}
	reason = relay_check_route(h, found);
	if (reason)
		return reason;
	found->fingerprint = assent_lwf_fingerprint(&found->config->fingerprint, h);
	found->seen = bpf_map_lookup_elem(&lwf_seen, &found->fingerprint) != 0;
	return found->seen ? ASSENT_DROP_LWF_LOOP : ASSENT_ADMITTED;
}

/* A frame that another CPU marks at the same moment has been charged twice: it came twice. */
static __always_inline enum assent_reason relay_commit(const struct relay_checked *found)
{
	__u8 mark = 1;
	long err;

	if (found->source) {
		enum assent_reason reason = assent_rate_charge(&found->source->due, found->now,
							       found->config->register_interval,
							       found->config->register_burst);

		if (reason)
			return reason;
	}
	err = bpf_map_update_elem(&lwf_seen, &found->fingerprint, &mark, BPF_NOEXIST);
	if (!err)
		return ASSENT_ADMITTED;
	return err == -EEXIST ? ASSENT_DROP_LWF_LOOP : ASSENT_DROP_CONTENDED;
}

/* The Ethernet addresses, and nothing after them. */
static __always_inline void relay_address(struct ethhdr *eth, const struct assent_lwf_route *route)
{
	__builtin_memcpy(eth->h_dest, route->dst, ETH_ALEN);
	__builtin_memcpy(eth->h_source, route->src, ETH_ALEN);
}

/*
 * One arriving LWF frame, from its header's offset on to its action. A function of its own, which
 * shares no structure with its caller: frames of the fabric pay neither registers nor stack for it.
 */
static __attribute__((noinline)) int relay_run(struct xdp_md *ctx, __u32 offset)
{
	const struct gate_frame frame = {
	    .data = (void *)(long)ctx->data,
	    .data_end = (void *)(long)ctx->data_end,
	    .offset = offset,
	    .type = bpf_htons(ASSENT_LWF_ETHERTYPE),
	};
	const struct assent_lwf_header *h = frame.data + offset;
	struct assent_found nobody = {};
	struct relay_checked found = {};
	enum assent_reason reason = ASSENT_DROP_LWF_MALFORMED;

	if ((const void *)(h + 1) <= frame.data_end) {
		reason = relay_check(h, (__u32)(frame.data_end - (const void *)h), &found);
		if (!reason)
			reason = relay_commit(&found);
	}
	if (!reason && !relay_is_local(&found)) {
		relay_address(frame.data, found.route);
		reason = ASSENT_RELAYED;
	}
	gate_account(ctx, reason, &nobody);
	if (reason == ASSENT_RELAYED)
		return (int)bpf_redirect_map(&lwf_ports, found.route->port, XDP_DROP);
	return reason == ASSENT_ADMITTED ? XDP_PASS : XDP_DROP;
}

#endif /* ASSENT_RELAY_H */
