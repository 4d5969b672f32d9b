// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A link that loses frames at random and counts what it carries, for measurements. Never pinned;
 * attached by assent.bench alone, to the ports of a switch between two hosts: a kernel without
 * netem has no other way to lose anything.
 */
#include "frame.h"

#include <linux/pkt_cls.h>

#include "assent/wire.h"

struct lossy_link {
	__u64 seen;
	__u64 lost;
	__u64 nacks; /* of data flows: frames with the flag */
	__u64 acks;
	__u32 chance; /* of being lost, in 2^-32 */
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct lossy_link);
} lossy_links SEC(".maps");

/* Notes what a frame of a data flow asks or acknowledges: on a link that loses nothing, none does.
 */
static __always_inline void lossy_note(struct __sk_buff *skb, struct lossy_link *link)
{
	struct assent_header h;
	__u16 flags;

	if (skb->protocol != bpf_htons(ASSENT_ETHERTYPE) ||
	    bpf_skb_load_bytes(skb, ASSENT_ETH_LEN, &h, sizeof(h)) || !h.flow)
		return;
	flags = bpf_ntohs(h.flags);
	if (flags & ASSENT_FLAG_NACK)
		__sync_fetch_and_add(&link->nacks, 1);
	if (flags & ASSENT_FLAG_ACK)
		__sync_fetch_and_add(&link->acks, 1);
}

SEC("tc")
int lossy(struct __sk_buff *skb)
{
	__u32 only = 0;
	struct lossy_link *link = bpf_map_lookup_elem(&lossy_links, &only);

	if (!link)
		return TC_ACT_OK;
	__sync_fetch_and_add(&link->seen, 1);
	lossy_note(skb, link);
	if (bpf_get_prandom_u32() >= link->chance)
		return TC_ACT_OK;
	__sync_fetch_and_add(&link->lost, 1);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
