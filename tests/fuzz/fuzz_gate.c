// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes at the gate, with the tables of ASSENT_TABLES (a snapshot, see
 * tests/host/maps.h) as they stand at the start of each input.
 *
 * An input is a sequence of records: how (1 byte), whose (1), length (2, little-endian), the frame.
 * `how` lets the fuzzer past what it cannot guess: the lengths, a session's cells and tag.
 *
 * Claims, after every frame: it was not changed, but for the addresses of one that was relayed;
 * refused or passed on, it left no mark in any map but the counters; where a session's policy is in
 * force, no number of a flow is admitted twice, and no more is spent than was granted; no LWF frame
 * goes on twice; what the gate only reads stays as it was.
 */
#include <linux/if_ether.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/lwf.h"
#include "assent/reason.h"
#include "assent/tag.h"
#include "assent/tables.h"
#include "gate_host.h"
#include "../host/maps.h"

#define FRAMES_MAX 64 /* an input */

enum how {
	HOW_ETHERTYPE = 0x01, /* say that it is ours */
	HOW_CELLS = 0x02,     /* from and to the cells of a session */
	HOW_LENGTH = 0x04,    /* as long as the header says, where that is possible */
	HOW_TAG = 0x08,       /* under the session's key */
	HOW_ADMISSION = 0x10, /* under the admission key instead */
	HOW_NEXT = 0x20,      /* the flow's next number but the lowest bits, as a signed step */
	HOW_FLAGS = 0x40,     /* only flags that exist */
	HOW_LWF = 0x80,       /* an LWF frame, by a way and from a source that are known */
};

/* Of the maps, those that the gate writes to, but for counts and events. */
static const char *const written[] = {"sessions", "flows", "replay", "lwf_sources", "lwf_seen"};
#define WRITTEN (sizeof(written) / sizeof(written[0]))
#define CHECK_ALL_EVERY 1024 /* inputs */

static struct host_map *maps;
static unsigned int map_count;
static uint8_t *at_start[64];
static uint32_t count_at_start[64];

/* One of written[]. */
static struct place {
	struct host_map *map;
	uint8_t *at_start;
	uint8_t *before;
	uint32_t count_before;
} places[WRITTEN];

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

static void set_back(void)
{
	for (unsigned int i = 0; i < WRITTEN; i++) {
		struct place *place = &places[i];

		memcpy(place->map->values, place->at_start, size_of(place->map));
		memcpy(place->before, place->at_start, size_of(place->map));
		place->map->head.count = place->count_before = count_at_start[place->map - maps];
	}
}

static void save(void)
{
	for (unsigned int i = 0; i < WRITTEN; i++) {
		memcpy(places[i].before, places[i].map->values, size_of(places[i].map));
		places[i].count_before = places[i].map->head.count;
	}
}

static void claim_no_mark(void)
{
	for (unsigned int i = 0; i < WRITTEN; i++)
		claim(places[i].count_before == places[i].map->head.count &&
			  !memcmp(places[i].before, places[i].map->values, size_of(places[i].map)),
		      "a frame that was not admitted leaves no mark");
}

static int is_written(const struct host_map *map)
{
	for (unsigned int i = 0; i < WRITTEN; i++) {
		if (map == places[i].map)
			return 1;
	}
	return 0;
}

static void claim_rest_unchanged(void)
{
	for (unsigned int i = 0; i < map_count; i++) {
		const struct host_map *map = &maps[i];

		if (map->values && !host_map_is_per_cpu(map) && !is_written(map))
			claim(!memcmp(at_start[i], map->values, size_of(map)),
			      "what the gate only reads stays as it was");
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
		if (!maps[i].values)
			continue;
		at_start[i] = malloc(size_of(&maps[i]));
		if (!at_start[i])
			exit(2);
		memcpy(at_start[i], maps[i].values, size_of(&maps[i]));
		count_at_start[i] = maps[i].head.count;
	}
	for (unsigned int i = 0; i < WRITTEN; i++) {
		places[i].map = host_map_named(written[i]);
		places[i].at_start = at_start[places[i].map - maps];
		places[i].before = malloc(size_of(places[i].map));
		if (!places[i].before)
			exit(2);
	}
	gate_host_now = 1000000000000ULL;
	return 0;
}

/* Some key of a map that has keys. */
static const uint8_t *some_key(const char *name, uint8_t whose)
{
	const struct host_map *map = host_map_named(name);

	return map->keys + (size_t)(whose % host_map_count(map)) * map->head.key_size;
}

/* An LWF frame that nothing is wrong with but what is left to the fuzzer: payload, class, flags. */
static uint32_t help_lwf(uint8_t *frame, uint32_t len, uint8_t whose)
{
	struct assent_lwf_header h;
	uint32_t wanted;

	if (len < ETH_HLEN + sizeof(h))
		return len;
	memcpy(&h, frame + ETH_HLEN, sizeof(h));
	frame[12] = ASSENT_LWF_ETHERTYPE >> 8;
	frame[13] = ASSENT_LWF_ETHERTYPE & 0xff;
	h.magic = assent_be32(ASSENT_LWF_MAGIC);
	h.version = 1 + (h.version & 1);
	h.payload_len = assent_be16(assent_be16(h.payload_len) % 1024);
	if (whose & 0x80)
		h.service_type = assent_be16(ASSENT_LWF_RELAY_FORWARD);
	memcpy(&h.dest, some_key("lwf_routes", whose & 0x0f), sizeof(h.dest));
	memcpy(&h.source, some_key("lwf_sources", whose >> 4 & 0x07), sizeof(h.source));
	wanted = ETH_HLEN + sizeof(h) + assent_be16(h.payload_len) + ASSENT_LWF_TRAILER_LEN;
	if (wanted > len)
		memset(frame + len, 0, wanted - len);
	memcpy(frame + ETH_HLEN, &h, sizeof(h));
	return wanted;
}

/* Turns what the fuzzer wrote into what `how` asks for; returns the frame's length. */
static uint32_t help(uint8_t *frame, uint32_t len, uint8_t how, uint8_t whose)
{
	const struct host_map *sessions = host_map_named("sessions");
	const struct assent_session *session = NULL;
	struct assent_header h;
	uint32_t index = host_map_count(sessions) ? whose % host_map_count(sessions) : 0;

	if (how & HOW_LWF)
		return help_lwf(frame, len, whose);
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

/* Where an admitted frame's header begins: what is not one of our types is a VLAN tag before it. */
static const uint8_t *header_of(const uint8_t *frame, uint16_t *type)
{
	const uint8_t *at = frame + ETH_HLEN - 2;

	while ((*type = (uint16_t)(at[0] << 8 | at[1])) == ASSENT_VLAN_ETHERTYPE)
		at += 4;
	return at + 2;
}

/* Frames that have numbers of a replay window: those of an open flow, in a session. */
static void claim_first(struct admitted *seen, unsigned int *count, const uint8_t *frame)
{
	const struct assent_session *session;
	struct admitted new = {0};
	struct assent_header h;
	uint16_t type;
	const uint8_t *start = header_of(frame, &type);

	if (type != ASSENT_ETHERTYPE)
		return;
	memcpy(&h, start, sizeof(struct assent_bare));
	if (!(assent_be16(h.flags) & ASSENT_FLAG_BLOCK))
		return;
	memcpy(&h, start, sizeof(h));
	session = host_map_lookup(host_map_named("sessions")->variable, &h.pair);
	if (assent_is_handshake(assent_be16(h.flow), assent_be16(h.flags)) ||
	    assent_be16(h.flow) >= session->flow_count)
		return;
	new.pair = h.pair;
	new.flow = h.flow;
	new.seq = h.seq;
	for (unsigned int i = 0; i < *count; i++)
		claim(memcmp(&seen[i], &new, sizeof(new)), "a number is admitted once");
	seen[(*count)++] = new;
}

static void claim_relayed_as_it_was(const struct gate_host_result *result, const uint8_t *frame,
				    uint32_t len)
{
	uint16_t type;

	header_of(frame, &type);
	claim(type == ASSENT_LWF_ETHERTYPE, "only LWF frames are relayed");
	claim(!memcmp(result->after + 2 * ETH_ALEN, frame + 2 * ETH_ALEN, len - 2 * ETH_ALEN),
	      "of a relayed frame, only the addresses are changed");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static unsigned long inputs;
	struct admitted seen[FRAMES_MAX];
	unsigned int count = 0;

	set_back();
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
		if (result.reason == ASSENT_RELAYED)
			claim_relayed_as_it_was(&result, frame, len);
		else
			claim(!result.frame_changed, "a frame is not changed");
		if (result.reason == ASSENT_ADMITTED || result.reason == ASSENT_RELAYED) {
			claim_first(seen, &count, frame);
			claim_no_overdraft();
			save();
		} else {
			claim_no_mark();
		}
	}
	if (inputs++ % CHECK_ALL_EVERY == 0)
		claim_rest_unchanged();
	return 0;
}
