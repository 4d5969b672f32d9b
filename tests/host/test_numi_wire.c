// SPDX-License-Identifier: Apache-2.0
/*
 * assent/numiport.h and numiport/native/wire.c under ASan and UBSan. Every datagram lies at the end
 * of a heap block of its own size, so that a byte read too many is seen, and at an odd address.
 *
 * `test_numi_wire walk` is no case: it reads datagrams, each after its length in two bytes, and
 * writes a line for each: its flaw, and what is covered. test_numi_wire.py compares them.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../controlplane/assent/numiport/native/wire.c"
#include "cases.h"

#define ROOM 600

static uint8_t datagram[ROOM];
static uint32_t datagram_len;

/* -- by hand ----------------------------------------------------------------------------------- */

static void begin(uint32_t flags)
{
	memset(datagram, 0, sizeof(datagram));
	datagram[0] = 1;
	datagram[1] = (uint8_t)(flags << 2);
	datagram_len = 32;
}

static void put(uint32_t type, uint32_t len)
{
	CLAIM(datagram_len + 3 + len + 3 <= ROOM);
	datagram[datagram_len] = (uint8_t)type;
	datagram[datagram_len + 1] = (uint8_t)(len >> 8);
	datagram[datagram_len + 2] = (uint8_t)len;
	datagram_len += (3 + len + 3) / 4 * 4;
}

/* All that read, on a copy that ends where its block does; they are of one mind. */
static enum assent_numi_flaw flaw_of(const uint8_t *bytes, size_t len)
{
	uint8_t *block = malloc(len + 1), *copy = block + 1, out[ASSENT_NUMI_HEAD_MAX], mac[16];
	struct numi_mac_key key = {0};
	struct numi_head head;
	int flaw;

	CLAIM(block);
	memcpy(copy, bytes, len);
	flaw = numi_decode(copy, len, &head);
	CLAIM(flaw ? numi_covered(copy, len, out) == -flaw : numi_covered(copy, len, out) >= 36);
	CLAIM(numi_mac(&key, copy, len, mac) == -flaw);
	CLAIM(flaw ? numi_mac_check(&key, copy, len) == -flaw
		   : numi_mac_check(&key, copy, len) >= 0);
	CLAIM(!memcmp(copy, bytes, len));
	if (!flaw) {
		uint8_t *again = malloc(ASSENT_NUMI_HEAD_MAX);

		/* What is read is written as it was, but for the order of TLVs. */
		CLAIM(again);
		CLAIM(numi_encode(&head, again) == head.head_len);
		CLAIM(!memcmp(again, copy, ASSENT_NUMI_HEADER_LEN));
		free(again);
	}
	free(block);
	return (enum assent_numi_flaw)flaw;
}

static enum assent_numi_flaw flaw(void)
{
	return flaw_of(datagram, datagram_len);
}

/* -- cases ------------------------------------------------------------------------------------- */

/* Every type with every length, in a datagram that is long enough for any of them to be read. */
static void test_every_type_and_length(void)
{
	static const uint32_t flags[256] = {
	    [2] = ASSENT_NUMI_FLAG_PSK_ID, [4] = ASSENT_NUMI_FLAG_NACK, [6] = ASSENT_NUMI_FLAG_ECN};

	for (uint32_t type = 0; type < 256; type++) {
		for (uint32_t len = 0; len < 300; len++) {
			enum assent_numi_flaw found;

			begin(flags[type]);
			put(type, len);
			if (type == ASSENT_NUMI_ACK_RLE) /* ranges that rise */
				for (uint32_t i = 0; i < len / 4; i++) {
					datagram[35 + 4 * i + 1] = (uint8_t)(2 * i);
					datagram[35 + 4 * i + 3] = 1;
				}
			if (type != ASSENT_NUMI_END)
				put(ASSENT_NUMI_END, 0);
			found = flaw();
			if (type >= ASSENT_NUMI_TLVS)
				CLAIM(found == ASSENT_NUMI_FLAW_TLV_TYPE);
			else
				CLAIM(found == (assent_numi_may_have(type, len)
						    ? ASSENT_NUMI_FINE
						    : ASSENT_NUMI_FLAW_TLV_LENGTH));
		}
	}
}

/* All lengths that two bytes can say: none is believed beyond the datagram. */
static void test_every_length_that_can_be_said(void)
{
	for (uint32_t type = 0; type < ASSENT_NUMI_TLVS; type++) {
		for (uint32_t len = 0; len <= UINT16_MAX; len++) {
			begin(0);
			datagram[32] = (uint8_t)type;
			datagram[33] = (uint8_t)(len >> 8);
			datagram[34] = (uint8_t)len;
			datagram_len = 36;
			CLAIM(!flaw() == (type == ASSENT_NUMI_END && !len));
		}
	}
}

/* A packet is refused wherever it is cut, and with anything behind it but what is a tag's length.
 */
static void test_every_cut(void)
{
	begin(ASSENT_NUMI_FLAG_PSK_ID);
	put(ASSENT_NUMI_PSK_ID, 4);
	put(ASSENT_NUMI_HDR_MAC, 16);
	put(ASSENT_NUMI_RETRY_COOKIE, 31);
	put(ASSENT_NUMI_END, 0);
	datagram[23] = 5;
	for (uint32_t len = 0; len < ROOM; len++)
		CLAIM(!flaw_of(datagram, len) ==
		      (len == datagram_len + 5 || len == datagram_len + 5 + 16));
}

/* The two bytes of version, class and flags, all of them, on a packet that is plain otherwise. */
static void test_every_beginning(void)
{
	begin(0);
	put(ASSENT_NUMI_END, 0);
	for (uint32_t word = 0; word <= UINT16_MAX; word++) {
		datagram[0] = (uint8_t)(word >> 8);
		datagram[1] = (uint8_t)word;
		CLAIM(!flaw() == (word >= 0x100 && word <= 0x103));
	}
}

/* Every order of types without END: the walk ends with the first that comes twice. */
static void test_the_walk_is_bounded(void)
{
	struct assent_numi_found found;

	begin(0);
	for (uint32_t type = 1; type < ASSENT_NUMI_TLVS; type++) {
		static const uint32_t most[] = {0, 23, 4, 64, 32, 2, 2, 32, 16, 16};

		put(type, most[type]);
	}
	CLAIM(datagram_len == ASSENT_NUMI_HEAD_MAX - 4);
	CLAIM(assent_numi_walk(datagram, datagram_len, &found) == ASSENT_NUMI_FLAW_UNENDED);
	for (uint32_t type = 0; type < 256; type++) {
		enum assent_numi_flaw expected = ASSENT_NUMI_FLAW_TLV_TWICE;

		if (type == ASSENT_NUMI_END)
			expected = ASSENT_NUMI_FINE;
		else if (type >= ASSENT_NUMI_TLVS)
			expected = ASSENT_NUMI_FLAW_TLV_TYPE;
		datagram[datagram_len] = (uint8_t)type;
		CLAIM(assent_numi_walk(datagram, ROOM, &found) == expected);
	}
}

/* Nothing beyond ASSENT_NUMI_HEAD_MAX is read, however long the datagram is said to be. */
static void test_a_head_is_enough(void)
{
	uint8_t *head = malloc(ASSENT_NUMI_HEAD_MAX);
	struct assent_numi_work work;
	struct assent_numi_found found;
	struct assent_hmac key = {0};

	CLAIM(head);
	begin(0);
	for (uint32_t type = 1; type < ASSENT_NUMI_TLVS; type++) {
		static const uint32_t most[] = {0, 23, 4, 64, 32, 2, 2, 32, 16, 16};

		put(type, most[type]);
	}
	for (uint32_t i = 0; i < 16; i++) {
		uint8_t *range = datagram + 32 + 28 + 8 + 3 + 4 * i;

		range[1] = (uint8_t)(2 * i);
		range[3] = 1;
	}
	put(ASSENT_NUMI_END, 0);
	datagram[1] = (ASSENT_NUMI_FLAG_NACK | ASSENT_NUMI_FLAG_PSK_ID | ASSENT_NUMI_FLAG_ECN) << 2;
	memcpy(head, datagram, ASSENT_NUMI_HEAD_MAX);
	for (uint32_t plen = 0; plen + ASSENT_NUMI_HEAD_MAX <= ASSENT_NUMI_PACKET_MAX; plen++) {
		head[22] = (uint8_t)(plen >> 8);
		head[23] = (uint8_t)plen;
		CLAIM(!assent_numi_parse(head, ASSENT_NUMI_HEAD_MAX + plen, &found));
		CLAIM(found.head_len == ASSENT_NUMI_HEAD_MAX);
	}
	CLAIM(!assent_numi_mac_matches(&key, head, &found, &work));
	CLAIM(assent_numi_parse(head, ASSENT_NUMI_PACKET_MAX + 1, &found) ==
	      ASSENT_NUMI_FLAW_LENGTH);
	free(head);
}

/* SHA-256 of "abc", and of the 448 bits in FIPS 180-4's example, one block and two. */
static void test_sha256(void)
{
	static const char two[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
	static const struct assent_sha256 of_abc = {{0xba7816bf, 0x8f01cfea, 0x414140de, 0x5dae2223,
						     0xb00361a3, 0x96177a9c, 0xb410ff61,
						     0xf20015ad}};
	static const struct assent_sha256 of_two = {{0x248d6a61, 0xd20638b8, 0xe5c02693, 0x0c3e6039,
						     0xa33ce459, 0x64ff2167, 0xf6ecedd4,
						     0x19db06c1}};
	struct assent_sha256_block block = {{0x61626380, [15] = 24}};
	struct assent_sha256 state;

	assent_sha256_init(&state);
	assent_sha256_absorb(&state, &block);
	CLAIM(!memcmp(&state, &of_abc, sizeof(state)));
	for (uint32_t i = 0; i < 14; i++)
		block.w[i] = assent_numi_u32((const uint8_t *)two + 4 * i);
	block.w[14] = 0x80000000;
	block.w[15] = 0;
	assent_sha256_init(&state);
	assent_sha256_absorb(&state, &block);
	memset(&block, 0, sizeof(block));
	block.w[15] = 448;
	assent_sha256_absorb(&state, &block);
	CLAIM(!memcmp(&state, &of_two, sizeof(state)));
}

/* Whatever a caller leaves in it, nothing is written beyond what there is room for. */
static void test_encoding_any_head(void)
{
	uint64_t state = 88172645463325252ULL;

	for (int turn = 0; turn < 200000; turn++) {
		uint8_t *out = malloc(ASSENT_NUMI_HEAD_MAX);
		struct numi_head head;
		int len;

		CLAIM(out);
		for (size_t i = 0; i < sizeof(head); i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			((uint8_t *)&head)[i] = (uint8_t)(turn & 1 ? state >> 8 : state >> 8 & 3);
		}
		len = numi_encode(&head, out);
		CLAIM(len <= ASSENT_NUMI_HEAD_MAX && len > -ASSENT_NUMI_FLAWS);
		free(out);
	}
}

static const struct host_case cases[] = {
    CASE(every_type_and_length),
    CASE(every_length_that_can_be_said),
    CASE(every_cut),
    CASE(every_beginning),
    CASE(the_walk_is_bounded),
    CASE(a_head_is_enough),
    CASE(sha256),
    CASE(encoding_any_head),
};

/* -- for comparison ---------------------------------------------------------------------------- */

static int walk(void)
{
	uint8_t size[2], out[ASSENT_NUMI_HEAD_MAX];
	static uint8_t bytes[UINT16_MAX];

	while (fread(size, 1, 2, stdin) == 2) {
		size_t len = (size_t)size[0] << 8 | size[1];
		int count;

		CLAIM(fread(bytes, 1, len, stdin) == len);
		printf("%d ", flaw_of(bytes, len));
		count = numi_covered(bytes, len, out);
		for (int i = 0; i < count; i++)
			printf("%02x", out[i]);
		putchar('\n');
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "walk"))
		return walk();
	return run_cases(cases, sizeof(cases) / sizeof(*cases), argc, argv);
}
