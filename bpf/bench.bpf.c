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

/*
 * Many frames rather than one: headers that were made before, taken one after the other, so that
 * the CPU fetches them ahead and what is measured is the gate's own memory. Every program here pays
 * for the copy; `bench_copy` pays for nothing else.
 */
struct bench_cursor {
	__u64 passed; /* of bench_bloom: pairs that passed the filter */
	__u32 next;
	__u32 count; /* of `bench_frames`; then it begins anew */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_cursor);
} bench_cursors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct assent_header);
} bench_frames SEC(".maps");

/* Puts the next header into the frame. Returns it, or NULL where there is none or no room. */
static __always_inline const struct assent_header *bench_next(struct xdp_md *ctx,
							      struct bench_cursor *cursor)
{
	void *data = (void *)(long)ctx->data, *data_end = (void *)(long)ctx->data_end;
	const struct assent_header *made;
	__u32 index = cursor->next;
	__u64 *to = data + ASSENT_ETH_LEN;

	cursor->next = index + 1 < cursor->count ? index + 1 : 0;
	made = bpf_map_lookup_elem(&bench_frames, &index);
	if (!made || (void *)to + sizeof(*made) > data_end)
		return 0;
	for (int i = 0; i < (int)(sizeof(*made) / sizeof(*to)); i++)
		to[i] = ((const __u64 *)made)[i];
	return made;
}

static __always_inline struct bench_cursor *bench_get_cursor(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&bench_cursors, &only);
}

SEC("xdp")
int bench_random(struct xdp_md *ctx)
{
	struct bench_cursor *cursor = bench_get_cursor();

	return cursor && bench_next(ctx, cursor) ? gate_run(ctx) : XDP_ABORTED;
}

SEC("xdp")
int bench_copy(struct xdp_md *ctx)
{
	struct bench_cursor *cursor = bench_get_cursor();

	return cursor && bench_next(ctx, cursor) ? XDP_PASS : XDP_ABORTED;
}

SEC("xdp")
int bench_bloom(struct xdp_md *ctx)
{
	const struct assent_config *known = assent_get_config();
	struct bench_cursor *cursor = bench_get_cursor();
	const struct assent_header *h;

	if (!known || !cursor)
		return XDP_ABORTED;
	h = bench_next(ctx, cursor);
	if (!h)
		return XDP_ABORTED;
	if (!assent_may_be_known(known, &h->pair))
		return XDP_DROP;
	cursor->passed++;
	return XDP_PASS;
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
