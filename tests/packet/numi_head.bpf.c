// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * assent/numiport.h in the kernel: what is given to test_numi_head.py's runs is a datagram alone.
 * It returns enum assent_numi_flaw; and, for a packet, MATCHES where its header MAC is right.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "assent/numiport.h"

#define MATCHES 0x100
#define UNREADABLE 0x200

struct scratch {
	struct assent_hmac key;
	struct assent_numi_found found;
	struct assent_numi_work work;
	__u8 head[ASSENT_NUMI_HEAD_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

SEC("xdp")
int numi_head(struct xdp_md *ctx)
{
	__u32 len = ctx->data_end - ctx->data, zero = 0, head;
	struct scratch *s = bpf_map_lookup_elem(&scratches, &zero);
	enum assent_numi_flaw flaw;

	/* Clang 14 compares another copy of it than the one that it hands over. */
	head = len < ASSENT_NUMI_HEAD_MAX ? len : ASSENT_NUMI_HEAD_MAX;
	asm volatile("" : "+r"(head));
	if (!s || head < 1 || head > ASSENT_NUMI_HEAD_MAX)
		return UNREADABLE;
	if (bpf_xdp_load_bytes(ctx, 0, s->head, head))
		return UNREADABLE;
	flaw = assent_numi_parse(s->head, len, &s->found);
	if (flaw)
		return flaw;
	return assent_numi_mac_matches(&s->key, s->head, &s->found, &s->work) ? MATCHES : 0;
}

char LICENSE[] SEC("license") = "GPL";
