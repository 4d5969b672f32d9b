/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The gate's maps, and the verdict pipeline bound to them. gate.bpf.c is the program that is
 * attached; bench programs include this too, so that what is measured is what runs.
 */
#ifndef ASSENT_GATE_H
#define ASSENT_GATE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "assent/verdict.h"

/* Capacities are the `default` profile's; the loader sets them before the object is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct assent_cellid);
	__type(value, struct assent_local);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct assent_pair);
	__type(value, struct assent_session);
} sessions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct assent_flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 196608);
	__type(key, __u32);
	__type(value, struct assent_replay_chunk);
} replay SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct assent_config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, ASSENT_REASON_COUNT);
	__type(key, __u32);
	__type(value, struct assent_counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* One AF_XDP socket a receive queue; where none is bound, frames go on to the kernel's stack. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Keep the event's layout and the enum of reasons in the object's BTF: user space reads them there.
 */
const enum assent_reason *assent_btf_reason __attribute__((unused));
const struct assent_event *assent_btf_event __attribute__((unused));
const enum assent_flag *assent_btf_flag __attribute__((unused));
const enum assent_session_flag *assent_btf_session_flag __attribute__((unused));
const struct assent_header *assent_btf_header __attribute__((unused));

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell)
{
	return bpf_map_lookup_elem(&locals, cell);
}

static __always_inline struct assent_session *assent_find_session(const struct assent_pair *pair)
{
	return bpf_map_lookup_elem(&sessions, pair);
}

static __always_inline struct assent_flow *assent_flow_at(__u32 slot)
{
	return bpf_map_lookup_elem(&flows, &slot);
}

static __always_inline struct assent_replay_chunk *assent_replay_chunk_at(__u32 index)
{
	return bpf_map_lookup_elem(&replay, &index);
}

static __always_inline const struct assent_config *assent_get_config(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&config, &only);
}

static __always_inline __u64 assent_now(void)
{
	return bpf_ktime_get_coarse_ns();
}

/* A fabric frame as the driver handed it over. */
struct gate_frame {
	void *data;
	void *data_end;
	__u32 ifindex;
	__u32 queue;
};

static __always_inline enum assent_reason gate_verdict(const struct gate_frame *frame,
						       struct assent_found *found)
{
	const struct assent_header *h = frame->data + ASSENT_ETH_LEN;

	found->session_id = 0;
	found->flow = 0;
	if ((void *)(h + 1) > frame->data_end)
		return ASSENT_DROP_MALFORMED_LENGTH;
	return assent_verdict(h, (__u32)(frame->data_end - (void *)h), found);
}

/* Report a refused frame: rate-limited, and lost where nobody reads. The counter has it in any
 * case. */
static __always_inline int gate_report(const struct gate_frame *frame, enum assent_reason reason,
				       __u32 session_id, __u64 now)
{
	struct assent_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	__u32 len = (__u32)(frame->data_end - frame->data);

	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->time = now;
	event->reason = reason;
	event->ifindex = frame->ifindex;
	event->session_id = session_id;
	event->frame_len = len;
	if (frame->data + sizeof(event->head) <= frame->data_end)
		__builtin_memcpy(event->head, frame->data, sizeof(event->head));
	else if (frame->data + ASSENT_ETH_LEN <= frame->data_end)
		__builtin_memcpy(event->head, frame->data, ASSENT_ETH_LEN);
	bpf_ringbuf_submit(event, 0);
	return 1;
}

static __always_inline void gate_account(const struct gate_frame *frame, enum assent_reason reason,
					 const struct assent_found *found)
{
	__u32 key = reason;
	struct assent_counter *counter = bpf_map_lookup_elem(&counters, &key);

	if (!counter)
		return;
	counter->frames++;
	counter->bytes += (__u64)(frame->data_end - frame->data);
	if (reason != ASSENT_ADMITTED) {
		const struct assent_config *config = assent_get_config();
		__u64 now = assent_now();

		if (config && now >= counter->next_event) {
			counter->next_event = now + config->event_interval;
			counter->events += gate_report(frame, reason, found->session_id, now);
		}
	}
}

/* Control goes to the kernel's stack, where the control plane listens; data to its flow's socket.
 */
static __always_inline int gate_deliver(const struct gate_frame *frame,
					const struct assent_found *found)
{
	if (found->flow == 0)
		return XDP_PASS;
	return (int)bpf_redirect_map(&sockets, frame->queue, XDP_PASS);
}

static __always_inline int gate_run(struct xdp_md *ctx)
{
	struct gate_frame frame = {
	    .data = (void *)(long)ctx->data,
	    .data_end = (void *)(long)ctx->data_end,
	};
	const struct ethhdr *eth = frame.data;
	struct assent_found found;
	enum assent_reason reason;

	if ((void *)(eth + 1) > frame.data_end || eth->h_proto != bpf_htons(ASSENT_ETHERTYPE))
		return XDP_PASS; /* not ours */
	frame.ifindex = ctx->ingress_ifindex;
	frame.queue = ctx->rx_queue_index;

	reason = gate_verdict(&frame, &found);
	gate_account(&frame, reason, &found);
	return reason == ASSENT_ADMITTED ? gate_deliver(&frame, &found) : XDP_DROP;
}

#endif /* ASSENT_GATE_H */
