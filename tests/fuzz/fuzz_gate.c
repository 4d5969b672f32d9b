// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes at the gate, with the tables of ASSENT_TABLES (a snapshot, see
 * tests/host/maps.h) as they stand at the start of each input.
 *
 * An input is a sequence of records: how (1 byte), whose (1), length (2, little-endian), the frame.
 * `how` lets the fuzzer past what it cannot guess: the lengths, a session's cells and tag.
 *
 * Claims, after every frame: it was not changed; refused or passed on, it left no mark in any map
 * but the counters; no number of a flow is admitted twice; no more is spent than was granted.
 */
#include <linux/if_ether.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/reason.h"
#include "assent/tag.h"
#include "assent/tables.h"
#include "gate_host.h"
#include "maps.h"

#define FRAMES_MAX 64 /* an input */

enum how {
	HOW_ETHERTYPE = 0x01, /* say that it is ours */
	HOW_CELLS = 0x02,     /* from and to the cells of a session */
	HOW_LENGTH = 0x04,    /* as long as the header says, where that is possible */
	HOW_TAG = 0x08,       /* under the session's key */
	HOW_ADMISSION = 0x10, /* under the admission key instead */
	HOW_NEXT = 0x20,      /* the flow's next number but the lowest bits, as a signed step */
	HOW_FLAGS = 0x40,     /* only flags that exist */
};

static struct host_map *maps;
static unsigned int map_count;
static uint8_t *at_start[64];
static uint8_t *before[64];

struct admitted {
	struct assent_pair pair;
	uint32_t flow; /* no padding: compared as bytes */
	uint32_t seq;
};

static void claim(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_gate: not so: %s\n", what);
		abort();
	}
}

static size_t size_of(const struct host_map *map)
{
	return (size_t)map->head.max_entries * map->stride;
}

static void save(uint8_t **to, int counters_too)
{
	for (unsigned int i = 0; i < map_count; i++) {
		if (maps[i].values && (counters_too || !host_map_is_per_cpu(&maps[i])))
			memcpy(to[i], maps[i].values, size_of(&maps[i]));
	}
}

static void claim_no_mark(void)
{
	for (unsigned int i = 0; i < map_count; i++) {
		if (maps[i].values && !host_map_is_per_cpu(&maps[i]))
			claim(!memcmp(before[i], maps[i].values, size_of(&maps[i])),
			      "a frame that was not admitted leaves no mark");
	}
}

static void claim_no_overdraft(void)
{
	const struct host_map *flows = host_map_named("flows");

	for (uint32_t i = 0; i < host_map_count(flows); i++) {
		const struct assent_flow *line = host_map_value(flows, i);

		claim(line->rx_spent <= line->rx_granted, "no more is spent than was granted");
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *path = getenv("ASSENT_TABLES");

	(void)argc;
	(void)argv;
	if (!path) {
		fprintf(stderr, "fuzz_gate: ASSENT_TABLES names no snapshot\n");
		exit(2);
	}
	map_count = host_maps_load(path, &maps);
	for (unsigned int i = 0; i < map_count; i++) {
		at_start[i] = malloc(size_of(&maps[i]) + 1);
		before[i] = malloc(size_of(&maps[i]) + 1);
		if (!at_start[i] || !before[i])
			exit(2);
	}
	save(at_start, 1);
	gate_host_now = 1000000000000ULL;
	return 0;
}

/* Turns what the fuzzer wrote into what `how` asks for; returns the frame's length. */
static uint32_t help(uint8_t *frame, uint32_t len, uint8_t how, uint8_t whose)
{
	const struct host_map *sessions = host_map_named("sessions");
	const struct assent_session *session = NULL;
	struct assent_header h;
	uint32_t index = host_map_count(sessions) ? whose % host_map_count(sessions) : 0;

	if (how & HOW_ETHERTYPE && len >= ETH_HLEN) {
		frame[12] = ASSENT_ETHERTYPE >> 8;
		frame[13] = ASSENT_ETHERTYPE & 0xff;
	}
	if (len < ETH_HLEN + sizeof(h) || !host_map_count(sessions))
		return len;
	session = host_map_value(sessions, index);
	memcpy(&h, frame + ETH_HLEN, sizeof(h));
	if (how & HOW_CELLS)
		memcpy(&h.pair, sessions->keys + (size_t)index * sessions->head.key_size,
		       sizeof(h.pair));
	if (how & HOW_FLAGS)
		h.flags =
		    assent_be16((assent_be16(h.flags) & ASSENT_FLAGS_KNOWN) | ASSENT_FLAG_BLOCK);
	if (how & HOW_NEXT && session->flow_count) {
		const struct host_map *flows = host_map_named("flows");
		uint32_t number = assent_be16(h.flow) % session->flow_count;
		const struct assent_flow *line = host_map_value(flows, session->flow_base + number);

		h.flow = assent_be16(number);
		h.seq = assent_be32(line->rx_highest + 1 + (int8_t)h.seq);
	}
	if (how & HOW_LENGTH) {
		uint32_t payload_len = assent_be16(h.payload_len) % 512;
		uint32_t wanted = ETH_HLEN + sizeof(h) + assent_padded_len(payload_len);

		h.payload_len = assent_be16(payload_len);
		if (wanted > len)
			memset(frame + len, 0, wanted - len);
		len = wanted;
	}
	if (how & HOW_TAG)
		h.tag = assent_le64(assent_header_tag(
		    how & HOW_ADMISSION ? &session->admission : &session->current, &h));
	memcpy(frame + ETH_HLEN, &h, sizeof(h));
	return len;
}

/* Frames within a session alone: handshake frames have no number. */
static void claim_first(struct admitted *seen, unsigned int *count, const uint8_t *frame)
{
	const uint8_t *type = frame + ETH_HLEN - 2;
	struct admitted new = {0};
	struct assent_header h;

	/* It was admitted, so what is not our EtherType is a VLAN tag before it. */
	while (type[0] != ASSENT_ETHERTYPE >> 8 || type[1] != (ASSENT_ETHERTYPE & 0xff))
		type += 4;
	memcpy(&h, type + 2, sizeof(h));
	if (assent_is_handshake(assent_be16(h.flow), assent_be16(h.flags)))
		return;
	new.pair = h.pair;
	new.flow = h.flow;
	new.seq = h.seq;
	for (unsigned int i = 0; i < *count; i++)
		claim(memcmp(&seen[i], &new, sizeof(new)), "a number is admitted once");
	seen[(*count)++] = new;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct admitted seen[FRAMES_MAX];
	unsigned int count = 0;

	for (unsigned int i = 0; i < map_count; i++) {
		if (maps[i].values)
			memcpy(maps[i].values, at_start[i], size_of(&maps[i]));
	}
	save(before, 0);
	for (int frames = 0; frames < FRAMES_MAX && size >= 4; frames++) {
		uint8_t frame[2048];
		uint32_t len = (uint32_t)data[2] | (uint32_t)(data[3] & 0x3) << 8;
		struct gate_host_result result;
		uint8_t how = data[0], whose = data[1];

		data += 4;
		size -= 4;
		if (len > size)
			len = (uint32_t)size;
		memcpy(frame, data, len);
		data += len;
		size -= len;
		len = help(frame, len, how, whose);
		result = gate_host_run(frame, len);
		gate_host_now += 1000000;
		claim(!result.frame_changed, "a frame is not changed");
		if (result.reason == ASSENT_ADMITTED) {
			claim_first(seen, &count, frame);
			claim_no_overdraft();
			save(before, 0);
		} else {
			claim_no_mark();
		}
	}
	return 0;
}
