// SPDX-License-Identifier: Apache-2.0
/*
 * native/cbor.c under ASan and UBSan. Every input lies at the end of a heap block of its own size,
 * so that a byte read too many is seen.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../controlplane/assent/native/cbor.c"
#include "cases.h"

static int checked(const void *bytes, size_t len)
{
	uint8_t *copy = malloc(len);
	int fault;

	CLAIM(copy || !len);
	if (len)
		memcpy(copy, bytes, len);
	fault = an_cbor_check(copy, len, 16, 4096);
	free(copy);
	return fault;
}

static uint64_t random_word(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* All inputs of one, two and three bytes: none is read beyond its end. */
static void test_short_inputs(void)
{
	uint8_t bytes[3];

	CLAIM(checked("", 0) == AN_CBOR_SHORT);
	for (uint32_t word = 0; word < 1 << 24; word += word < 1 << 16 ? 1 : 251) {
		bytes[0] = word;
		bytes[1] = word >> 8;
		bytes[2] = word >> 16;
		for (size_t len = 1; len <= sizeof(bytes); len++)
			CLAIM(checked(bytes, len) >= 0);
	}
}

/* What is accepted is one item exactly: cut anywhere it is short, and one byte more is too many. */
static void test_accepted_inputs_are_whole(void)
{
	static const char *const heads =
	    "\x80\x81\x82\xa0\xa1\xa2\x60\x61\x62\x40\x41\x00\x18\x19\xf5\xf9";
	uint64_t state = 88172645463325252ULL;
	uint32_t accepted = 0;

	for (int turn = 0; turn < 2000000; turn++) {
		uint8_t bytes[33] = {0};
		size_t len = 1 + random_word(&state) % 32;

		for (size_t i = 0; i < len; i++) {
			uint64_t word = random_word(&state);

			bytes[i] = word & 1 ? (uint8_t)heads[word >> 8 & 15] : word >> 16;
		}
		if (checked(bytes, len))
			continue;
		accepted++;
		CLAIM(checked(bytes, len + 1) == AN_CBOR_TRAILING);
		for (size_t cut = 0; cut < len; cut++)
			CLAIM(checked(bytes, cut) == AN_CBOR_SHORT);
	}
	CLAIM(accepted > 1000);
}

static void test_lengths_that_overflow(void)
{
	static const uint8_t majors[] = {0x5b, 0x7b, 0x9b, 0xbb};

	for (size_t i = 0; i < sizeof(majors); i++) {
		for (int bit = 32; bit < 64; bit++) {
			uint8_t bytes[16] = {majors[i]};
			uint64_t claim = bit == 63 ? UINT64_MAX : 1ULL << bit;

			for (int at = 0; at < 8; at++)
				bytes[1 + at] = claim >> (56 - 8 * at);
			CLAIM(checked(bytes, sizeof(bytes)) ==
			      (majors[i] < 0x80 ? AN_CBOR_SHORT : AN_CBOR_ITEMS));
		}
	}
}

static void test_depth_and_items_are_bounded(void)
{
	static uint8_t tower[1 << 20];

	memset(tower, 0x81, sizeof(tower));
	CLAIM(checked(tower, sizeof(tower)) == AN_CBOR_DEPTH);
	tower[16] = 0;
	CLAIM(checked(tower, 17) == AN_CBOR_FINE);
	CLAIM(an_cbor_check(tower, 17, 15, 4096) == AN_CBOR_DEPTH);
	CLAIM(an_cbor_check(tower, 17, 99, 4096) == AN_CBOR_FINE);
	CLAIM(an_cbor_check(tower, 17, 16, 16) == AN_CBOR_ITEMS);
	CLAIM(an_cbor_check(tower, 17, 16, 17) == AN_CBOR_FINE);
}

/* One map, in its one place, has numbers for keys; in order, and nothing else. */
static void test_a_numbered_map(void)
{
	static const struct {
		const char *bytes;
		size_t len;
		int fault;
	} bodies[] = {
	    {"\xa1\x61g\xa2\x01\x05\x18\x18\x06", 9, AN_CBOR_FINE},
	    {"\xa2\x61g\xa1\x01\x05\x61h\xa1\x61x\x01", 12, AN_CBOR_FINE},
	    {"\xa1\x61g\xa0", 4, AN_CBOR_FINE},
	    {"\xa1\x61g\x80", 4, AN_CBOR_FINE},
	    {"\xa1\x61g\xa2\x02\x05\x01\x06", 8, AN_CBOR_UNSORTED},
	    {"\xa1\x61g\xa2\x01\x05\x01\x06", 8, AN_CBOR_KEY_TWICE},
	    {"\xa1\x61g\xa1\x61x\x05", 7, AN_CBOR_KEY_KIND},
	    {"\xa1\x61g\xa1\x20\x05", 6, AN_CBOR_KEY_KIND},
	    {"\xa1\x61h\xa1\x01\x05", 6, AN_CBOR_KEY_KIND},
	    {"\xa1\x61h\xa1\x61g\xa1\x01\x05", 9, AN_CBOR_KEY_KIND},
	    {"\xa1\x61g\x81\xa1\x01\x05", 7, AN_CBOR_KEY_KIND},
	    {"\x82\x61g\xa1\x01\x05", 6, AN_CBOR_KEY_KIND},
	    {"\xa1\x01\x05", 3, AN_CBOR_KEY_KIND},
	};

	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		const uint8_t *bytes = (const uint8_t *)bodies[i].bytes;

		CLAIM(an_cbor_check_numbered(bytes, bodies[i].len, 16, 64, (const uint8_t *)"\x61g",
					     2) == bodies[i].fault);
		for (size_t cut = 0; !bodies[i].fault && cut < bodies[i].len; cut++)
			CLAIM(an_cbor_check_numbered(bytes, cut, 16, 64, (const uint8_t *)"\x61g",
						     2) == AN_CBOR_SHORT);
	}
	CLAIM(checked(bodies[0].bytes, bodies[0].len) == AN_CBOR_KEY_KIND);
}

/* Singles that a half says, all of them, and those beside them. */
static void test_floats_at_the_edges(void)
{
	for (uint32_t exponent = 0; exponent < 256; exponent++) {
		for (int bit = -1; bit < 23; bit++) {
			uint32_t bits = exponent << 23 | (bit < 0 ? 0 : 1u << bit);
			_Float16 half;
			float single;
			int shorter;

			memcpy(&single, &bits, sizeof(single));
			half = (_Float16)single;
			shorter = (float)half == single || single != single;
			CLAIM(float_is_shortest(bits, 4) != shorter);
		}
	}
	for (uint64_t exponent = 0; exponent < 2047; exponent++) {
		for (int bit = -1; bit < 52; bit++) {
			uint64_t bits = exponent << 52 | (bit < 0 ? 0 : 1ULL << bit);
			double whole;

			memcpy(&whole, &bits, sizeof(whole));
			CLAIM(float_is_shortest(bits, 8) != ((double)(float)whole == whole));
		}
	}
}

/* Every code point is accepted in its one form; surrogates are not. */
static void test_utf8_is_that_of_rfc_3629(void)
{
	for (uint32_t point = 0; point < 0x120000; point++) {
		uint8_t text[4];
		size_t len;

		if (point < 0x80) {
			text[0] = point;
			len = 1;
		} else if (point < 0x800) {
			text[0] = 0xc0 | point >> 6;
			len = 2;
		} else if (point < 0x10000) {
			text[0] = 0xe0 | point >> 12;
			len = 3;
		} else {
			text[0] = 0xf0 | point >> 18;
			len = 4;
		}
		for (size_t at = 1; at < len; at++)
			text[at] = 0x80 | (point >> (6 * (len - 1 - at)) & 0x3f);
		CLAIM(is_utf8(text, len) ==
		      ((point < 0xd800 || point > 0xdfff) && point <= 0x10ffff));
		for (size_t cut = 1; cut < len; cut++)
			CLAIM(!is_utf8(text, cut));
	}
	CLAIM(!is_utf8((const uint8_t *)"\xc0\x80", 2));
	CLAIM(!is_utf8((const uint8_t *)"\xe0\x9f\xbf", 3));
	CLAIM(!is_utf8((const uint8_t *)"\xf0\x8f\xbf\xbf", 4));
	CLAIM(!is_utf8((const uint8_t *)"eight by\x80", 9));
}

/* {"a": [1, {"b": 2}], "bb": 3} */
static void test_split_names_the_places(void)
{
	static const uint8_t map[] = "\xa2\x61"
				     "a\x82\x01\xa1\x61"
				     "b\x02\x62"
				     "bb\x03";
	static const uint32_t expected[] = {2, 3, 9, 10, 12, 13};
	size_t len = sizeof(map) - 1;
	uint32_t spans[6] = {0};

	CLAIM(checked(map, len) == AN_CBOR_FINE);
	CLAIM(an_cbor_split(map, len, spans, 2) == 2);
	CLAIM(!memcmp(spans, expected, sizeof(expected)));
	CLAIM(an_cbor_split(map, len, spans, 1) == -1);
	for (size_t cut = 0; cut < len; cut++)
		CLAIM(an_cbor_split(map, cut, spans, 2) == -1);
	CLAIM(an_cbor_split((const uint8_t *)"\x80", 1, spans, 2) == -1);
	CLAIM(an_cbor_split((const uint8_t *)"\xa1\x01\x01", 3, spans, 2) == -1);
	CLAIM(an_cbor_split((const uint8_t *)"\xa0", 1, spans, 2) == 0);
}

/* clang-format off */
static const struct host_case cases[] = {
	CASE(short_inputs),
	CASE(accepted_inputs_are_whole),
	CASE(lengths_that_overflow),
	CASE(depth_and_items_are_bounded),
	CASE(a_numbered_map),
	CASE(floats_at_the_edges),
	CASE(utf8_is_that_of_rfc_3629),
	CASE(split_names_the_places),
};
/* clang-format on */

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
