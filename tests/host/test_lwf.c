// SPDX-License-Identifier: Apache-2.0
/*
 * assent/lwf.h on the host, under ASan and UBSan. Each function below is one case; it aborts with a
 * message where a claim is false.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/lwf.h"
#include "cases.h"

static struct assent_lwf_header header(void)
{
	return (struct assent_lwf_header){
	    .magic = assent_be32(ASSENT_LWF_MAGIC),
	    .frame_class = ASSENT_LWF_VARIABLE,
	    .version = 1,
	};
}

static const uint32_t longest[256] = {
    [0] = 128, [1] = 512, [2] = 1350, [3] = 4096, [4] = 9000, [255] = UINT32_MAX,
};

/* Every class, every payload length: right are two lengths, and the class's own. */
static void test_every_length(void)
{
	struct assent_lwf_header h = header();

	for (uint32_t frame_class = 0; frame_class < 256; frame_class++) {
		uint32_t most = longest[frame_class];

		CLAIM(assent_lwf_class_len(frame_class) == most);
		h.frame_class = (__u8)frame_class;
		for (uint32_t payload = 0; payload <= UINT16_MAX; payload++) {
			uint32_t unsealed = 88 + payload;

			h.payload_len = assent_be16(payload);
			CLAIM(!assent_lwf_check(&h, unsealed + 36) == (unsealed + 36 <= most));
			CLAIM(!assent_lwf_check(&h, unsealed + 68) == (unsealed + 68 <= most));
			if (most < UINT32_MAX) {
				CLAIM(!assent_lwf_check(&h, most) == (unsealed + 36 <= most));
				CLAIM(assent_lwf_check(&h, most + 1));
			}
		}
	}
}

static void test_lengths_between(void)
{
	struct assent_lwf_header h = header();

	h.frame_class = ASSENT_LWF_STANDARD;
	h.payload_len = assent_be16(100);
	for (uint32_t len = 88; len < 2000; len++)
		CLAIM(!assent_lwf_check(&h, len) == (len == 224 || len == 256 || len == 1350));
}

static void test_every_version_and_flag(void)
{
	struct assent_lwf_header h = header();

	for (uint32_t version = 0; version < 256; version++) {
		for (uint32_t flags = 0; flags < 256; flags++) {
			h.version = (__u8)version;
			h.flags = (__u8)flags;
			CLAIM(!assent_lwf_check(&h, 124) == (version == 1 || version == 2));
			if (version == 1)
				CLAIM(assent_lwf_is_relayable(&h));
			if (version == 2)
				CLAIM(!assent_lwf_is_relayable(&h) == !(flags & 4));
		}
	}
}

static void test_every_bit_of_the_magic(void)
{
	struct assent_lwf_header h = header();

	for (int bit = 0; bit < 32; bit++) {
		CLAIM(!assent_lwf_check(&h, 124));
		h.magic ^= 1u << bit;
		CLAIM(assent_lwf_check(&h, 124) == ASSENT_DROP_LWF_MALFORMED);
		h.magic ^= 1u << bit;
	}
	CLAIM(!memcmp(&h, "LWF", 4));
}

static void test_every_service(void)
{
	struct assent_lwf_header h = header();

	for (uint32_t service = 0; service <= UINT16_MAX; service++) {
		h.service_type = assent_be16(service);
		CLAIM(assent_lwf_is_registration(&h) == (service == 5));
	}
}

/* Each bit makes somebody of nobody; a hint in a header is 4-byte aligned and no more. */
static void test_nobody(void)
{
	struct assent_lwf_header h = header();

	CLAIM(assent_lwf_is_nobody(&h.dest) && assent_lwf_is_nobody(&h.source));
	for (int bit = 0; bit < 8 * ASSENT_LWF_HINT_LEN; bit++) {
		h.dest.bytes[bit / 8] ^= 1 << bit % 8;
		CLAIM(!assent_lwf_is_nobody(&h.dest));
		h.dest.bytes[bit / 8] ^= 1 << bit % 8;
	}
}

/* Each bit of the header changes it, and so does the key. */
static void test_fingerprint(void)
{
	struct assent_lwf_header h = header();
	struct assent_sip key, other;
	uint8_t *bytes = (uint8_t *)&h;
	__u64 usual;

	assent_sip_init(&key, 1, 2);
	assent_sip_init(&other, 1, 3);
	usual = assent_lwf_fingerprint(&key, &h);
	CLAIM(usual == assent_lwf_fingerprint(&key, &h));
	CLAIM(usual != assent_lwf_fingerprint(&other, &h));
	for (uint32_t bit = 0; bit < 8 * sizeof(h); bit++) {
		bytes[bit / 8] ^= 1 << bit % 8;
		CLAIM(usual != assent_lwf_fingerprint(&key, &h));
		bytes[bit / 8] ^= 1 << bit % 8;
	}
}

static const struct host_case cases[] = {
    CASE(every_length),
    CASE(lengths_between),
    CASE(every_version_and_flag),
    CASE(every_bit_of_the_magic),
    CASE(every_service),
    CASE(nobody),
    CASE(fingerprint),
};

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(*cases), argc, argv);
}
