// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any frames at a flow engine (controlplane/assent/native/flow.h), as if the gate
 * had let all of them through.
 *
 * An input is how the flow is (1 byte), then a sequence of records: what (1 byte), length (2,
 * little-endian), bytes. Each either is a frame, given right or made right in part, or lets the
 * engine work: write, read, send, time go by.
 *
 * Claims: the sanitizers'; nothing is written past a reader's buffer; no more is sent or charged
 * than was granted; what is kept is bounded; an output fits a frame; no buffer is lost.
 */
#include <linux/if_ether.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow.h"

#define REPLAY 2048
#define WINDOW 256

enum what {
	WHAT_WORK = 0x01,   /* no frame: turn the engine */
	WHAT_OURS = 0x02,   /* cells and flow are the engine's */
	WHAT_LENGTH = 0x04, /* the length is what the header says, where that is possible */
	WHAT_SEALED = 0x08, /* the payload is sealed as the peer would */
	WHAT_NEXT = 0x10,   /* the number is near the one awaited */
	WHAT_GRANT = 0x20,  /* the grant is taken in and the frame charged, as the gate does */
};

enum how {
	HOW_DELIVERY = 0x03,
	HOW_LAMP = 0x04,
	HOW_UNITS = 0x08,
	HOW_PACED = 0x10,
};

static struct an_flow engine;
static struct an_pool pool;
static struct assent_flow line __attribute__((aligned(64)));
static struct an_flow_config config = {.epoch = 1, .flow = 1, .mtu = 1500, .line = &line};
static struct an_aead peer_seal;

static void claim(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_flow: not so: %s\n", what);
		abort();
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct assent_pair from_peer;

	(void)argc;
	(void)argv;
	memset(config.local_cell, 1, sizeof(config.local_cell));
	memset(config.remote_cell, 2, sizeof(config.remote_cell));
	memset(config.tx_payload_key, 3, sizeof(config.tx_payload_key));
	memset(config.rx_payload_key, 4, sizeof(config.rx_payload_key));
	memset(from_peer.src.bytes, 2, sizeof(from_peer.src.bytes));
	memset(from_peer.dst.bytes, 1, sizeof(from_peer.dst.bytes));
	an_aead_init(&peer_seal, config.rx_payload_key, &from_peer, 1, 1);
	return an_pool_init(&pool) ? 2 : 0;
}

static void set_up(uint8_t how)
{
	char error[128];

	line = (struct assent_flow){
	    .rx_granted = WINDOW,
	    .tx_granted = WINDOW,
	    .rx_window = WINDOW,
	    .tx_window = WINDOW,
	    .replay_len = REPLAY,
	    .replay_mask = 1,
	    .grant_shift = how & HOW_UNITS ? 4 : 0,
	};
	config.delivery = (how & HOW_DELIVERY) % 3;
	config.lamp = (how & HOW_LAMP) != 0;
	config.rx_blocks_per_second = how & HOW_PACED ? 100000 : 0;
	if (an_flow_init(&engine, &config, &pool, 1, 1, error, sizeof(error))) {
		fprintf(stderr, "fuzz_flow: %s\n", error);
		exit(2);
	}
}

/* Of one that is right the payload is the record's own bytes, sealed. */
static uint32_t help(uint8_t *frame, uint32_t len, uint8_t what)
{
	struct assent_header h;
	uint32_t payload_len;

	if (len < ETH_HLEN + sizeof(h))
		return 0;
	memcpy(&h, frame + ETH_HLEN, sizeof(h));
	if (what & WHAT_OURS) {
		h.pair.src = engine.header.pair.dst;
		h.pair.dst = engine.header.pair.src;
		h.flow = engine.header.flow;
	}
	if (what & WHAT_NEXT)
		h.seq = assent_be32(engine.rx_next + assent_be32(h.seq) % 64);
	payload_len = assent_be16(h.payload_len) % 1409;
	h.payload_len = assent_be16(payload_len);
	len = ETH_HLEN + (uint32_t)sizeof(h) + assent_padded_len(payload_len);
	if (what & WHAT_SEALED && payload_len > ASSENT_AEAD_TAG_LEN) {
		uint8_t *payload = frame + ETH_HLEN + sizeof(h);

		an_aead_seal(&pool.cipher, &peer_seal, assent_be32(h.seq), payload,
			     payload_len - ASSENT_AEAD_TAG_LEN, payload);
	}
	if (what & WHAT_GRANT) {
		assent_counter_raise(
		    &line.tx_granted,
		    assent_grant_read(line.tx_granted, assent_be16(h.grant), line.grant_shift));
		assent_credit_charge(&line, assent_frame_cost(payload_len));
	}
	memcpy(frame + ETH_HLEN, &h, sizeof(h));
	return len;
}

static void read_some(uint64_t now, uint8_t how)
{
	/* Of its very length, so that a byte too far is seen. */
	uint32_t room = how % 2 ? 7 : 3000;
	uint8_t *buf = malloc(room);
	uint32_t lengths[4];
	int end;

	claim(an_flow_read_many(&engine, buf, room, lengths, 4, now) <= 4,
	      "no more than asked for");
	claim(an_flow_read(&engine, buf, room, &end, now) <= (int64_t)room, "no more than fits");
	free(buf);
}

static void write_some(uint64_t now, uint8_t how)
{
	static const uint8_t text[4000];
	struct an_span spans[2] = {{text, how}, {text, how & 0x40 ? 1000 : 0}};
	uint64_t skip = engine.message_open ? engine.message_done : 0;

	an_flow_write(&engine, spans, 2, skip, how & AN_COALESCE, now);
	an_flow_write_many(&engine, text, how, NULL, 3, how & AN_COALESCE, now);
	if (how == 0xff)
		an_flow_finish(&engine, now);
}

/* Returns 0, or what the engine says of a flow that is broken. */
static int work(uint64_t now, uint8_t turns)
{
	uint8_t out[AN_FRAME_MAX + 2] __attribute__((aligned(64)));
	char error[128];

	read_some(now, turns);
	write_some(now, turns);
	for (int i = 0; i < turns % 32; i++)
		claim(an_flow_output(&engine, out + 2, now, now) <= AN_FRAME_MAX, "an output fits");
	an_flow_deadline(&engine, now);
	an_flow_ready(&engine);
	return an_flow_check(&engine, now, error, sizeof(error));
}

static void check_bounds(void)
{
	claim(line.tx_spent <= line.tx_granted, "no more is sent than was granted");
	claim(line.rx_spent <= line.rx_granted, "no more is charged than was granted");
	claim(engine.rx_end - engine.rx_next <= REPLAY, "the window holds what arrives");
	claim(engine.rx_missing <= engine.rx_end - engine.rx_next, "gaps are in the window");
	claim(engine.tx_next - engine.tx_base <= engine.number_max + AN_LAMPS,
	      "numbers in use are bounded");
	claim(engine.tx_wanted <= engine.tx_next - engine.tx_base, "repeats are of what is kept");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t now = 1;
	int err = 0;

	if (!size)
		return 0;
	set_up(data[0]);
	data++;
	size--;
	while (!err && size >= 3) {
		uint8_t what = data[0];
		uint32_t len = (uint32_t)data[1] | (uint32_t)(data[2] & 0x7) << 8;
		uint8_t *frame;
		char error[128];

		data += 3;
		size -= 3;
		now += 1000000ULL << (what >> 6) * 4;
		if (what & WHAT_WORK) {
			err = work(now, (uint8_t)len);
		} else {
			if (len > size)
				len = (uint32_t)size;
			frame = calloc(1, 2048);
			memcpy(frame, data, len);
			data += len;
			size -= len;
			len = help(frame, len, what);
			if (len) {
				frame = realloc(frame, len);
				err = an_flow_input(&engine, frame, len, now, error, sizeof(error));
			}
			free(frame);
		}
		check_bounds();
	}
	an_flow_shut(&engine);
	an_flow_free(&engine);
	claim(!pool.held_bytes, "no buffer is lost");
	return 0;
}
