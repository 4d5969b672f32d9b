// SPDX-License-Identifier: Apache-2.0
/*
 * Is this deterministic CBOR (RFC 8949, section 4.2.1) within bounds? Asked before a decoder builds
 * anything: one pass, no recursion, no allocation, nothing read beyond the end.
 *
 * Accepted: integers of up to 64 bits, byte and text strings, arrays, maps with text keys, floats,
 * false, true and null; each in its one shortest encoding, keys sorted and no key twice.
 */
#include <string.h>

#include "native.h"

enum major { UNSIGNED, NEGATIVE, BYTES, TEXT, ARRAY, MAP, TAG, SIMPLE };

/* One data item's head; a string's content is part of the item, an array's is not. */
struct item {
	enum major major;
	uint64_t argument;
	size_t end;
};

struct level {
	uint64_t left;  /* items still to come; a map counts keys and values */
	uint8_t map;    /* the even ones are keys */
	uint8_t keys;   /* enum major of them: TEXT, or UNSIGNED where they are numbers */
	size_t key;     /* the last key's place; its end follows */
	size_t key_end; /* 0: none yet */
};

static uint64_t big_endian(const uint8_t *at, unsigned int width)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < width; i++)
		value = value << 8 | at[i];
	return value;
}

/* A float that a shorter one says exactly has to be that shorter one; NaN is the half 7e00. */
static int float_is_shortest(uint64_t bits, unsigned int width)
{
	if (width == 2)
		return (bits & 0x7c00) != 0x7c00 || !(bits & 0x3ff) || bits == 0x7e00;
	if (width == 4) {
		uint32_t exponent = bits >> 23 & 0xff, fraction = bits & 0x7fffff;

		if (exponent == 0xff)
			return 0;
		if (!exponent)
			return fraction != 0;
		/* Normal halves: 10 bits of fraction. Subnormal ones, from 2^-24: fewer and fewer.
		 */
		if (exponent >= 113 && exponent <= 142)
			return (fraction & 0x1fff) != 0;
		if (exponent >= 103 && exponent < 113)
			return ((fraction | 0x800000) & ((1u << (126 - exponent)) - 1)) != 0;
		return 1;
	} else {
		uint64_t exponent = bits >> 52 & 0x7ff, fraction = bits & 0xfffffffffffffULL;

		if (exponent == 0x7ff)
			return 0;
		if (!exponent)
			return fraction != 0;
		/* The same for singles: 23 bits, and subnormal ones from 2^-149. */
		if (exponent >= 897 && exponent <= 1150)
			return (fraction & 0x1fffffff) != 0;
		if (exponent >= 874 && exponent < 897)
			return ((fraction | 1ULL << 52) & ((1ULL << (926 - exponent)) - 1)) != 0;
		return 1;
	}
}

/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
static int is_utf8(const uint8_t *at, size_t len)
{
	size_t i = 0;

	while (i < len) {
		uint8_t first = at[i];
		uint8_t low = 0x80, high = 0xbf;
		size_t more;

		if (first < 0x80) {
			/* Eight at once: most text is ASCII. */
			uint64_t eight = 0;

			if (len - i >= sizeof(eight))
				memcpy(&eight, at + i, sizeof(eight));
			i += len - i >= sizeof(eight) && !(eight & 0x8080808080808080ULL) ? 8 : 1;
			continue;
		}
		if (first >= 0xc2 && first <= 0xdf)
			more = 1;
		else if (first >= 0xe0 && first <= 0xef)
			more = 2;
		else if (first >= 0xf0 && first <= 0xf4)
			more = 3;
		else
			return 0;
		if (first == 0xe0)
			low = 0xa0;
		else if (first == 0xed)
			high = 0x9f;
		else if (first == 0xf0)
			low = 0x90;
		else if (first == 0xf4)
			high = 0x8f;
		if (len - i <= more || at[i + 1] < low || at[i + 1] > high)
			return 0;
		for (size_t k = 2; k <= more; k++)
			if ((at[i + k] & 0xc0) != 0x80)
				return 0;
		i += more + 1;
	}
	return 1;
}

static enum an_cbor_fault read_item(const uint8_t *buf, size_t len, size_t at, struct item *item)
{
	unsigned int info, width = 0;

	if (at >= len)
		return AN_CBOR_SHORT;
	item->major = buf[at] >> 5;
	info = buf[at] & 0x1f;
	at++;
	if (item->major == TAG)
		return AN_CBOR_TAG;
	if (info == 31)
		return AN_CBOR_INDEFINITE;
	if (item->major == SIMPLE ? (info < 20 || info == 23 || info == 24 || info > 27)
				  : info > 27)
		return AN_CBOR_SIMPLE;
	if (info >= 24)
		width = 1u << (info - 24);
	if (width > len - at)
		return AN_CBOR_SHORT;
	item->argument = width ? big_endian(buf + at, width) : info;
	at += width;
	if (item->major == SIMPLE) {
		if (width && !float_is_shortest(item->argument, width))
			return AN_CBOR_LONG_FORM;
	} else if (width && item->argument < (width == 1 ? 24 : 1ULL << (4 * width))) {
		return AN_CBOR_LONG_FORM;
	}
	if (item->major == BYTES || item->major == TEXT) {
		if (item->argument > len - at)
			return AN_CBOR_SHORT;
		if (item->major == TEXT && !is_utf8(buf + at, item->argument))
			return AN_CBOR_UTF8;
		at += item->argument;
	}
	item->end = at;
	return AN_CBOR_FINE;
}

/* Keys sort by their encoding, byte by byte. */
static enum an_cbor_fault place_key(const uint8_t *buf, struct level *top, size_t at,
				    const struct item *item)
{
	if (item->major != top->keys)
		return AN_CBOR_KEY_KIND;
	if (top->key_end) {
		size_t before = top->key_end - top->key, now = item->end - at;
		int order = memcmp(buf + top->key, buf + at, before < now ? before : now);

		/* Heads tell lengths, so none is the beginning of another. */
		if (order >= 0)
			return order ? AN_CBOR_UNSORTED : AN_CBOR_KEY_TWICE;
	}
	top->key = at;
	top->key_end = item->end;
	return AN_CBOR_FINE;
}

/* Whether the item that comes now is the value of that key of the outermost map. */
static int is_value_of(const uint8_t *buf, const struct level *top, uint32_t depth,
		       const uint8_t *key, size_t key_len)
{
	return key_len && depth == 1 && top->map && top->key_end - top->key == key_len &&
	       !memcmp(buf + top->key, key, key_len);
}

int an_cbor_check(const uint8_t *buf, size_t len, uint32_t max_depth, uint32_t max_items)
{
	return an_cbor_check_numbered(buf, len, max_depth, max_items, NULL, 0);
}

int an_cbor_check_numbered(const uint8_t *buf, size_t len, uint32_t max_depth, uint32_t max_items,
			   const uint8_t *numbered, size_t numbered_len)
{
	struct level levels[AN_CBOR_DEPTH_MAX];
	uint32_t depth = 0, items = 0;
	size_t at = 0;

	if (max_depth > AN_CBOR_DEPTH_MAX)
		max_depth = AN_CBOR_DEPTH_MAX;
	do {
		struct level *top = depth ? &levels[depth - 1] : NULL;
		struct item item;
		enum an_cbor_fault fault = read_item(buf, len, at, &item);

		if (fault)
			return fault;
		if (++items > max_items)
			return AN_CBOR_ITEMS;
		if (top) {
			if (top->map && !(top->left & 1))
				fault = place_key(buf, top, at, &item);
			if (fault)
				return fault;
			top->left--;
		}
		at = item.end;
		if (item.major == ARRAY || item.major == MAP) {
			if (depth == max_depth)
				return AN_CBOR_DEPTH;
			/* An item has a byte at least, so such a claim is wrong already. */
			if (item.argument > max_items)
				return AN_CBOR_ITEMS;
			levels[depth] = (struct level){
			    .left = item.argument << (item.major == MAP),
			    .map = item.major == MAP,
			    .keys = is_value_of(buf, top, depth, numbered, numbered_len) ? UNSIGNED
											 : TEXT,
			};
			depth++;
		}
		while (depth && !levels[depth - 1].left)
			depth--;
	} while (depth);
	return at == len ? AN_CBOR_FINE : AN_CBOR_TRAILING;
}

/* The end of an item that has been checked, with all that it contains. */
static size_t skip(const uint8_t *buf, size_t len, size_t at)
{
	uint64_t left = 1;
	struct item item;

	while (left--) {
		if (read_item(buf, len, at, &item))
			return 0;
		at = item.end;
		if (item.major == ARRAY || item.major == MAP)
			left += item.argument << (item.major == MAP);
	}
	return at;
}

int an_cbor_split(const uint8_t *buf, size_t len, uint32_t *spans, uint32_t max_pairs)
{
	struct item item;
	size_t at;

	if (len > UINT32_MAX || read_item(buf, len, 0, &item) || item.major != MAP ||
	    item.argument > max_pairs)
		return -1;
	at = item.end;
	for (uint64_t i = 0; i < item.argument; i++) {
		struct item key;

		if (read_item(buf, len, at, &key) || key.major != TEXT)
			return -1;
		spans[3 * i] = key.end - key.argument;
		spans[3 * i + 1] = key.end;
		at = skip(buf, len, key.end);
		if (!at)
			return -1;
		spans[3 * i + 2] = at;
	}
	return item.argument;
}
