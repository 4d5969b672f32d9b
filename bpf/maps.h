/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The gate's maps, and what verdict.h asks for of them. Every program that works on the gate
 * includes this; all but the one that creates them are loaded on the maps that are there.
 */
#ifndef ASSENT_MAPS_H
#define ASSENT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "assent/verdict.h"

/* Capacities are the `default` profile's; the loader sets them before the object is loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct assent_cellid);
	__type(value, struct assent_local);
} locals SEC(".maps");

/* Two halves that take turns, see bloom.h. User space maps it, and sets bits with plain stores. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, __u64);
} bloom SEC(".maps");

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
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ASSENT_INTERFACE_SLOTS);
	__type(key, __u32);
	__type(value, struct assent_interface);
} interfaces SEC(".maps");

/* So many blocks for interfaces, each of two directions. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 32 * 2 * ASSENT_COUNTER_STRIDE);
	__type(key, __u32);
	__type(value, struct assent_counter);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct assent_tally);
} tallies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} events SEC(".maps");

/* One AF_XDP socket a receive queue; where none is bound, frames go on to the kernel's stack. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, ASSENT_SOCKET_INTERFACES *ASSENT_SOCKET_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

/* Keep the event's layout and the enum of reasons in the object's BTF: user space reads them there.
 */
const enum assent_reason *assent_btf_reason __attribute__((unused));
const struct assent_event *assent_btf_event __attribute__((unused));
const enum assent_flag *assent_btf_flag __attribute__((unused));
const enum assent_session_flag *assent_btf_session_flag __attribute__((unused));
const enum assent_open *assent_btf_open __attribute__((unused));
const enum assent_direction *assent_btf_direction __attribute__((unused));
const struct assent_header *assent_btf_header __attribute__((unused));

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell)
{
	return bpf_map_lookup_elem(&locals, cell);
}

static __always_inline const __u64 *assent_bloom_word(__u32 index)
{
	return bpf_map_lookup_elem(&bloom, &index);
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

#endif /* ASSENT_MAPS_H */
