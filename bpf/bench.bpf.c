// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The gate under the stopwatch. Never pinned, never attached: loaded by assent.bench alone.
 *
 * A frame that was admitted once is a replay the second time. To measure admission with one frame,
 * `bench_admit` first takes the flow's replay window back, with plain stores; the rest of the run
 * is the gate itself, and the time of the rewind is charged to it too.
 */
#include "gate.h"

struct bench_target {
	__u32 slot;  /* of the flow in `flows` */
	__u32 chunk; /* of the frame's sequence number in `replay` */
	__u32 word;  /* within the chunk */
	__u32 highest;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_target);
} bench_targets SEC(".maps");

static __always_inline void bench_rewind(void)
{
	__u32 only = 0;
	const struct bench_target *target = bpf_map_lookup_elem(&bench_targets, &only);
	struct assent_replay_chunk *chunk;
	struct assent_flow *flow;

	if (!target)
		return;
	flow = assent_flow_at(target->slot);
	chunk = assent_replay_chunk_at(target->chunk);
	if (!flow || !chunk)
		return;
	flow->rx_highest = target->highest;
	chunk->word[target->word & (ASSENT_REPLAY_WORDS - 1)] = 0;
}

SEC("xdp")
int bench_admit(struct xdp_md *ctx)
{
	bench_rewind();
	return gate_run(ctx);
}

SEC("xdp")
int gate(struct xdp_md *ctx)
{
	return gate_run(ctx);
}

char LICENSE[] SEC("license") = "GPL";
