// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes at the gate for what leaves, bpf/egress.bpf.c whole, with the tables
 * of ASSENT_TABLES (see fuzz_gate.c) as they stand at the start of each input.
 *
 * An input is a sequence of records: how (1 byte), whose (1), how much lies in one piece (1), VLAN
 * tag beside the frame, and memory (1), length (2, little-endian), the frame.
 *
 * The frame moves in memory with each helper that may move it, and where it was is poisoned:
 * whoever reads it through an old pointer is caught, and so is who reads past what lies in one
 * piece.
 *
 * Claims: what was not stamped is not changed; a stamp changes nothing but itself, and its tag is
 * right; refused or none of ours, it left no mark in the books; a number is charged once, when it
 * is first sent, and no more is spent than was granted.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_helpers.h>
#include <sanitizer/asan_interface.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "../host/maps.h"

#define FRAMES_MAX 64 /* an input */
#define FRAME_MAX 2048

enum how {
	HOW_ETHERTYPE = 0x01, /* say that it is ours */
	HOW_CELLS = 0x02,     /* from and to the cells of a session */
	HOW_LENGTH = 0x04,    /* as long as the header says, where that is possible */
	HOW_TAG = 0x08,       /* under the session's key */
	HOW_UNTAGGED = 0x10,  /* without a tag: to be stamped */
	HOW_NEXT = 0x20,      /* a number near the flow's last */
	HOW_FLAGS = 0x40,     /* only flags that exist */
};

enum beside {
	BESIDE_TAG = 0x01, /* a VLAN tag stands beside the frame */
	BESIDE_S_TAG = 0x02,
	BESIDE_NO_MEMORY = 0x04, /* nothing can be pulled */
	BESIDE_NO_STORE = 0x08,  /* and nothing written */
};

static void claim(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_egress: not so: %s\n", what);
		abort();
	}
}

/* -- a frame of the kernel's, and the helpers that touch it ---------------------------------------
 * struct __sk_buff has room for 32 bits of a pointer: frames live where that is enough. */

static uint8_t *arenas;
static unsigned int arena; /* which of the two */
static uint32_t in_one_piece;
static uint8_t beside;
static uint8_t event[256];
static const uint64_t now = 1000000000000ULL;

static uint8_t *frame_data(void)
{
	/* A header is 14 bytes into a frame, and is read as 64-bit words. */
	return arenas + arena * FRAME_MAX * 2 + 8 + 2;
}

static void show(struct __sk_buff *ctx)
{
	uint8_t *data = frame_data();

	ASAN_POISON_MEMORY_REGION(arenas, FRAME_MAX * 4);
	ASAN_UNPOISON_MEMORY_REGION(data, in_one_piece);
	ctx->data = (uint32_t)(uintptr_t)data;
	ctx->data_end = ctx->data + in_one_piece;
}

static void move(struct __sk_buff *ctx)
{
	uint8_t *from = frame_data();

	ASAN_UNPOISON_MEMORY_REGION(arenas, FRAME_MAX * 4);
	arena ^= 1;
	memcpy(frame_data(), from, ctx->len);
	memset(from, 0xee, ctx->len);
	show(ctx);
}

static long pull_data(struct __sk_buff *ctx, uint32_t len)
{
	if (beside & BESIDE_NO_MEMORY || len > ctx->len)
		return -ENOMEM;
	if (len > in_one_piece)
		in_one_piece = len;
	move(ctx);
	return 0;
}

static long store_bytes(struct __sk_buff *ctx, uint32_t offset, const void *from, uint32_t len)
{
	if (beside & BESIDE_NO_STORE || offset > ctx->len || len > ctx->len - offset)
		return -EFAULT;
	move(ctx);
	ASAN_UNPOISON_MEMORY_REGION(arenas, FRAME_MAX * 4);
	memcpy(frame_data() + offset, from, len);
	show(ctx);
	return 0;
}

static long load_bytes(const struct __sk_buff *ctx, uint32_t offset, void *to, uint32_t len)
{
	if (offset > ctx->len || len > ctx->len - offset)
		return -EFAULT;
	ASAN_UNPOISON_MEMORY_REGION(arenas, FRAME_MAX * 4);
	memcpy(to, frame_data() + offset, len);
	ASAN_POISON_MEMORY_REGION(arenas, FRAME_MAX * 4);
	ASAN_UNPOISON_MEMORY_REGION(frame_data(), in_one_piece);
	return 0;
}

static void *ringbuf_reserve(uint64_t size)
{
	claim(size <= sizeof(event), "an event fits");
	return event;
}

#define bpf_map_lookup_elem(map, key) host_map_lookup((map), (key))
#define bpf_ktime_get_coarse_ns() (now)
#define bpf_ktime_get_tai_ns() (now)
#define bpf_get_smp_processor_id() (0u)
#define bpf_ringbuf_reserve(map, size, flags) ringbuf_reserve(size)
#define bpf_ringbuf_submit(event, flags) ((void)(event))
#define bpf_skb_pull_data(ctx, len) pull_data((ctx), (len))
#define bpf_skb_store_bytes(ctx, offset, from, len, flags)                                         \
	store_bytes((ctx), (offset), (from), (len))
#define bpf_skb_load_bytes(ctx, offset, to, len) load_bytes((ctx), (offset), (to), (len))

#include "egress.bpf.c"

/* -- the books -----------------------------------------------------------------------------------
 */

static const char *const books[] = {"sessions", "flows", "replay", "config"};
#define BOOKS (sizeof(books) / sizeof(books[0]))

static struct host_map *maps_of[BOOKS];
static uint8_t *at_start[BOOKS];
static uint8_t *before[BOOKS];

static size_t size_of(const struct host_map *map)
{
	return (size_t)map->head.max_entries * map->stride;
}

static void save(void)
{
	for (unsigned int i = 0; i < BOOKS; i++)
		memcpy(before[i], maps_of[i]->values, size_of(maps_of[i]));
}

static int is_as_before(unsigned int which)
{
	return !memcmp(before[which], maps_of[which]->values, size_of(maps_of[which]));
}

static void claim_no_mark(void)
{
	for (unsigned int i = 0; i < BOOKS; i++)
		claim(is_as_before(i), "what was not charged leaves no mark");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *path = getenv("ASSENT_TABLES");
	struct host_map *all;

	(void)argc;
	(void)argv;
	if (!path) {
		fprintf(stderr, "fuzz_egress: ASSENT_TABLES names no snapshot\n");
		exit(2);
	}
	host_maps_load(path, &all);
	for (unsigned int i = 0; i < BOOKS; i++) {
		maps_of[i] = host_map_named(books[i]);
		at_start[i] = malloc(size_of(maps_of[i]));
		before[i] = malloc(size_of(maps_of[i]));
		if (!at_start[i] || !before[i])
			exit(2);
		memcpy(at_start[i], maps_of[i]->values, size_of(maps_of[i]));
	}
	arenas = mmap((void *)0x20000000, FRAME_MAX * 4, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (arenas == MAP_FAILED) {
		perror("fuzz_egress: memory for frames");
		exit(2);
	}
	return 0;
}

/* Turns what the fuzzer wrote into what `how` asks for; returns the frame's length. */
static uint32_t help(uint8_t *frame, uint32_t len, uint8_t how, uint8_t whose)
{
	const struct host_map *sessions = maps_of[0], *flows = maps_of[1];
	uint32_t index = whose % host_map_count(sessions);
	const struct assent_session *session = host_map_value(sessions, index);
	struct assent_pair key;
	struct assent_header h;

	if (how & HOW_ETHERTYPE && len >= ETH_HLEN) {
		frame[12] = ASSENT_ETHERTYPE >> 8;
		frame[13] = ASSENT_ETHERTYPE & 0xff;
	}
	if (len < ETH_HLEN + sizeof(h))
		return len;
	memcpy(&key, sessions->keys + (size_t)index * sizeof(key), sizeof(key));
	memcpy(&h, frame + ETH_HLEN, sizeof(h));
	if (how & HOW_CELLS) {
		h.pair.src = key.dst;
		h.pair.dst = key.src;
	}
	if (how & HOW_FLAGS)
		h.flags =
		    assent_be16((assent_be16(h.flags) & ASSENT_FLAGS_KNOWN) | ASSENT_FLAG_BLOCK);
	if (how & HOW_NEXT && session->flow_count) {
		uint32_t number = assent_be16(h.flow) % session->flow_count;
		const struct assent_flow *line = host_map_value(flows, session->flow_base + number);

		h.flow = assent_be16(number);
		h.seq = assent_be32(line->tx_seq + 1 + (uint32_t)(int8_t)h.seq);
	}
	if (how & HOW_LENGTH) {
		uint32_t payload_len = assent_be16(h.payload_len) % 512;
		uint32_t wanted = ETH_HLEN + sizeof(h) + assent_padded_len(payload_len);

		h.payload_len = assent_be16(payload_len);
		if (wanted > len)
			memset(frame + len, 0, wanted - len);
		len = wanted;
	}
	if (how & HOW_UNTAGGED)
		h.tag = 0;
	else if (how & HOW_TAG)
		h.tag = assent_le64(assent_header_tag(&session->departing, &h));
	memcpy(frame + ETH_HLEN, &h, sizeof(h));
	return len;
}

static int moved_counter(uint64_t *frames)
{
	const uint32_t first = ASSENT_LEAVING * ASSENT_COUNTER_STRIDE;
	const struct assent_counter *all = host_map_lookup(&counters, &first);
	int moved = -1;

	for (int i = 0; i < ASSENT_REASON_COUNT; i++) {
		if (all[i].frames != frames[i])
			moved = i;
		frames[i] = all[i].frames;
	}
	return moved;
}

/* Where the header of an admitted frame begins. */
static uint32_t header_offset(const uint8_t *frame)
{
	return frame[12] == ASSENT_VLAN_ETHERTYPE >> 8 && frame[13] == 0 ? ETH_HLEN + 4 : ETH_HLEN;
}

/* The books of one flow, as they must be after a frame of it was stamped. */
static void claim_charged_once(const struct assent_session *session, const struct assent_header *h)
{
	uint32_t number = assent_be16(h->flow), seq = assent_be32(h->seq);
	uint32_t slot = session->flow_base + number;
	struct assent_flow *line = host_map_value(maps_of[1], slot);
	struct assent_flow *old = (struct assent_flow *)(before[1] + slot * sizeof(*old));
	uint32_t cost = assent_frame_cost(assent_be16(h->payload_len));
	struct assent_flow expected = *old;

	if ((int32_t)(seq - old->tx_seq) > 0) {
		expected.tx_seq = seq;
		if (number && !(assent_be16(h->flags) & ASSENT_FLAG_LAMP))
			expected.tx_spent += cost;
	}
	if (session->flags & ASSENT_SESSION_OBSERVED && line->tx_spent == old->tx_spent)
		expected.tx_spent = old->tx_spent; /* it was beyond credit, and was noted */
	else
		claim(line->tx_spent <= line->tx_granted || line->tx_spent == old->tx_spent,
		      "no more is spent than was granted");
	claim(!memcmp(&expected, line, sizeof(expected)), "a number is charged once");
	*old = *line;
	claim_no_mark();
}

static void claim_books(const struct assent_header *h)
{
	const struct assent_pair key = {.src = h->pair.dst, .dst = h->pair.src};
	const struct assent_session *session = host_map_lookup(&sessions, &key);
	uint32_t number = assent_be16(h->flow);
	const struct assent_flow *line = NULL;

	claim(session != NULL, "nothing leaves to nobody");
	if (number < session->flow_count)
		line = host_map_value(maps_of[1], session->flow_base + number);
	if (assent_is_handshake(number, assent_be16(h->flags)) || !line || !line->replay_len)
		claim_no_mark();
	else
		claim_charged_once(session, h);
}

static void claim_stamped(const uint8_t *frame, const uint8_t *after, uint32_t len)
{
	uint32_t offset = header_offset(frame);
	const struct assent_session *session;
	struct assent_header was, is;
	struct assent_pair key;
	int handshake;

	memcpy(&was, frame + offset, sizeof(was));
	memcpy(&is, after + offset, sizeof(is));
	key = (struct assent_pair){.src = was.pair.dst, .dst = was.pair.src};
	session = host_map_lookup(&sessions, &key);
	claim(session != NULL, "nothing leaves to nobody");
	claim(!was.tag, "what has a tag is left as it is");
	claim(!memcmp(frame, after, offset + ASSENT_STAMP_OFFSET) &&
		  !memcmp(frame + offset + sizeof(is), after + offset + sizeof(is),
			  len - offset - sizeof(is)),
	      "a stamp changes nothing before or after itself");
	claim(!((was.flags ^ is.flags) & assent_be16((uint16_t)~ASSENT_FLAG_NACK)) &&
		  was.payload_len == is.payload_len && was.flow == is.flow,
	      "nor what its sender has said");
	handshake = assent_is_handshake(assent_be16(was.flow), assent_be16(was.flags));
	claim(assent_tag_matches(handshake ? &session->departing_admission : &session->departing,
				 &is),
	      "a stamp's tag is right");
	claim_books(&was);
}

static void one_frame(const uint8_t *frame, uint32_t len, uint8_t linear)
{
	static uint64_t counted[ASSENT_REASON_COUNT];
	struct __sk_buff ctx = {
	    .len = len,
	    .ifindex = 1,
	    .vlan_present = beside & BESIDE_TAG,
	    .vlan_proto =
		bpf_htons(beside & BESIDE_S_TAG ? ASSENT_S_VLAN_ETHERTYPE : ASSENT_VLAN_ETHERTYPE),
	};
	uint8_t after[FRAME_MAX];
	int action, reason;

	in_one_piece = linear < len ? linear : len;
	ASAN_UNPOISON_MEMORY_REGION(arenas, FRAME_MAX * 4);
	memcpy(frame_data(), frame, len);
	show(&ctx);
	moved_counter(counted);
	action = egress(&ctx);
	reason = moved_counter(counted);
	ASAN_UNPOISON_MEMORY_REGION(arenas, FRAME_MAX * 4);
	memcpy(after, frame_data(), len);
	claim(ctx.len == len, "a frame stays as long as it is");
	if (reason == ASSENT_ADMITTED) {
		claim(action == TC_ACT_OK, "what is admitted leaves");
		if (memcmp(frame, after, len)) {
			claim_stamped(frame, after, len);
			save();
			return;
		}
	} else {
		claim(action == (reason < 0 ? TC_ACT_UNSPEC : TC_ACT_SHOT),
		      "what is refused does not leave, and what is not ours is not decided");
		claim(!memcmp(frame, after, len), "what is not stamped is not changed");
		/* Where memory is short, a frame is lost after it was charged. Its number is paid
		 * for, then, when it is sent again. */
		if (reason == ASSENT_DROP_CONTENDED && beside & BESIDE_NO_STORE) {
			struct assent_header h;

			memcpy(&h, frame + header_offset(frame), sizeof(h));
			claim_books(&h);
			save();
			return;
		}
	}
	claim_no_mark();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	for (unsigned int i = 0; i < BOOKS; i++)
		memcpy(maps_of[i]->values, at_start[i], size_of(maps_of[i]));
	save();
	for (int frames = 0; frames < FRAMES_MAX && size >= 6; frames++) {
		uint8_t frame[FRAME_MAX];
		uint32_t len = (uint32_t)data[4] | (uint32_t)(data[5] & 0x3) << 8;
		uint8_t how = data[0], whose = data[1], linear = data[2];

		beside = data[3];
		data += 6;
		size -= 6;
		if (len > size)
			len = (uint32_t)size;
		memcpy(frame, data, len);
		data += len;
		size -= len;
		len = help(frame, len, how, whose);
		/* The kernel hands over no frame without an Ethernet header. */
		if (len >= ETH_HLEN)
			one_frame(frame, len, linear);
	}
	return 0;
}
