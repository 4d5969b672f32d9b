/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The verdict pipeline for frames that arrive, bound to the maps. gate.bpf.c is the program that is
 * attached; bench programs include this too, so that what is measured is what runs.
 */
#ifndef ASSENT_GATE_H
#define ASSENT_GATE_H

#define GATE_DIRECTION ASSENT_ARRIVING
#define GATE_CONTEXT struct xdp_md
#include "account.h"
#include "relay.h"

static __always_inline __u32 gate_length(const struct xdp_md *ctx)
{
	return ctx->data_end - ctx->data;
}

static __always_inline __u32 gate_ifindex(const struct xdp_md *ctx)
{
	return ctx->ingress_ifindex;
}

static __always_inline long gate_load(struct xdp_md *ctx, void *to, __u32 len)
{
	return bpf_xdp_load_bytes(ctx, 0, to, len);
}

/* Data goes where its flow's endpoint takes it; all else to the kernel's stack. */
static __always_inline int gate_deliver(const struct xdp_md *ctx, const struct assent_found *found)
{
	if (!found->bound)
		return XDP_PASS;
	return (int)bpf_redirect_map(
	    &sockets, assent_socket_slot(ctx->ingress_ifindex, ctx->rx_queue_index), XDP_PASS);
}

/* Finds out what a frame is. Where it has no Ethernet header, its type is 0. */
static __always_inline enum assent_reason gate_open(struct xdp_md *ctx, struct gate_frame *frame)
{
	frame->data = (void *)(long)ctx->data;
	frame->data_end = (void *)(long)ctx->data_end;
	return gate_identify(frame);
}

/* A function of its own, so that each of its many ways out costs a jump and no more. */
static __noinline int gate_judge(const void *start, const void *end, struct assent_found *found)
{
	return assent_judge(start, end, found);
}

static __always_inline int gate_run(struct xdp_md *ctx)
{
	struct gate_frame frame;
	struct assent_found found = {.ifindex = gate_ifindex(ctx)};
	int reason = gate_open(ctx, &frame);

	if (!reason) {
		if (frame.type != bpf_htons(ASSENT_ETHERTYPE))
			return frame.type == bpf_htons(ASSENT_LWF_ETHERTYPE)
				   ? relay_run(ctx, frame.offset)
				   : XDP_PASS; /* not ours */
		reason = gate_judge(frame.data + frame.offset, frame.data_end, &found);
	}
	gate_account(ctx, reason, &found);
	return reason == ASSENT_ADMITTED ? gate_deliver(ctx, &found) : XDP_DROP;
}

#endif /* ASSENT_GATE_H */
