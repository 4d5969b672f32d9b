// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * What the gate would decide, without its consequences. Never attached: assent.dataplane.explain
 * runs it on one frame at a time (BPF_PROG_TEST_RUN), on the maps of the gate that is at work.
 *
 * The frame given is the beginning of the one in question, as captures keep it; how long that was
 * is in `explanations`, where the answer goes too. Nothing else is written.
 */
#include "gate.h"

/* In the order in which a verdict looks; one bit each in `consulted`. */
enum explain_table {
	EXPLAIN_LOCALS = 0x1,
	EXPLAIN_BLOOM = 0x2,
	EXPLAIN_SESSIONS = 0x4,
	EXPLAIN_FLOWS = 0x8,
	EXPLAIN_REPLAY = 0x10,
	EXPLAIN_CONFIG = 0x20,
	EXPLAIN_LWF_SOURCES = 0x40,
	EXPLAIN_LWF_ROUTES = 0x80,
	EXPLAIN_LWF_PORTS = 0x100,
	EXPLAIN_LWF_SEEN = 0x200,
	EXPLAIN_LEASE = 0x400, /* in `config` */
};

enum explain_answer {
	EXPLAIN_NOT_FABRIC = 0,
	EXPLAIN_TRUNCATED = 1, /* the frame went on, but what was given ends before its header */
	EXPLAIN_DECIDED = 2,
};

struct explanation {
	__u32 frame_len; /* in: bytes of the whole frame, Ethernet header included */
	__u32 answer;    /* enum explain_answer; the rest holds where it is DECIDED */
	__u32 reason;
	__u32 observed;  /* why it would be refused, were its session not observed */
	__u32 offset;    /* of the header */
	__u32 consulted; /* enum explain_table: entries that were found */
	__u32 session_id;
	__u32 session_flags;
	__u32 payload_max;
	__u32 flow_slot;
	__u32 replay_chunk;
	__u32 rx_highest;
	__u32 rx_open;
	__u32 handshake;
	__u64 replay_word;
	__u64 rx_granted;
	__u64 rx_spent;
	__u64 cost;       /* blocks */
	__s64 skew;       /* ns that the frame's timestamp is ahead of the sender's clock */
	__u64 skew_limit; /* ns */
	__u64 due;        /* of the rate limit that applies, ns from now; 0 = now or past */
	__u64 newest;
	/* of data that is held to the terms of a covenant */
	__u64 data_ahead; /* ns that the sender runs ahead of its rate */
	__u64 opens_in;   /* ns until its data is let in; 0 = now or past */
	__u64 closes_in;  /* ns until it no longer is; 0 = now or past */
	__u64 lease_left; /* ns; 0 = nothing */
	__u32 has_rate;
	__u32 has_end;
	__u32 payload_limit;
	__u32 terms_reserved;
	/* of an LWF frame */
	__u64 route_left; /* ns until the route expires; 0 = it never does, or has */
	__u32 route_port;
	__u8 next_hop[6];
	__u8 route_local;
	__u8 route_expired;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct explanation);
} explanations SEC(".maps");

const enum explain_table *explain_btf_table __attribute__((unused));
const enum explain_answer *explain_btf_answer __attribute__((unused));

static __always_inline __u64 explain_ahead(__u64 due, __u64 now)
{
	return due > now ? due - now : 0;
}

static __always_inline void explain_flow(struct explanation *out, const struct assent_header *h,
					 const struct assent_checked *found)
{
	const struct assent_session *session = found->session;
	const struct assent_flow *flow = found->flow;
	__u32 number = assent_be16(h->flow);

	out->cost = found->cost;
	if (found->now)
		out->skew =
		    (__s64)(assent_be64(h->timestamp) - found->now - (__u64)session->clock_offset);
	if (!flow)
		return;
	out->consulted |= EXPLAIN_FLOWS;
	out->flow_slot = session->flow_base + number;
	out->rx_highest = ASSENT_READ_ONCE(flow->rx_highest);
	out->rx_open = ASSENT_READ_ONCE(flow->rx_open);
	out->rx_granted = ASSENT_READ_ONCE(flow->rx_granted);
	out->rx_spent = ASSENT_READ_ONCE(flow->rx_spent);
	if (number == 0)
		out->due = explain_ahead(ASSENT_READ_ONCE(session->control_due), found->now);
	else if (assent_is_lamp(h))
		out->due = explain_ahead(ASSENT_READ_ONCE(session->lamp_due), found->now);
	if (!found->chunk)
		return;
	out->consulted |= EXPLAIN_REPLAY;
	out->replay_chunk = assent_replay_chunk_index(flow, assent_be32(h->seq));
	out->replay_word = found->word;
}

static __always_inline void explain_found(struct explanation *out,
					  const struct assent_checked *found)
{
	const struct assent_session *session = found->session;

	out->observed = found->note->observed;
	if (found->local)
		out->consulted |= EXPLAIN_LOCALS;
	if (found->passed)
		out->consulted |= EXPLAIN_BLOOM;
	if (!session)
		return;
	out->consulted |= EXPLAIN_SESSIONS;
	out->session_id = session->session_id;
	out->session_flags = session->flags;
	out->payload_max = session->payload_max;
	out->skew_limit = (__u64)session->skew_limit * 1000000;
	out->handshake = (__u32)found->handshake;
	if (found->handshake) {
		out->newest = found->newest;
		out->due = explain_ahead(ASSENT_READ_ONCE(session->handshake_due), assent_now());
	}
}

/* What consent comes down to once it is given, as far as the checks of that got. */
static __always_inline void explain_terms(struct explanation *out,
					  const struct assent_checked *found)
{
	const struct assent_session *session = found->session;
	__u64 now = assent_now();

	if (out->reason == ASSENT_DROP_NO_COVENANT || out->reason == ASSENT_DROP_QUARANTINED)
		return;
	if (session->flags & ASSENT_SESSION_TERMS) {
		out->has_rate = session->data_interval != 0;
		out->data_ahead = explain_ahead(ASSENT_READ_ONCE(session->data_due), now);
		out->opens_in = explain_ahead(session->open_from, now);
		out->closes_in = explain_ahead(session->open_until, now);
		out->has_end = session->open_until != 0;
		out->payload_limit = session->payload_limit;
	}
	if (!(session->flags & ASSENT_SESSION_LEASED) || !found->config ||
	    out->reason == ASSENT_DROP_OUTSIDE_WINDOW)
		return;
	out->consulted |= EXPLAIN_LEASE;
	out->lease_left = explain_ahead(found->config->lease_until, now);
}

static __always_inline void explain_block(struct explanation *out, const struct assent_header *h,
					  __u32 len)
{
	struct assent_checked found;
	struct assent_found note = {};
	enum assent_reason reason = assent_check(h, len, &found, &note);

	if (!reason) {
		if (found.handshake || assent_be16(h->flow) == 0 || assent_is_lamp(h))
			out->consulted |= EXPLAIN_CONFIG;
		reason = assent_afford(h, &found);
	}
	out->reason = reason;
	explain_found(out, &found);
	if (!found.session || found.handshake)
		return;
	explain_flow(out, h, &found);
	if (h->flow)
		explain_terms(out, &found);
}

static __always_inline void explain_bare(struct explanation *out, const struct assent_bare *bare,
					 __u32 len)
{
	struct assent_checked found;
	struct assent_found note = {};
	enum assent_reason reason = assent_check_bare(bare, len, &found, &note);

	if (!reason && found.session && found.config) {
		out->consulted |= EXPLAIN_CONFIG;
		out->due = explain_ahead(ASSENT_READ_ONCE(found.session->bare_due), found.now);
		reason = assent_rate_check(&found.session->bare_due, found.now,
					   found.config->control_burst);
		reason = assent_policy(reason, found.session, &note);
	}
	out->reason = reason;
	explain_found(out, &found);
	if (found.session)
		explain_terms(out, &found);
}

static __always_inline void explain_route(struct explanation *out,
					  const struct relay_checked *found)
{
	const struct assent_lwf_route *route = found->route;

	out->consulted |= EXPLAIN_LWF_ROUTES;
	out->route_local = relay_is_local(found);
	out->route_port = route->port;
	out->route_left = explain_ahead(route->expires, found->now);
	out->route_expired = route->expires && route->expires <= found->now;
	__builtin_memcpy(out->next_hop, route->dst, sizeof(out->next_hop));
	if (found->has_port)
		out->consulted |= EXPLAIN_LWF_PORTS;
}

/* As relay_run() begins. A function of its own, for there it is one too. */
static __attribute__((noinline)) int explain_lwf(struct xdp_md *ctx, struct explanation *out)
{
	const struct assent_lwf_header *h;
	struct relay_checked found = {};

	if (!out)
		return 0;
	out->reason = ASSENT_DROP_LWF_MALFORMED;
	if (out->frame_len < out->offset + ASSENT_LWF_HEADER_LEN)
		return 0;
	h = (void *)(long)ctx->data + (out->offset & 0x1f);
	if ((const void *)(h + 1) > (void *)(long)ctx->data_end) {
		out->answer = EXPLAIN_TRUNCATED;
		return 0;
	}
	out->reason = relay_check(h, out->frame_len - out->offset, &found);
	if (found.source) {
		out->consulted |= EXPLAIN_LWF_SOURCES;
		out->due = explain_ahead(ASSENT_READ_ONCE(found.source->due), found.now);
	}
	if (found.route)
		explain_route(out, &found);
	if (found.seen)
		out->consulted |= EXPLAIN_LWF_SEEN;
	if (!out->reason && !relay_is_local(&found))
		out->reason = ASSENT_RELAYED;
	return 0;
}

static __always_inline void explain_frame(struct explanation *out, struct xdp_md *ctx)
{
	const struct assent_header *h;
	const struct assent_bare *bare;
	struct gate_frame frame;
	__u32 len;

	out->answer = EXPLAIN_DECIDED;
	out->reason = gate_open(ctx, &frame);
	out->offset = frame.offset;
	if (out->reason)
		return;
	if (frame.type == bpf_htons(ASSENT_LWF_ETHERTYPE)) {
		explain_lwf(ctx, out);
		return;
	}
	if (frame.type != bpf_htons(ASSENT_ETHERTYPE)) {
		out->answer = EXPLAIN_NOT_FABRIC;
		return;
	}
	out->reason = ASSENT_DROP_MALFORMED_LENGTH;
	bare = frame.data + frame.offset;
	h = frame.data + frame.offset;
	len = out->frame_len - frame.offset;
	if (out->frame_len < frame.offset + ASSENT_BARE_LEN)
		return;
	if ((const void *)(bare + 1) > frame.data_end) {
		out->answer = EXPLAIN_TRUNCATED;
		return;
	}
	if (!(bare->flags & assent_be16(ASSENT_FLAG_BLOCK))) {
		explain_bare(out, bare, len);
		return;
	}
	if (len < ASSENT_HEADER_LEN)
		return;
	if ((const void *)(h + 1) > frame.data_end) {
		out->answer = EXPLAIN_TRUNCATED;
		return;
	}
	explain_block(out, h, len);
}

SEC("xdp")
int explain(struct xdp_md *ctx)
{
	__u32 only = 0;
	struct explanation *out = bpf_map_lookup_elem(&explanations, &only);

	if (out)
		explain_frame(out, ctx);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
