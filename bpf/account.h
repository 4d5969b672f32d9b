/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Counting what was decided, and telling of it. The includer says which way frames go, and how to
 * ask about one:
 *
 *   GATE_DIRECTION              enum assent_direction
 *   GATE_CONTEXT                struct xdp_md or struct __sk_buff
 *   enum assent_reason gate_open(context, frame)   finds out what a frame is
 *   __u32 gate_length(context)  bytes of the whole frame
 *   __u32 gate_ifindex(context) the interface by which it arrived, or leaves
 *   long gate_load(context, to, len)   copies its first `len` bytes; 0 = done
 */
#ifndef ASSENT_ACCOUNT_H
#define ASSENT_ACCOUNT_H

#include "frame.h"
#include "maps.h"

static __always_inline enum assent_reason gate_open(GATE_CONTEXT *ctx, struct gate_frame *frame);
static __always_inline __u32 gate_length(const GATE_CONTEXT *ctx);
static __always_inline __u32 gate_ifindex(const GATE_CONTEXT *ctx);
static __always_inline long gate_load(GATE_CONTEXT *ctx, void *to, __u32 len);

static __always_inline int gate_is_heard(const struct assent_config *config, __u32 reason)
{
	return config->event_reasons >> (reason & 63) & 1;
}

/* Is a frame from or to a cell that somebody listens to? */
static __always_inline int gate_is_wanted(const struct assent_config *config,
					  const struct gate_frame *frame)
{
	const struct assent_pair *pair = frame->data + frame->offset;

	if (!config->event_cells)
		return 1;
	if (frame->type != bpf_htons(ASSENT_ETHERTYPE) || (void *)(pair + 1) > frame->data_end)
		return 0;
	for (__u32 i = 0; i < ASSENT_HOMES; i++) {
		if (i < config->event_cells &&
		    (assent_same_cell(&config->event_cell[i], &pair->src) ||
		     assent_same_cell(&config->event_cell[i], &pair->dst)))
			return 1;
	}
	return 0;
}

static __always_inline __u32 gate_block(__u32 ifindex)
{
	__u32 slot = ifindex % ASSENT_INTERFACE_SLOTS;
	const struct assent_interface *own = bpf_map_lookup_elem(&interfaces, &slot);

	return own && own->ifindex == ifindex ? own->block : 0;
}

/* Puts a frame on the ring. Where that is full, nobody reads. */
static __always_inline int gate_tell(GATE_CONTEXT *ctx, struct assent_counter *counter,
				     __u32 reason, __u32 session_id, __u32 observed, __u64 now)
{
	struct assent_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	__u32 ifindex = gate_ifindex(ctx);
	__u32 len = gate_length(ctx);
	__u64 head = len;

	if (!event)
		return 0;
	if (head > ASSENT_EVENT_HEAD_LEN)
		head = ASSENT_EVENT_HEAD_LEN;
	/* The verifier forgets what clang (14) makes of that; it is told below, where it counts. */
	asm volatile("" : "+r"(head));
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->suppressed = counter->suppressed - counter->told;
	event->reason = reason;
	event->ifindex = ifindex;
	event->session_id = session_id;
	event->frame_len = len;
	event->direction = GATE_DIRECTION;
	event->block = (__u8)gate_block(ifindex);
	event->cpu = (__u16)bpf_get_smp_processor_id();
	event->observed = (__u8)observed;
	/* Kernel 6.1: two comparisons with the register that is handed over, at least 1 and at most
	 * so much. Clang 14 would make one of them, with head - 1 in another. */
	if ((__s64)head > 0) {
		asm volatile("" : "+r"(head));
		if (head <= ASSENT_EVENT_HEAD_LEN && !gate_load(ctx, event->head, (__u32)head))
			event->head_len = (__u8)head;
	}
	bpf_ringbuf_submit(event, 0);
	return 1;
}

/*
 * Tells of a frame that was refused, or would have been, if it is its turn: at most one event of a
 * reason in a while. A function of its own, and given no pointer to the caller's variables, so that
 * those stay in registers on the way of all the others.
 */
static __noinline int gate_report(GATE_CONTEXT *ctx, struct assent_counter *counter, __u32 reason,
				  __u32 session_id, __u32 observed)
{
	const struct assent_config *config = assent_get_config();
	struct gate_frame frame;
	__u64 now = assent_now();

	if (!ctx || !counter || !config || now < counter->next_event)
		return 0;
	gate_open(ctx, &frame);
	if (!gate_is_wanted(config, &frame))
		return 0;
	counter->next_event = now + config->event_interval;
	if (!gate_tell(ctx, counter, reason, session_id, observed, now))
		return 0;
	counter->events++;
	counter->told = counter->suppressed;
	return 1;
}

/* Every frame that was refused, or would have been, is told or counted as suppressed. */
static __always_inline void gate_consider(GATE_CONTEXT *ctx, struct assent_counter *counter,
					  __u32 reason, const struct assent_found *found,
					  __u32 observed)
{
	const struct assent_config *config = found->config ?: assent_get_config();

	if (assent_unlikely(config && gate_is_heard(config, reason))) {
		__u32 session_id = found->session ? found->session->session_id : 0;

		if (gate_report(ctx, counter, reason, session_id, observed))
			return;
	}
	counter->suppressed++;
}

static __always_inline struct assent_counter *gate_counter(__u32 block, __u32 reason)
{
	__u32 key = (block * 2 + GATE_DIRECTION) * ASSENT_COUNTER_STRIDE + reason;

	return bpf_map_lookup_elem(&counters, &key);
}

static __always_inline void gate_tally(const struct assent_session *session, __u32 reason,
				       __u64 bytes, __u32 observed)
{
	__u32 slot = session->tally;
	struct assent_tally *tally = bpf_map_lookup_elem(&tallies, &slot);

	if (!tally || reason >= ASSENT_TALLY_REASONS)
		return;
	tally->frames[reason]++;
	if (reason != ASSENT_ADMITTED)
		return;
	tally->bytes += bytes;
	if (assent_unlikely(observed))
		tally->observed++;
}

static __always_inline void gate_account(GATE_CONTEXT *ctx, __u32 reason,
					 const struct assent_found *found)
{
	const struct assent_session *session = found->session;
	__u64 bytes = gate_length(ctx);
	__u32 ifindex = gate_ifindex(ctx);
	__u32 block = gate_block(ifindex);
	struct assent_counter *counter = gate_counter(block, reason);

	if (counter) {
		counter->frames++;
		counter->bytes += bytes;
		if (reason != ASSENT_ADMITTED && reason != ASSENT_RELAYED)
			gate_consider(ctx, counter, reason, found, 0);
	}
	/* What a pair tallies is what arrived of it. */
	if (GATE_DIRECTION == ASSENT_ARRIVING && session)
		gate_tally(session, reason, bytes, found->observed);
	if (assent_unlikely(found->observed && reason == ASSENT_ADMITTED)) {
		counter = gate_counter(block, found->observed);
		if (counter) {
			counter->observed++;
			gate_consider(ctx, counter, found->observed, found, 1);
		}
	}
}

#endif /* ASSENT_ACCOUNT_H */
