// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a Numiport datagram, at the parser that the gate and user space
 * share (assent/numiport.h) and at the codec around it (numiport/native/wire.c).
 *
 * An input is how it is helped, then the datagram. Help: 0x01 version, reserved bytes and stream
 * are made right; 0x02 an END is put behind it; 0x04 its flags are; 0x08 plen is. So the walk is
 * got to, and what comes after it, by more than luck.
 *
 * Claims: the sanitizers' (the datagram is of its very length, at an odd address); what is accepted
 * is a packet by the plain rules below, and what is refused is not; it is written again to the bit,
 * TLVs in order; what is covered is the head without two records; the header MAC is OpenSSL's, and
 * accepted when it is put in its place; nothing of the datagram is changed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "numi.h"

enum { HELP_HEADER = 0x01, HELP_END = 0x02, HELP_FLAGS = 0x04, HELP_PLEN = 0x08 };

static void claim(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_numiport: not so: %s\n", what);
		abort();
	}
}

static uint32_t be(const uint8_t *at, int count)
{
	uint32_t value = 0;

	while (count--)
		value = value << 8 | *at++;
	return value;
}

/* What the plain rules find in a datagram. */
struct plain {
	const uint8_t *value[10];
	uint32_t len[10];
	uint32_t head_len;
	uint8_t covered[300];
	uint32_t covered_len;
};

/* docs/numiport.md, record by record: whether the section of TLVs is one. */
static int is_section(const uint8_t *data, size_t size, struct plain *found)
{
	static const struct {
		uint32_t least, most, step;
	} lengths[10] = {{0, 0, 1}, {7, 23, 4}, {4, 4, 1},  {0, 64, 4},  {0, 32, 4},
			 {2, 2, 1}, {2, 2, 1},  {0, 32, 1}, {16, 16, 1}, {16, 16, 1}};
	size_t at = 32;

	memset(found, 0, sizeof(*found));
	memcpy(found->covered, data, 32);
	found->covered_len = 32;
	do {
		uint32_t type, len, whole;

		if (size - at < 4)
			return 0;
		type = data[at];
		len = be(data + at + 1, 2);
		if (type > 9 || found->value[type] || len < lengths[type].least ||
		    len > lengths[type].most || (len - lengths[type].least) % lengths[type].step)
			return 0;
		for (whole = 3 + len; whole % 4; whole++)
			if (at + whole >= size || data[at + whole])
				return 0;
		if (at + whole > size)
			return 0;
		found->value[type] = data + at + 3;
		found->len[type] = len;
		if (type != 7 && type != 8) {
			memcpy(found->covered + found->covered_len, data + at, whole);
			found->covered_len += whole;
		}
		at += whole;
	} while (!found->value[0]);
	found->head_len = (uint32_t)at;
	return 1;
}

static int are_values(const struct plain *found)
{
	uint32_t from = 0;

	if (found->value[1] && found->value[1][6] > 1)
		return 0;
	if (found->value[6] && be(found->value[6], 2) > 1000)
		return 0;
	for (uint32_t i = 0; i < found->len[3]; i += 4) {
		uint32_t start = be(found->value[3] + i, 2), run = be(found->value[3] + i + 2, 2);

		if (start < from || run < 1 || start + run > 65536)
			return 0;
		from = start + run;
	}
	return 1;
}

static uint32_t due_flags(const uint8_t *data, const struct plain *found)
{
	return (found->value[4] ? 2 : 0) | (be(data + 18, 2) ? 4 : 0) | (found->value[2] ? 8 : 0) |
	       (be(data + 10, 4) == 3 ? 16 : 0) | (found->value[6] ? 32 : 0);
}

static int is_packet(const uint8_t *data, size_t size, struct plain *found)
{
	static const uint8_t zeros[8];
	uint32_t flags, plen;

	if (size < 36 || size > 8972 || data[0] != 1 || memcmp(data + 24, zeros, 8))
		return 0;
	if (be(data + 10, 4) > 3)
		return 0;
	if (be(data + 18, 2) ? be(data + 20, 2) >= be(data + 18, 2) : be(data + 20, 2) != 0)
		return 0;
	if (!is_section(data, size, found) || !are_values(found))
		return 0;
	flags = data[1] >> 2;
	plen = be(data + 22, 2);
	if ((flags & ~1U) != due_flags(data, found))
		return 0;
	if (flags & 1 && (plen || (!found->value[3] && !found->value[4])))
		return 0;
	if (found->value[4] && (data[1] & 3) > 1)
		return 0;
	return size == found->head_len + plen || size == found->head_len + plen + 16;
}

static void help(uint8_t *data, size_t size, uint8_t how)
{
	struct plain found;

	if (how & HELP_HEADER) {
		data[0] = 1;
		memset(data + 10, 0, 3);
		data[13] &= 3;
		memset(data + 24, 0, 8);
		if (be(data + 18, 2) <= be(data + 20, 2))
			memset(data + 18, 0, 4);
	}
	if (how & HELP_END)
		memset(data + size - 4, 0, 4);
	if (!is_section(data, size, &found))
		return;
	if (how & HELP_FLAGS)
		data[1] = (uint8_t)(due_flags(data, &found) << 2 | (data[1] & 3));
	if (how & HELP_PLEN) {
		size_t plen = size - found.head_len;

		data[22] = (uint8_t)(plen >> 8);
		data[23] = (uint8_t)plen;
	}
}

static void check_mac(uint8_t *data, size_t size, const struct plain *found)
{
	static const uint8_t secret[32] = "a key of 32 bytes, and no more.";
	uint8_t mac[16], hmac[EVP_MAX_MD_SIZE], before[16];
	struct numi_mac_key key;
	uint8_t *place;

	numi_mac_init(&key, secret);
	claim(!numi_mac(&key, data, size, mac), "a packet has a header MAC");
	claim(HMAC(EVP_sha256(), secret, sizeof(secret), found->covered, found->covered_len, hmac,
		   NULL) != NULL,
	      "OpenSSL computes");
	claim(!memcmp(mac, hmac, 16), "a header MAC is the first half of HMAC-SHA256");
	if (!found->value[8]) {
		claim(!numi_mac_check(&key, data, size), "none is not a right one");
		return;
	}
	place = data + (found->value[8] - data);
	claim(numi_mac_check(&key, data, size) == !memcmp(place, mac, 16),
	      "the right one is right");
	memcpy(before, place, 16);
	memcpy(place, mac, 16);
	claim(numi_mac_check(&key, data, size) == 1, "the right one is right, once it is there");
	place[size % 16] ^= 0x10;
	claim(!numi_mac_check(&key, data, size), "and no other one");
	memcpy(place, before, 16);
}

static void check_packet(uint8_t *data, size_t size, const struct plain *found)
{
	uint8_t *written = malloc(ASSENT_NUMI_HEAD_MAX), under[ASSENT_NUMI_HEAD_MAX];
	struct numi_head head, again;
	struct plain anew;

	if (!written)
		return;
	claim(!numi_decode(data, size, &head), "a packet is read");
	claim(head.head_len == found->head_len, "the payload begins where the head ends");
	claim(head.sealed == (size != found->head_len + head.plen), "a tag is seen");
	claim(numi_covered(data, size, under) == (int)found->covered_len &&
		  !memcmp(under, found->covered, found->covered_len),
	      "the head is covered, but for two records");
	claim(numi_encode(&head, written) == head.head_len, "what was read is written");
	claim(!memcmp(written, data, 32) && is_section(written, head.head_len, &anew),
	      "and is a head");
	for (int type = 0; type < 10; type++)
		claim(found->len[type] == anew.len[type] &&
			  !found->value[type] == !anew.value[type] &&
			  (!found->value[type] ||
			   !memcmp(found->value[type], anew.value[type], anew.len[type])),
		      "with the same TLVs");
	memcpy(data, written, head.head_len);
	claim(!numi_decode(data, size, &again), "what was written is read");
	claim(!memcmp(&head, &again, sizeof(head)), "as it was");
	free(written);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t input_size)
{
	size_t size = input_size ? input_size - 1 : 0;
	uint8_t *block = malloc(size + 1), *data = block + 1;
	struct numi_head head;
	struct plain found;
	int flaw;

	if (!block || !input_size) {
		free(block);
		return 0;
	}
	memcpy(block, input, input_size);
	if (size >= 36)
		help(data, size, input[0]);
	memset(&head, 0xA5, sizeof(head));
	flaw = numi_decode(data, size, &head);
	claim(flaw >= 0 && flaw < ASSENT_NUMI_FLAWS, "a flaw is one that there is");
	claim((flaw == 0) == is_packet(data, size, &found),
	      "a packet is accepted, and nothing else");
	if (flaw) {
		for (size_t i = 0; i < sizeof(head); i++)
			claim(((uint8_t *)&head)[i] == 0xA5, "nothing is written of what is none");
	} else {
		check_mac(data, size, &found);
		check_packet(data, size, &found);
	}
	free(block);
	return 0;
}
