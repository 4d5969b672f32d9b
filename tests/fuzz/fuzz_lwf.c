// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as an LWF frame, at what a relay reads of one (assent/lwf.h). What it
 * then does is the gate's target's affair.
 *
 * Claims: the sanitizers' (the frame is of its very length); an accepted frame is one by the plain
 * rules below, and a refused one is not; the fingerprint is SipHash-2-4 of the header, written out
 * another way, and depends on nothing after it; nothing of the frame is changed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/types.h"
#include "assent/lwf.h"

static void claim(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_lwf: not so: %s\n", what);
		abort();
	}
}

/* docs/lwf-relay.md, byte by byte. */
static int is_frame(const uint8_t *data, size_t size)
{
	static const size_t longest[] = {128, 512, 1350, 4096, 9000};
	size_t payload_len = (size_t)data[74] << 8 | data[75];
	size_t class_len = data[76] == 255 ? SIZE_MAX : 0;

	if (data[76] < sizeof(longest) / sizeof(longest[0]))
		class_len = longest[data[76]];
	if (memcmp(data, "LWF", 4) || data[77] < 1 || data[77] > 2)
		return 0;
	if (size > class_len)
		return 0;
	if (size == 88 + payload_len + 36 || size == 88 + payload_len + 68)
		return 1;
	return size == class_len && size >= 88 + payload_len + 36;
}

static uint64_t rotated(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static void rounds(uint64_t v[4], int count)
{
	while (count--) {
		v[0] += v[1];
		v[2] += v[3];
		v[1] = rotated(v[1], 13) ^ v[0];
		v[3] = rotated(v[3], 16) ^ v[2];
		v[0] = rotated(v[0], 32);
		v[2] += v[1];
		v[0] += v[3];
		v[1] = rotated(v[1], 17) ^ v[2];
		v[3] = rotated(v[3], 21) ^ v[0];
		v[2] = rotated(v[2], 32);
	}
}

/* SipHash-2-4, as its paper has it, from a state after the key. */
static uint64_t hash(const struct assent_sip *key, const uint8_t *data)
{
	uint64_t v[4] = {key->v0, key->v1, key->v2, key->v3};

	for (size_t at = 0; at <= ASSENT_LWF_HEADER_LEN; at += 8) {
		uint64_t word = (uint64_t)ASSENT_LWF_HEADER_LEN << 56;

		if (at < ASSENT_LWF_HEADER_LEN) {
			word = 0;
			for (int i = 7; i >= 0; i--)
				word = word << 8 | data[at + i];
		}
		v[3] ^= word;
		rounds(v, 2);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t nobody[ASSENT_LWF_HINT_LEN];
	const struct assent_sip key = {0x736f6d6570736575, 0x646f72616e646f6d, 0x6c7967656e657261,
				       0x7465646279746573};
	struct assent_lwf_header *h;

	if (size < sizeof(*h))
		return 0; /* the caller has made sure that it is there */
	h = malloc(size);
	if (!h)
		return 0;
	memcpy(h, data, size);
	claim(assent_lwf_check(h, (__u32)size) ==
		  (is_frame(data, size) ? ASSENT_ADMITTED : ASSENT_DROP_LWF_MALFORMED),
	      "what is a frame is accepted, and nothing else");
	claim(!assent_lwf_is_relayable(h) == (data[77] != 1 && !(data[78] & 4)),
	      "a frame is relayed as its sender wants");
	claim(assent_lwf_is_registration(h) == (data[72] == 0 && data[73] == 5),
	      "a registration is told by its service");
	claim(assent_lwf_is_nobody(&h->dest) == !memcmp(data + 4, nobody, sizeof(nobody)),
	      "nobody is 24 zeros");
	claim(assent_lwf_fingerprint(&key, h) == hash(&key, data), "a fingerprint is SipHash-2-4");
	claim(!memcmp(h, data, size), "a frame is not changed");
	free(h);
	return 0;
}
