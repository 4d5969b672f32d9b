// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The gate for frames that leave through the kernel's stack: attached to clsact, on the maps of the
 * gate that is at work. What AF_XDP sends does not pass here; the endpoint library holds itself to
 * the same books.
 *
 * Only frames of ours are looked at past their Ethernet header and VLAN tags, and only those are
 * written to. Others go to the next filter, if there is one, as if this one were not there.
 */
#define GATE_DIRECTION ASSENT_LEAVING
#define GATE_CONTEXT struct __sk_buff
#include "account.h"

#include <linux/pkt_cls.h>

#include "assent/departure.h"

/* As far as a verdict reads: a header under as many VLAN tags as are looked under. */
#define EGRESS_HEAD_LEN (ASSENT_ETH_LEN + ASSENT_VLAN_LEN * GATE_VLAN_DEPTH + ASSENT_HEADER_LEN)

static __always_inline __u64 assent_wall_clock(void)
{
	return bpf_ktime_get_tai_ns();
}

static __always_inline __u32 gate_length(const struct __sk_buff *ctx)
{
	return ctx->len;
}

static __always_inline __u32 gate_ifindex(const struct __sk_buff *ctx)
{
	return ctx->ifindex;
}

static __always_inline long gate_load(struct __sk_buff *ctx, void *to, __u32 len)
{
	return bpf_skb_load_bytes(ctx, 0, to, len);
}

static __always_inline void egress_span(struct __sk_buff *ctx, struct gate_frame *frame)
{
	frame->data = (void *)(long)ctx->data;
	frame->data_end = (void *)(long)ctx->data_end;
}

/* Has the head in one piece, and nobody else's. Where memory is short it stays as it is, and what
 * cannot be read is refused. */
static __always_inline void egress_pull(struct __sk_buff *ctx, struct gate_frame *frame)
{
	__u32 len = ctx->len;

	bpf_skb_pull_data(ctx, len < EGRESS_HEAD_LEN ? len : EGRESS_HEAD_LEN);
	egress_span(ctx, frame);
}

/* The type after the Ethernet header; 0 where that is not to be had. */
static __always_inline __be16 egress_type(const struct gate_frame *frame)
{
	const struct ethhdr *eth = frame->data;

	return (void *)(eth + 1) > frame->data_end ? 0 : eth->h_proto;
}

/* Is it certainly not ours? Then nothing of it is touched. */
static __always_inline int egress_is_foreign(struct __sk_buff *ctx, struct gate_frame *frame)
{
	__be16 type;

	egress_span(ctx, frame);
	type = egress_type(frame);
	if (assent_unlikely(!type)) {
		egress_pull(ctx, frame);
		type = egress_type(frame);
	}
	return type != bpf_htons(ASSENT_ETHERTYPE) && !gate_is_vlan(type);
}

/*
 * Finds out what a frame is. A VLAN tag may stand in the frame, or beside it where the driver is to
 * put it in.
 */
static __always_inline enum assent_reason gate_open(struct __sk_buff *ctx, struct gate_frame *frame)
{
	enum assent_reason reason;
	__u32 beside = ctx->vlan_present;

	egress_pull(ctx, frame);
	reason = gate_identify(frame);
	if (frame->type == bpf_htons(ASSENT_LWF_ETHERTYPE))
		return ASSENT_ADMITTED; /* stacked or not, it is the relay's affair */
	if (reason || !beside || frame->type != bpf_htons(ASSENT_ETHERTYPE))
		return reason;
	if (frame->offset != ASSENT_ETH_LEN || ctx->vlan_proto != bpf_htons(ASSENT_VLAN_ETHERTYPE))
		return ASSENT_DROP_STACKED_VLAN;
	return ASSENT_ADMITTED;
}

static __always_inline void egress_note(struct assent_found *found,
					const struct assent_departing *departing)
{
	found->observed = departing->note.observed;
	if (departing->session)
		found->session = departing->session;
}

/* The frame's head may not be read through `frame` any more once it has been stamped. */
static __always_inline enum assent_reason
egress_stamp(struct __sk_buff *ctx, struct gate_frame *frame, const struct assent_header *stamped)
{
	long failed =
	    bpf_skb_store_bytes(ctx, frame->offset + ASSENT_STAMP_OFFSET,
				(const void *)stamped + ASSENT_STAMP_OFFSET, ASSENT_STAMP_LEN, 0);

	egress_span(ctx, frame);
	return failed ? ASSENT_DROP_CONTENDED : ASSENT_ADMITTED;
}

static __always_inline enum assent_reason
egress_block(struct __sk_buff *ctx, struct gate_frame *frame, struct assent_found *found)
{
	const struct assent_header *h = frame->data + frame->offset;
	struct assent_departing departing;
	struct assent_header stamped;
	enum assent_reason reason;

	reason = assent_departure_check(h, ctx->len - frame->offset, &departing);
	if (!reason && departing.unstamped) {
		stamped = *h;
		reason = assent_departure_commit(&stamped, &departing);
		if (!reason)
			reason = egress_stamp(ctx, frame, &stamped);
	}
	egress_note(found, &departing);
	return reason;
}

static __always_inline enum assent_reason
egress_bare(struct __sk_buff *ctx, struct gate_frame *frame, struct assent_found *found)
{
	const struct assent_bare *bare = frame->data + frame->offset;
	struct assent_departing departing;
	enum assent_reason reason;

	reason = assent_departure_check_bare(bare, ctx->len - frame->offset, &departing);
	egress_note(found, &departing);
	return reason;
}

static __always_inline enum assent_reason
egress_judge(struct __sk_buff *ctx, struct gate_frame *frame, struct assent_found *found)
{
	const struct assent_bare *bare = frame->data + frame->offset;
	const struct assent_header *h = frame->data + frame->offset;

	if ((const void *)(bare + 1) > frame->data_end)
		return ASSENT_DROP_MALFORMED_LENGTH;
	if (assent_unlikely(!(bare->flags & assent_be16(ASSENT_FLAG_BLOCK))))
		return egress_bare(ctx, frame, found);
	if ((const void *)(h + 1) > frame->data_end)
		return ASSENT_DROP_MALFORMED_LENGTH;
	return egress_block(ctx, frame, found);
}

SEC("tc")
int egress(struct __sk_buff *ctx)
{
	struct assent_found found = {};
	struct gate_frame frame;
	enum assent_reason reason;

	if (assent_likely(egress_is_foreign(ctx, &frame)))
		return TC_ACT_UNSPEC;
	reason = gate_open(ctx, &frame);
	if (!reason) {
		if (frame.type != bpf_htons(ASSENT_ETHERTYPE))
			return TC_ACT_UNSPEC;
		reason = egress_judge(ctx, &frame, &found);
	}
	gate_account(ctx, reason, &found);
	return reason == ASSENT_ADMITTED ? TC_ACT_OK : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
