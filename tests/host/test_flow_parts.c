// SPDX-License-Identifier: Apache-2.0
/* Records, gaps and the pool, each by itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../controlplane/assent/native/flow_parts.h"

static int failed;

#define CHECK(what)                                                                                \
	do {                                                                                       \
		if (!(what)) {                                                                     \
			fprintf(stderr, "%s:%d: not so: %s\n", __func__, __LINE__, #what);         \
			failed = 1;                                                                \
		}                                                                                  \
	} while (0)

static void records_are_read_to_the_last_byte(void)
{
	static const uint8_t two[] = {0, 3, 'a', 'b', 'c', 0, 0};
	static const uint8_t more[] = {0, 1, 'a', 0x80, 1, 'b'};
	static const uint8_t last[] = {0, 1, 'a', 0x40, 0};
	uint32_t found[9];
	int end;

	CHECK(an_records_check(two, sizeof(two), 1, &end) == 0 && !end);
	CHECK(an_records_check(last, sizeof(last), 0, &end) == 0 && end);
	CHECK(an_records_split(two, sizeof(two), 0, found, 3) == 2);
	CHECK(found[0] == 2 && found[1] == 3 && found[2] == 0);
	CHECK(found[3] == 7 && found[4] == 0 && found[5] == 0);
	CHECK(an_records_split(more, sizeof(more), 1, found, 3) == 2);
	CHECK(found[3] == 5 && found[4] == 1 && found[5] == AN_RECORD_MORE);
	CHECK(an_records_split(two, sizeof(two), 0, found, 1) == -1);
}

static void what_is_not_records_is_refused(void)
{
	static const struct {
		uint8_t bytes[8];
		uint32_t len;
		int ordered;
	} bad[] = {
	    {{0}, 0, 1},                       /* nothing */
	    {{0}, 1, 1},                       /* half a head */
	    {{0, 2, 'a'}, 3, 1},               /* runs over the end */
	    {{0, 1, 'a', 0}, 4, 1},            /* half a head after a record */
	    {{0x80, 1, 'a', 0, 1, 'b'}, 6, 1}, /* goes on, and something follows */
	    {{0x80, 1, 'a'}, 3, 0},            /* goes on where messages fit one frame */
	    {{0x40, 1, 'a'}, 3, 1},            /* the end has a length */
	    {{0xc0, 0}, 2, 1},                 /* the end goes on */
	    {{0x40, 0, 0, 1, 'a'}, 5, 1},      /* and something follows it */
	};
	uint32_t found[24];
	int end;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		CHECK(an_records_check(bad[i].bytes, bad[i].len, bad[i].ordered, &end) == -EPROTO);
		CHECK(an_records_split(bad[i].bytes, bad[i].len, bad[i].ordered, found, 8) == -1);
	}
}

static void gaps_come_back_as_they_were(void)
{
	uint8_t plain[2048];
	struct an_gap gaps[AN_GAPS_MAX], back[AN_GAPS_READ_MAX];
	uint32_t written, len;

	for (uint32_t step = 1; step < 100000; step = step * 3 + 1) {
		/* They may wrap. */
		uint32_t first = UINT32_MAX - 3 * step;

		for (uint32_t i = 0; i < AN_GAPS_MAX; i++) {
			gaps[i] = (struct an_gap){.first = first, .count = 1 + (i * step) % 300};
			first += gaps[i].count + step;
		}
		len = an_gaps_encode(gaps, AN_GAPS_MAX, plain, sizeof(plain), &written);
		CHECK(written == AN_GAPS_MAX && len % ASSENT_BLOCK_LEN == 0);
		CHECK(an_gaps_decode(plain, len, back) == AN_GAPS_MAX);
		CHECK(!memcmp(gaps, back, sizeof(gaps)));
	}
}

static void gaps_fill_the_room_that_there_is(void)
{
	uint8_t plain[2048];
	struct an_gap gaps[AN_GAPS_MAX], back[AN_GAPS_READ_MAX];
	uint32_t written, before = 0;

	for (uint32_t i = 0; i < AN_GAPS_MAX; i++)
		gaps[i] = (struct an_gap){.first = 1 + 1000 * i, .count = 500};
	for (uint32_t room = 0; room <= 1024; room += ASSENT_BLOCK_LEN) {
		uint32_t len = an_gaps_encode(gaps, AN_GAPS_MAX, plain, room, &written);

		CHECK(len <= room && written >= before);
		CHECK(!written == !len);
		if (len)
			CHECK(an_gaps_decode(plain, len, back) == (int)written);
		before = written;
	}
	CHECK(before == AN_GAPS_MAX);
}

static void gaps_are_read_to_the_bit(void)
{
	struct an_gap gaps[2] = {{.first = 5, .count = 2}, {.first = 300, .count = 1}};
	struct an_gap back[AN_GAPS_READ_MAX];
	uint8_t plain[64], other[65];
	uint32_t written, len = an_gaps_encode(gaps, 2, plain, sizeof(plain), &written);

	CHECK(len == 64 && an_gaps_decode(plain, len, back) == 2);
	CHECK(an_gaps_decode(plain, 0, back) == -1);
	CHECK(an_gaps_decode(plain, 63, back) == -1);
	memcpy(other, plain, 64);
	other[64] = 0;
	CHECK(an_gaps_decode(other, 65, back) == -1);
	/* Whatever a flipped bit makes of it: it is refused, or says something else and is whole.
	 */
	for (uint32_t bit = 0; bit < 64 * 8; bit++) {
		int count;

		memcpy(other, plain, 64);
		other[bit / 8] ^= (uint8_t)(1 << bit % 8);
		count = an_gaps_decode(other, 64, back);
		if (count < 0)
			continue;
		CHECK(an_gaps_encode(back, (uint32_t)count, other, 64, &written) == 64);
		CHECK(memcmp(other, plain, 64));
	}
}

static void gaps_without_sense_are_refused(void)
{
	/* The items of the array: first, count, skip, count. */
	static const struct {
		uint8_t items[8];
		uint8_t len;
	} bad[] = {
	    {{0x80}, 1},                         /* none */
	    {{0x81, 1}, 2},                      /* no count */
	    {{0x82, 1, 0}, 3},                   /* an empty range */
	    {{0x84, 1, 1, 0, 1}, 5},             /* two that touch */
	    {{0x82, 0x18, 1, 1}, 4},             /* a longer form */
	    {{0x82, 1, 0x1a, 0x80, 0, 0, 0}, 7}, /* half of all numbers */
	    {{0x82, 1, 1, 0}, 4},                /* and more */
	    {{0x82, 1, 0x20}, 3},                /* below zero */
	};
	struct an_gap back[AN_GAPS_READ_MAX];

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		uint8_t plain[64] = {0, 5, 0, 6, 0, 0, 0, 0, 0xa1, 0x64, 'g', 'a', 'p', 's'};

		plain[3] = (uint8_t)(6 + bad[i].len);
		memcpy(plain + 14, bad[i].items, bad[i].len);
		CHECK(an_gaps_decode(plain, 64, back) == -1);
	}
}

static void buffers_come_back(void)
{
	struct an_buffer *held[200];
	struct an_pool pool;

	CHECK(!an_pool_init(&pool));
	for (uint32_t i = 0; i < 200; i++) {
		uint32_t len = i * 19;

		held[i] = an_pool_take(&pool, len);
		CHECK(held[i] && an_buffer_room(held[i]) >= len);
		/* A block too much, or half. */
		CHECK(an_buffer_room(held[i]) <= len + len / 2 + ASSENT_BLOCK_LEN);
		memset(held[i]->data, 1, an_buffer_room(held[i]));
	}
	for (uint32_t i = 0; i < 200; i++)
		an_pool_give(&pool, held[i]);
	CHECK(pool.held_bytes == 0 && pool.spare_bytes > 0);
	held[0] = an_pool_take(&pool, 64);
	CHECK(held[0] == an_buffer_shrink(&pool, held[0], 10));
	an_pool_give(&pool, held[0]);
	an_pool_give(&pool, NULL);
	an_pool_free(&pool);
}

static void what_is_spare_is_bounded(void)
{
	enum { COUNT = 3000 };
	struct an_buffer *held[COUNT];
	struct an_pool pool;

	CHECK(!an_pool_init(&pool));
	for (int i = 0; i < COUNT; i++)
		held[i] = an_pool_take(&pool, 3712);
	for (int i = 0; i < COUNT; i++)
		an_pool_give(&pool, held[i]);
	CHECK(pool.spare_bytes <= AN_POOL_SPARE);
	an_pool_free(&pool);
}

static void a_shrunk_buffer_keeps_its_content(void)
{
	struct an_pool pool;
	struct an_buffer *large, *small;

	CHECK(!an_pool_init(&pool));
	large = an_pool_take(&pool, 1408);
	memcpy(large->data, "what it holds", 14);
	large->len = 14;
	large->message_bytes = 12;
	large->lamp = 1;
	small = an_buffer_shrink(&pool, large, 30);
	CHECK(small != large && an_buffer_room(small) == ASSENT_BLOCK_LEN);
	CHECK(small->len == 14 && small->message_bytes == 12 && small->lamp);
	CHECK(!memcmp(small->data, "what it holds", 14));
	an_pool_give(&pool, small);
	CHECK(pool.held_bytes == 0);
	an_pool_free(&pool);
}

static void an_idle_flow_is_small(void)
{
	/* A context of the cipher is shared by all. */
	CHECK(sizeof(struct an_flow) +
		  AN_SLOTS_IDLE * (sizeof(struct an_tx_slot) + sizeof(struct an_rx_slot)) <
	      3072);
}

int main(void)
{
	records_are_read_to_the_last_byte();
	what_is_not_records_is_refused();
	gaps_come_back_as_they_were();
	gaps_fill_the_room_that_there_is();
	gaps_are_read_to_the_bit();
	gaps_without_sense_are_refused();
	buffers_come_back();
	what_is_spare_is_bounded();
	a_shrunk_buffer_keeps_its_content();
	an_idle_flow_is_small();
	return failed;
}
