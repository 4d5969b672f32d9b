// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>

#include "assent/wire.h"
#include "native.h"

#define TAG_HEAD 8 /* tag u16, length u16, ref u32 */
#define TAG_GAPS 5
#define UINT_MAX_LEN 5 /* bytes of a CBOR integer of 32 bits */

/* {"gaps": */
static const uint8_t opening[] = {0xa1, 0x64, 'g', 'a', 'p', 's'};

enum { CBOR_UINT = 0x00, CBOR_ARRAY = 0x80 };

static uint8_t *put_head(uint8_t *at, uint8_t major, uint32_t value)
{
	if (value < 24) {
		*at++ = (uint8_t)(major | value);
	} else if (value < 0x100) {
		*at++ = major | 24;
		*at++ = (uint8_t)value;
	} else if (value < 0x10000) {
		*at++ = major | 25;
		*at++ = (uint8_t)(value >> 8);
		*at++ = (uint8_t)value;
	} else {
		*at++ = major | 26;
		*at++ = (uint8_t)(value >> 24);
		*at++ = (uint8_t)(value >> 16);
		*at++ = (uint8_t)(value >> 8);
		*at++ = (uint8_t)value;
	}
	return at;
}

static uint32_t head_len(uint32_t value)
{
	return value < 24 ? 1 : value < 0x100 ? 2 : value < 0x10000 ? 3 : UINT_MAX_LEN;
}

/* How many of the ranges fit, and where the tag's body ends then. */
static uint32_t count_fitting(const struct an_gap *gaps, uint32_t count, uint32_t room,
			      uint32_t *body)
{
	uint32_t fitting = 0, ranges = 0;

	*body = 0;
	for (uint32_t i = 0; i < count && i < AN_GAPS_MAX; i++) {
		uint32_t skip =
		    i ? gaps[i].first - (gaps[i - 1].first + gaps[i - 1].count) : gaps[i].first;
		uint32_t len;

		ranges += head_len(skip) + head_len(gaps[i].count);
		len = (uint32_t)sizeof(opening) + head_len(2 * (i + 1)) + ranges;
		if (assent_padded_len(TAG_HEAD + len) > room)
			break;
		fitting = i + 1;
		*body = len;
	}
	return fitting;
}

uint32_t an_gaps_encode(const struct an_gap *gaps, uint32_t count, uint8_t *out, uint32_t room,
			uint32_t *written)
{
	uint32_t body, padded;
	uint8_t *at = out;

	*written = count_fitting(gaps, count, room, &body);
	if (!*written)
		return 0;
	*at++ = 0;
	*at++ = TAG_GAPS;
	*at++ = (uint8_t)(body >> 8);
	*at++ = (uint8_t)body;
	memset(at, 0, 4);
	at += 4;
	memcpy(at, opening, sizeof(opening));
	at = put_head(at + sizeof(opening), CBOR_ARRAY, 2 * *written);
	for (uint32_t i = 0; i < *written; i++) {
		at = put_head(at, CBOR_UINT,
			      i ? gaps[i].first - (gaps[i - 1].first + gaps[i - 1].count)
				: gaps[i].first);
		at = put_head(at, CBOR_UINT, gaps[i].count);
	}
	padded = assent_padded_len(TAG_HEAD + body);
	memset(at, 0, (size_t)(out + padded - at));
	return padded;
}

/* A CBOR head in its shortest form. */
static int take_head(const uint8_t **at, const uint8_t *end, uint8_t major, uint32_t *value)
{
	uint32_t form, bytes;

	if (*at == end || (**at & 0xe0) != major)
		return -1;
	form = *(*at)++ & 0x1f;
	if (form < 24) {
		*value = form;
		return 0;
	}
	if (form > 26)
		return -1;
	bytes = 1U << (form - 24);
	if ((size_t)(end - *at) < bytes)
		return -1;
	*value = 0;
	while (bytes--)
		*value = *value << 8 | *(*at)++;
	return head_len(*value) == 1 + (1U << (form - 24)) ? 0 : -1;
}

static int take_ranges(const uint8_t *at, const uint8_t *end, struct an_gap *gaps)
{
	uint64_t span = 0;
	uint32_t items, next = 0;

	if (take_head(&at, end, CBOR_ARRAY, &items) || items % 2 || !items ||
	    items > 2 * AN_GAPS_READ_MAX)
		return -1;
	for (uint32_t i = 0; i < items / 2; i++) {
		uint32_t skip, count;

		if (take_head(&at, end, CBOR_UINT, &skip) ||
		    take_head(&at, end, CBOR_UINT, &count) || !count || (i && !skip))
			return -1;
		/* Numbers wrap; ranges do not reach half around. */
		span += (i ? skip : 0) + (uint64_t)count;
		if (span >= 0x80000000)
			return -1;
		gaps[i] = (struct an_gap){.first = next + skip, .count = count};
		next += skip + count;
	}
	return at == end ? (int)(items / 2) : -1;
}

int an_gaps_decode(const uint8_t *plain, uint32_t len, struct an_gap *gaps)
{
	static const uint8_t no_ref[4];
	uint32_t body;

	if (len < TAG_HEAD + sizeof(opening) || plain[0] || plain[1] != TAG_GAPS ||
	    memcmp(plain + 4, no_ref, sizeof(no_ref)))
		return -1;
	body = (uint32_t)plain[2] << 8 | plain[3];
	if (assent_padded_len(TAG_HEAD + body) != len || body < sizeof(opening) ||
	    memcmp(plain + TAG_HEAD, opening, sizeof(opening)))
		return -1;
	for (uint32_t i = TAG_HEAD + body; i < len; i++)
		if (plain[i])
			return -1;
	return take_ranges(plain + TAG_HEAD + sizeof(opening), plain + TAG_HEAD + body, gaps);
}
