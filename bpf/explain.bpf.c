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
	EXPLAIN_SESSIONS = 0x2,
	EXPLAIN_FLOWS = 0x4,
	EXPLAIN_REPLAY = 0x8,
	EXPLAIN_CONFIG = 0x10,
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
	__u32 consulted; /* enum explain_table: entries that were found */
	__u32 session_id;
	__u32 session_flags;
	__u32 local_index;
	__u32 flow_slot;
	__u32 replay_chunk;
	__u32 rx_highest;
	__u32 rx_open;
	__u32 handshake;
	__u64 replay_word;
	__u64 rx_granted;
	__u64 rx_spent;
	__u64 cost; /* blocks */
	__s64 skew; /* ns that the frame's timestamp is ahead of the sender's clock */
	__u64 skew_limit;
	__u64 due; /* of the rate limit that applies, ns from now; 0 = now or past */
	__u64 newest;
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

	if (!flow)
		return;
	out->consulted |= EXPLAIN_FLOWS;
	out->flow_slot = session->flow_base + number;
	out->rx_highest = ASSENT_READ_ONCE(flow->rx_highest);
	out->rx_open = ASSENT_READ_ONCE(flow->rx_open);
	out->rx_granted = ASSENT_READ_ONCE(flow->rx_granted);
	out->rx_spent = ASSENT_READ_ONCE(flow->rx_spent);
	out->cost = found->cost;
	if (found->now)
		out->skew =
		    (__s64)(assent_be64(h->timestamp) - found->now - (__u64)session->clock_offset);
	if (number == 0)
		out->due = explain_ahead(ASSENT_READ_ONCE(session->control_due), found->now);
	if (!found->chunk)
		return;
	out->consulted |= EXPLAIN_REPLAY;
	out->replay_chunk = assent_replay_chunk_index(flow, assent_be32(h->seq));
	out->replay_word = found->word;
}

static __always_inline void explain_found(struct explanation *out, const struct assent_header *h,
					  const struct assent_checked *found)
{
	const struct assent_session *session = found->session;

	if (!found->local)
		return;
	out->consulted |= EXPLAIN_LOCALS;
	out->local_index = found->local->index;
	if (!session)
		return;
	out->consulted |= EXPLAIN_SESSIONS;
	out->session_id = session->session_id;
	out->session_flags = session->flags;
	out->skew_limit = session->skew_limit;
	out->handshake = (__u32)found->handshake;
	if (found->handshake) {
		out->newest = found->newest;
		out->due = explain_ahead(ASSENT_READ_ONCE(session->handshake_due), assent_now());
	}
	explain_flow(out, h, found);
}

static __always_inline void explain_frame(struct explanation *out, const void *data,
					  const void *data_end)
{
	const struct ethhdr *eth = data;
	const struct assent_header *h = data + ASSENT_ETH_LEN;
	struct assent_checked found;
	enum assent_reason reason;

	out->answer = EXPLAIN_NOT_FABRIC;
	if ((const void *)(eth + 1) > data_end || eth->h_proto != bpf_htons(ASSENT_ETHERTYPE))
		return;
	out->answer = EXPLAIN_DECIDED;
	out->reason = ASSENT_DROP_MALFORMED_LENGTH;
	if (out->frame_len < ASSENT_ETH_LEN + ASSENT_HEADER_LEN)
		return;
	if ((const void *)(h + 1) > data_end) {
		out->answer = EXPLAIN_TRUNCATED;
		return;
	}
	reason = assent_check(h, out->frame_len - ASSENT_ETH_LEN, &found);
	explain_found(out, h, &found);
	if (!reason) {
		if (found.handshake || assent_be16(h->flow) == 0)
			out->consulted |= EXPLAIN_CONFIG;
		reason = assent_afford(h, &found);
	}
	out->reason = reason;
}

SEC("xdp")
int explain(struct xdp_md *ctx)
{
	__u32 only = 0;
	struct explanation *out = bpf_map_lookup_elem(&explanations, &only);

	if (out)
		explain_frame(out, (void *)(long)ctx->data, (void *)(long)ctx->data_end);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
