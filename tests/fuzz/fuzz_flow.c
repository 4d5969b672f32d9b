// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any frames at an endpoint's flow engine (controlplane/assent/native/flow.c), as
 * if the gate had let all of them through.
 *
 * An input is a sequence of records: what (1 byte), length (2, little-endian), bytes. Each either
 * is a frame, given right or made right in part, or lets the engine work: deliver, send, take
 * receipts, time go by.
 *
 * Claims: the sanitizers'; nothing past the sink; no more delivered than arrived; no more sent than
 * was granted; an output fits a frame.
 */
#include <linux/if_ether.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow.h"

#define SINK 4096
#define SOURCE 8192

enum what {
	WHAT_WORK = 0x01,   /* no frame: turn the engine */
	WHAT_OURS = 0x02,   /* cells and flow are the engine's */
	WHAT_LENGTH = 0x04, /* the length is what the header says, where that is possible */
	WHAT_SEALED = 0x08, /* the payload is sealed as the peer would */
	WHAT_NEXT = 0x10,   /* the number is near the one awaited */
	WHAT_GRANT = 0x20,  /* the grant is taken in, as the gate does */
};

static struct an_flow engine;
static struct an_flow engine_at_start;
static struct assent_flow line __attribute__((aligned(64)));
static struct assent_flow line_at_start;
static struct an_tx_slot *tx_at_start;
static struct an_rx_slot *rx_at_start;
static struct an_aead peer_seal;
static uint8_t source[SOURCE];
static uint8_t *sink;

static void claim(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_flow: not so: %s\n", what);
		abort();
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct an_endpoint_config config = {.epoch = 1, .flow = 1, .mtu = 1500, .line = &line};
	struct assent_pair from_peer;
	char error[128];

	(void)argc;
	(void)argv;
	memset(config.local_cell, 1, sizeof(config.local_cell));
	memset(config.remote_cell, 2, sizeof(config.remote_cell));
	memset(config.tx_payload_key, 3, sizeof(config.tx_payload_key));
	memset(config.rx_payload_key, 4, sizeof(config.rx_payload_key));
	line = (struct assent_flow){
	    .rx_granted = 256,
	    .tx_granted = 256,
	    .rx_window = 256,
	    .tx_window = 256,
	    .replay_len = AN_WINDOW,
	    .replay_mask = 1,
	};
	if (an_flow_init(&engine, &config, 1, error, sizeof(error))) {
		fprintf(stderr, "fuzz_flow: %s\n", error);
		exit(2);
	}
	memset(from_peer.src.bytes, 2, sizeof(from_peer.src.bytes));
	memset(from_peer.dst.bytes, 1, sizeof(from_peer.dst.bytes));
	sink = malloc(SINK);
	tx_at_start = malloc(AN_WINDOW * sizeof(*tx_at_start));
	rx_at_start = malloc(AN_WINDOW * sizeof(*rx_at_start));
	if (an_aead_init(&peer_seal, 1, config.rx_payload_key, &from_peer, 1, 1) || !sink ||
	    !tx_at_start || !rx_at_start)
		exit(2);
	engine.sink = sink;
	engine.sink_len = SINK;
	engine.source = source;
	engine.source_len = SOURCE;
	engine_at_start = engine;
	line_at_start = line;
	memcpy(tx_at_start, engine.tx, AN_WINDOW * sizeof(*tx_at_start));
	memcpy(rx_at_start, engine.rx, AN_WINDOW * sizeof(*rx_at_start));
	return 0;
}

/* Setting an engine up takes 8 MB; setting one back takes its slots. */
static void set_back(void)
{
	engine = engine_at_start;
	line = line_at_start;
	memcpy(engine.tx, tx_at_start, AN_WINDOW * sizeof(*tx_at_start));
	memcpy(engine.rx, rx_at_start, AN_WINDOW * sizeof(*rx_at_start));
}

static uint32_t help(uint8_t *frame, uint32_t len, uint8_t what)
{
	struct assent_header h;
	uint32_t payload_len;

	if (len < ETH_HLEN + sizeof(h))
		return len;
	memcpy(&h, frame + ETH_HLEN, sizeof(h));
	if (what & WHAT_OURS) {
		h.pair.src = engine.header.pair.dst;
		h.pair.dst = engine.header.pair.src;
		h.flow = engine.header.flow;
	}
	if (what & WHAT_NEXT)
		h.seq = assent_be32(line.rx_next + (uint32_t)(int8_t)h.seq);
	if (what & (WHAT_LENGTH | WHAT_SEALED)) {
		payload_len = assent_be16(h.payload_len) % 1409;
		if (what & WHAT_SEALED && payload_len < ASSENT_AEAD_TAG_LEN)
			payload_len = 0;
		h.payload_len = assent_be16(payload_len);
		len = ETH_HLEN + sizeof(h) + assent_padded_len(payload_len);
		if (what & WHAT_SEALED && payload_len) {
			uint8_t plain[1409] = {0};

			an_aead_seal(&peer_seal, assent_be32(h.seq), plain,
				     payload_len - ASSENT_AEAD_TAG_LEN,
				     frame + ETH_HLEN + sizeof(h));
		}
	}
	if (what & WHAT_GRANT)
		assent_counter_raise(
		    &line.tx_granted,
		    assent_grant_read(line.tx_granted, assent_be16(h.grant), line.grant_shift));
	memcpy(frame + ETH_HLEN, &h, sizeof(h));
	return len;
}

/* Returns 0, or what the engine says of a flow that is broken. */
static int work(uint64_t now, uint8_t turns)
{
	uint8_t out[AN_FRAME_MAX] __attribute__((aligned(64)));
	char error[128];
	int err = an_flow_deliver(&engine, error, sizeof(error));

	an_flow_take_receipts(&engine, now);
	for (int i = 0; i < turns % 32; i++)
		claim(an_flow_output(&engine, out, now, now) <= sizeof(out), "an output fits");
	if (!err)
		err = an_flow_check(&engine, now, error, sizeof(error));
	return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t now = 1;
	int err = 0;

	set_back();
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
			/* Of its very length, so that a byte too far is seen. */
			frame = calloc(1, 2048);
			memcpy(frame, data, len);
			data += len;
			size -= len;
			len = help(frame, len, what);
			frame = realloc(frame, len ? len : 1);
			err = an_flow_input(&engine, frame, len, now, error, sizeof(error));
			free(frame);
		}
		claim(engine.sink_filled <= engine.sink_len, "nothing is written past the sink");
		claim(engine.source_sent <= engine.source_len, "nothing is read past the source");
		claim(line.tx_spent <= line.tx_granted, "no more is sent than was granted");
		claim(engine.rx_end - engine.rx_next <= AN_WINDOW, "the window holds what arrives");
		claim(engine.rx_missing <= engine.rx_end - engine.rx_next,
		      "gaps are in the window");
		claim(engine.resend_count <= AN_WINDOW, "the queue of repeats is bounded");
	}
	return 0;
}
