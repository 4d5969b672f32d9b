// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
#define _GNU_SOURCE
#include "gate_host.h"

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sanitizer/asan_interface.h>

#include "maps.h"

uint64_t gate_host_now;

/* -- the helpers that gate.h calls; one that is missing here ends in a jump to a tiny address -- */

#define EVENTS 4096
#define EVENT_MAX 256

static struct {
	uint8_t data[EVENTS][EVENT_MAX];
	uint32_t size[EVENTS];
	uint64_t made;
	uint64_t taken;
} ring;

static void *ringbuf_reserve(uint64_t size)
{
	uint32_t at = ring.made % EVENTS;

	if (size > EVENT_MAX)
		return NULL;
	/* As in the kernel, what was there before is still there. */
	memset(ring.data[at], 0xa5, size);
	ring.size[at] = (uint32_t)size;
	return ring.data[at];
}

static void ringbuf_submit(const void *event)
{
	(void)event;
	ring.made++;
}

/* No socket is bound, and some devices are: where nothing is, the action asked for in that case. */
static long redirect_map(const void *map, uint64_t key, uint64_t flags)
{
	uint32_t index = (uint32_t)key;

	return host_map_lookup(map, &index) ? XDP_REDIRECT : (long)(flags & 0xff);
}

static long load_bytes(const struct xdp_md *ctx, uint32_t offset, void *to, uint32_t len)
{
	if (offset > ctx->data_end - ctx->data || len > ctx->data_end - ctx->data - offset)
		return -EINVAL;
	memcpy(to, (const uint8_t *)(uintptr_t)ctx->data + offset, len);
	return 0;
}

#define bpf_xdp_load_bytes(ctx, offset, to, len) load_bytes((ctx), (offset), (to), (len))
#define bpf_map_update_elem(map, key, value, flags) host_map_insert((map), (key), (value), (flags))
#define bpf_map_lookup_elem(map, key) host_map_lookup((map), (key))
#define bpf_ktime_get_coarse_ns() (gate_host_now)
#define bpf_ktime_get_ns() (gate_host_now)
#define bpf_get_smp_processor_id() (0u)
#define bpf_ringbuf_reserve(map, size, flags) ringbuf_reserve(size)
#define bpf_ringbuf_submit(event, flags) ringbuf_submit(event)
#define bpf_redirect_map(map, key, flags) redirect_map((map), (key), (flags))

#include "gate.h"

uint32_t gate_host_take_event(void *event, uint32_t room)
{
	uint32_t at, size;

	if (ring.taken == ring.made)
		return 0;
	if (ring.made - ring.taken > EVENTS)
		ring.taken = ring.made - EVENTS;
	at = ring.taken++ % EVENTS;
	size = ring.size[at] < room ? ring.size[at] : room;
	memcpy(event, ring.data[at], size);
	return size;
}

/* struct xdp_md has room for 32 bits of a pointer: frames live where that is enough. */
#define ARENA ((void *)0x10000000)
#define ARENA_LEN ((size_t)2 * GATE_HOST_FRAME_MAX)

static uint8_t *arena(void)
{
	static uint8_t *memory;

	if (!memory) {
		memory = mmap(ARENA, ARENA_LEN, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
		if (memory == MAP_FAILED) {
			perror("gate_host: memory for frames");
			exit(2);
		}
	}
	return memory;
}

_Static_assert(sizeof(struct assent_counter) % 8 == 0, "counters lie side by side");

static int moved_counter(uint64_t *frames)
{
	const struct assent_counter *all = host_map_lookup(&counters, &(uint32_t){0});
	int moved = GATE_HOST_NOT_OURS;

	for (int i = 0; i < ASSENT_REASON_COUNT; i++) {
		if (all[i].frames != frames[i])
			moved = i;
		frames[i] = all[i].frames;
	}
	return moved;
}

struct gate_host_result gate_host_run(const uint8_t *frame, uint32_t len)
{
	static uint64_t frames[ASSENT_REASON_COUNT];
	uint8_t *memory = arena();
	/* A header is 14 bytes into a frame, and is read as 64-bit words. */
	uint8_t *data = memory + 8 + 2;
	struct gate_host_result result;
	struct xdp_md ctx = {
	    .data = (uint32_t)(uintptr_t)data,
	    .data_end = (uint32_t)(uintptr_t)data + len,
	    .data_meta = (uint32_t)(uintptr_t)data,
	    .ingress_ifindex = GATE_HOST_IFINDEX,
	};

	if (len > GATE_HOST_FRAME_MAX) {
		fprintf(stderr, "gate_host: a frame of %u bytes\n", len);
		exit(2);
	}
	ASAN_UNPOISON_MEMORY_REGION(memory, ARENA_LEN);
	memcpy(data, frame, len);
	ASAN_POISON_MEMORY_REGION(memory, data - memory);
	ASAN_POISON_MEMORY_REGION(data + len, memory + ARENA_LEN - (data + len));
	moved_counter(frames);
	result.action = gate_run(&ctx);
	result.reason = moved_counter(frames);
	result.frame_changed = memcmp(data, frame, len) != 0;
	result.after = data;
	return result;
}
