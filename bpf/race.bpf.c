// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The gate in a race with itself. Never pinned, never attached: loaded by tests/races alone, which
 * runs it on several CPUs at once, a lane each.
 *
 * Every lane goes through the same items, in an order of its own, and repeats some. A lane that is
 * `lead` items ahead of the next one repeats what it has sent until that one has caught up: so all
 * stay within a replay window of each other, and mostly write the same words of it. For each run
 * the item is written into the frame, the frame is tagged as its sender would, and the gate
 * decides.
 *
 *     admissions[item] += 1              where it admits
 *     lane->overspent += 1               where more credit was spent than was granted
 *     lane->outrun += 1                  where an item that looked new before the run was refused:
 *                                        another lane was faster, or there was no room
 */
#include "gate.h"

#define RACE_SPAN 64       /* items that a lane puts into an order of its own */
#define RACE_ECHO 4096     /* how far back a repeated item may lie */
#define RACE_ECHO_MASK 0x7 /* one run in so many repeats */

/* What makes an item's frame differ from the others. */
enum race_kind {
	RACE_SEQ = 0,  /* its sequence number */
	RACE_TIME = 1, /* its timestamp: frames whose timestamps must rise */
	RACE_BARE = 2, /* its sequence number, in a frame without a tag */
};

struct race_plan {
	struct assent_sip state; /* tags the frames */
	__u64 clock_offset;      /* sender's clock minus our monotonic clock, ns */
	enum race_kind kind;
	__u32 items; /* a multiple of RACE_SPAN */
	__u32 lead;
	__u32 slot; /* in `flows`, of the flow whose credit is watched */
};

/* One CPU's. Written by that CPU; `cursor` is read by the lane before it. */
struct race_lane {
	__u64 cursor; /* items sent for the first time */
	__u64 runs;
	__u64 admitted;
	__u64 overspent;
	__u64 outrun;
	__u64 random;
	__u32 stride; /* odd: what makes this lane's order its own */
	__u32 next;   /* the lane that this one waits for */
	__u64 fence;
};

_Static_assert(sizeof(struct race_lane) == 64, "one cache line");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct race_plan);
} race_plans SEC(".maps");

/* lanes[CPU] */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct race_lane);
} race_lanes SEC(".maps");

/* admissions[item]; the loader sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RACE_SPAN);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} race_admissions SEC(".maps");

static __always_inline __u64 race_random(struct race_lane *lane)
{
	lane->random = lane->random * 6364136223846793005ULL + 1442695040888963407ULL;
	return lane->random >> 33;
}

/* The item at a place of the lane's order. Every other span all lanes go through in one order, so
 * that they meet on the same item. */
static __always_inline __u64 race_item(const struct race_lane *lane, __u64 place)
{
	__u64 span = place / RACE_SPAN;
	__u64 stride = span & 1 ? lane->stride : 1;

	return span * RACE_SPAN + (place * stride + (span & 1 ? lane->stride >> 1 : 0)) % RACE_SPAN;
}

static __always_inline __u64 race_next_item(const struct race_plan *plan, struct race_lane *lane)
{
	__u32 number = lane->next;
	const struct race_lane *next = bpf_map_lookup_elem(&race_lanes, &number);
	__u64 place = lane->cursor, random = race_random(lane);
	__u64 limit = next ? ASSENT_READ_ONCE(next->cursor) + plan->lead : 0;

	if (place < plan->items && place < limit && random & RACE_ECHO_MASK) {
		ASSENT_WRITE_ONCE(lane->cursor, place + 1);
		return race_item(lane, place);
	}
	/* Mostly one that the other lane is at; now and then one that is older than the window. */
	random >>= 3;
	random = random & 3 ? (random >> 2) % (RACE_SPAN / 4) : (random >> 2) % RACE_ECHO;
	return race_item(lane, place > random ? place - 1 - random : 0);
}

/* Makes the frame that item's. Returns 0 where it is too short to be one. */
static __always_inline int race_write(struct xdp_md *ctx, const struct race_plan *plan, __u32 item)
{
	struct assent_header *h = (void *)(long)ctx->data + ASSENT_ETH_LEN;
	const void *end = (void *)(long)ctx->data_end;

	if ((const void *)h + ASSENT_BARE_LEN > end)
		return 0;
	h->seq = assent_be32(item + 1);
	if (plan->kind == RACE_BARE)
		return 1;
	if ((const void *)(h + 1) > end)
		return 0;
	h->timestamp =
	    assent_be64(plan->clock_offset + (plan->kind == RACE_TIME ? item + 1 : assent_now()));
	h->tag = assent_le64(assent_header_tag(&plan->state, h));
	return 1;
}

static __always_inline int race_looks_new(const struct race_plan *plan, __u32 seq)
{
	const struct assent_flow *flow = assent_flow_at(plan->slot);
	struct assent_replay_chunk *chunk;

	if (plan->kind != RACE_SEQ || !flow)
		return 0;
	chunk = assent_replay_chunk_at(assent_replay_chunk_index(flow, seq));
	if (!chunk)
		return 0;
	return !assent_replay_check(flow, ASSENT_READ_ONCE(*assent_replay_word(chunk, seq)), seq);
}

/*
 * Grants only rise. So spent is read first: what is granted later is no less than what was granted
 * when it was read, and more spent than that is more than was ever allowed. The other way round, a
 * grant between the two reads would look like a fault.
 */
static __always_inline void race_audit(const struct race_plan *plan, struct race_lane *lane)
{
	const struct assent_flow *flow = assent_flow_at(plan->slot);
	__u64 spent, granted;

	if (!flow)
		return;
	spent = ASSENT_READ_ONCE(flow->rx_spent);
	lane->fence = assent_cmpxchg(&lane->fence, 0, 0); /* orders the two on every machine */
	granted = ASSENT_READ_ONCE(flow->rx_granted);
	if (spent > granted)
		lane->overspent++;
}

/* Each a function of its own, so that the gate is compiled as it is in gate.bpf.c. */

static __noinline int race_gate(struct xdp_md *ctx)
{
	return gate_run(ctx);
}

/* Returns the item that the frame has become, times two, plus whether it looks new; or -1. */
static __noinline long race_begin(struct xdp_md *ctx)
{
	__u32 only = 0, cpu = bpf_get_smp_processor_id();
	const struct race_plan *plan = bpf_map_lookup_elem(&race_plans, &only);
	struct race_lane *lane = bpf_map_lookup_elem(&race_lanes, &cpu);
	__u32 item;

	if (!plan || !lane)
		return -1;
	item = (__u32)race_next_item(plan, lane);
	if (!race_write(ctx, plan, item))
		return -1;
	return (long)item << 1 | race_looks_new(plan, item + 1);
}

static __noinline int race_end(long begun, int action)
{
	__u32 only = 0, cpu = bpf_get_smp_processor_id(), item = (__u32)(begun >> 1);
	const struct race_plan *plan = bpf_map_lookup_elem(&race_plans, &only);
	struct race_lane *lane = bpf_map_lookup_elem(&race_lanes, &cpu);
	__u64 *admissions = bpf_map_lookup_elem(&race_admissions, &item);

	if (!plan || !lane || !admissions)
		return XDP_ABORTED;
	lane->runs++;
	if (action == XDP_PASS) {
		assent_atomic_add(admissions, 1);
		lane->admitted++;
	} else {
		lane->outrun += begun & 1;
	}
	race_audit(plan, lane);
	return action;
}

SEC("xdp")
int race(struct xdp_md *ctx)
{
	long begun = race_begin(ctx);

	return begun < 0 ? XDP_ABORTED : race_end(begun, race_gate(ctx));
}

char LICENSE[] SEC("license") = "GPL";
