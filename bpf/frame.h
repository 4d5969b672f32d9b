/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a frame is, and where its header begins: the same for frames that arrive and for frames that
 * leave.
 */
#ifndef ASSENT_FRAME_H
#define ASSENT_FRAME_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "assent/reason.h"
#include "assent/wire.h"

/* Of VLAN tags: nobody sends more. */
#define GATE_VLAN_DEPTH 4

/* What follows the addresses, or another tag. */
struct gate_vlan {
	__be16 control;
	__be16 type;
};

/* A frame as a program was handed it. */
struct gate_frame {
	void *data;
	void *data_end; /* of what lies in one piece; the frame may be longer */
	__u64 offset;   /* of what follows its Ethernet header and VLAN tag; 64 bits wide, or the
			   verifier does not know it any more once it has been on the stack */
	__u64 type;     /* that it has there, as on the wire */
};

static __always_inline int gate_is_vlan(__be16 type)
{
	return type == bpf_htons(ASSENT_VLAN_ETHERTYPE) ||
	       type == bpf_htons(ASSENT_S_VLAN_ETHERTYPE);
}

/* Looks under one VLAN tag, as the gate takes it: an 802.1Q one, directly before what is ours. A
 * frame of ours under more, or under another kind, is refused: no stack behind the gate shall find
 * it. So is what is tagged deeper than anybody looks. */
static __always_inline enum assent_reason gate_untag(struct gate_frame *frame)
{
	const struct gate_vlan *tag = frame->data + ASSENT_ETH_LEN;
	enum assent_reason ours = ASSENT_DROP_STACKED_VLAN;

	if (frame->type == bpf_htons(ASSENT_VLAN_ETHERTYPE))
		ours = ASSENT_ADMITTED;
	for (int depth = 0; depth < GATE_VLAN_DEPTH; depth++, tag++) {
		if ((void *)(tag + 1) > frame->data_end)
			return ASSENT_ADMITTED; /* nobody's: it ends before it says what it is */
		frame->type = tag->type;
		frame->offset = ASSENT_ETH_LEN + ASSENT_VLAN_LEN;
		if (!gate_is_vlan(frame->type))
			return frame->type == bpf_htons(ASSENT_ETHERTYPE) ||
				       frame->type == bpf_htons(ASSENT_LWF_ETHERTYPE)
				   ? ours
				   : ASSENT_ADMITTED;
		ours = ASSENT_DROP_STACKED_VLAN;
	}
	return ASSENT_DROP_STACKED_VLAN;
}

/* Finds out what the frame between `data` and `data_end` is. Where it has no Ethernet header, its
 * type is 0. */
static __always_inline enum assent_reason gate_identify(struct gate_frame *frame)
{
	const struct ethhdr *eth = frame->data;

	frame->offset = ASSENT_ETH_LEN;
	frame->type = 0;
	if ((void *)(eth + 1) > frame->data_end)
		return ASSENT_ADMITTED;
	/* One load: struct ethhdr is packed, and clang would read it byte by byte. */
	frame->type = ((const __u16 *)eth)[6];
	if (assent_unlikely(gate_is_vlan(frame->type)))
		return gate_untag(frame);
	return ASSENT_ADMITTED;
}

#endif /* ASSENT_FRAME_H */
