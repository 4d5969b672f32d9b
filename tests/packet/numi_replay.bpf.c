// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * assent/numi_replay.h in the kernel. What is given to test_numi_replay.py's runs is no packet but
 * what is asked about one; the answer is enum assent_numi_fault. The words of a window are spread
 * over the elements of an array, as those of the fabric's windows are.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "assent/numi_replay.h"

#define WORDS 64
#define UNREADABLE 0x100

struct question {
	__u8 addresses[14]; /* no frame is shorter */
	__u8 zero[2];
	__u64 slot;
	__u64 latest;
	__u32 seq;
	__u32 zeros;
};

struct chunk {
	__u64 word[WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct assent_numi_replay);
} windows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct chunk);
} chunks SEC(".maps");

SEC("xdp")
int numi_replay(struct xdp_md *ctx)
{
	__u32 zero = 0, index, at;
	struct assent_numi_replay *window = bpf_map_lookup_elem(&windows, &zero);
	enum assent_numi_fault fault;
	struct chunk *chunk;
	struct question q;

	if (!window || bpf_xdp_load_bytes(ctx, 0, &q, sizeof(q)))
		return UNREADABLE;
	index = window->base + assent_numi_replay_index(window, q.slot, q.seq);
	at = index / WORDS;
	chunk = bpf_map_lookup_elem(&chunks, &at);
	if (!chunk)
		return UNREADABLE;
	index &= WORDS - 1;
	fault = assent_numi_replay_check(window, chunk->word[index], q.slot, q.seq, q.latest);
	if (fault)
		return fault;
	return assent_numi_replay_commit(window, &chunk->word[index], q.slot, q.seq);
}

char LICENSE[] SEC("license") = "GPL";
