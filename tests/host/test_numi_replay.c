// SPDX-License-Identifier: Apache-2.0
/*
 * assent/numi_replay.h on the host, under ASan and UBSan, against a model that forgets nothing: a
 * list of all that was ever taken. Each function below is one case.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/numi_replay.h"
#include "cases.h"

struct world {
	struct assent_numi_replay window;
	__u64 words[16 * 1024 / 32];
};

static struct world opened(__u16 slots, __u32 seqs, __u64 newest)
{
	struct world w = {0};

	w.window = (struct assent_numi_replay){
	    .newest = newest,
	    .seqs = seqs,
	    .slots = slots,
	    .ring_mask = (__u16)(assent_numi_replay_ring(slots) - 1),
	};
	CLAIM(assent_numi_replay_words(&w.window) <= sizeof(w.words) / sizeof(w.words[0]));
	return w;
}

static enum assent_numi_fault take(struct world *w, __u64 slot, __u32 seq, __u64 latest)
{
	__u32 index = assent_numi_replay_index(&w->window, slot, seq);
	enum assent_numi_fault fault;
	struct world before = *w;

	CLAIM(index < assent_numi_replay_words(&w->window));
	fault = assent_numi_replay_check(&w->window, w->words[index], slot, seq, latest);
	CLAIM(!memcmp(&before, w, sizeof(before)));
	if (fault)
		return fault;
	return assent_numi_replay_commit(&w->window, &w->words[index], slot, seq);
}

static uint64_t drawn = 1;

static uint32_t draw(uint32_t below)
{
	drawn ^= drawn << 13;
	drawn ^= drawn >> 7;
	drawn ^= drawn << 17;
	return (uint32_t)(drawn >> 16) % below;
}

#define SLOTS 64
#define SEQS 64

/* What is to be said of a packet: the four lines of the header's table. */
static enum assent_numi_fault expected(uint8_t seen[SLOTS][SEQS], int64_t newest, int64_t slot,
				       uint32_t seq, int64_t latest, int64_t window)
{
	if (slot > latest)
		return ASSENT_NUMI_FUTURE_SLOT;
	if (slot <= newest - window)
		return ASSENT_NUMI_STALE_SLOT;
	if (seq >= SEQS || seen[slot][seq])
		return ASSENT_NUMI_REPLAY;
	return ASSENT_NUMI_TAKEN;
}

/* Any order of arrival, repeats, jumps and clocks: the window says what the model says. */
static void model(uint64_t first, uint16_t slots, uint64_t seed)
{
	struct world w = opened(slots, SEQS, first);
	uint8_t seen[SLOTS][SEQS] = {{0}};
	int64_t newest = 0;

	drawn = seed;
	for (int i = 0; i < 20000; i++) {
		int64_t around = newest + (int64_t)draw(slots * 2) - (int64_t)slots;
		int64_t slot = draw(50) ? around : (int64_t)draw(SLOTS);
		int64_t latest = draw(4) ? SLOTS : newest + 1;
		uint32_t seq = draw(20) ? draw(SEQS) : SEQS + draw(1U << 31);
		enum assent_numi_fault fault;

		if (slot < 0 || slot >= SLOTS || (slot > newest && draw(100)))
			continue;
		fault = take(&w, first + (uint64_t)slot, seq, first + (uint64_t)latest);
		CLAIM(fault == expected(seen, newest, slot, seq, latest, slots));
		if (fault)
			continue;
		seen[slot][seq] = 1;
		newest = slot > newest ? slot : newest;
		CLAIM(w.window.newest == first + (uint64_t)newest);
	}
	CLAIM(newest == SLOTS - 1 || newest > SLOTS / 2);
}

static void test_model(void)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		for (uint16_t slots = 4; slots <= 16; slots++)
			model(1000, slots, seed);
}

/* Words name slots by 32 bits only: it does not show where those turn over, nor far out. */
static void test_model_where_names_turn_over(void)
{
	model((1ULL << 32) - SLOTS / 2, 4, 3);
	model((1ULL << 31) - SLOTS / 2, 4, 4);
	model((5ULL << 32) - 7, 5, 5);
	model((1ULL << 63) - SLOTS / 2, 16, 6);
	model(~0ULL - SLOTS, 4, 7);
	model(0, 4, 8);
}

/* All packets of W slots, in every order of the slots, are taken once and then never again. */
static void test_no_false_reject_in_any_order_of_slots(void)
{
	uint32_t order[4];

	for (uint32_t code = 0; code < 256; code++) {
		struct world w = opened(4, 64, 100);
		uint32_t used = 0;

		for (int i = 0; i < 4; i++) {
			order[i] = code >> (2 * i) & 3;
			used |= 1U << order[i];
		}
		if (used != 15)
			continue;
		for (uint32_t seq = 0; seq < 64; seq++)
			for (int i = 0; i < 4; i++)
				CLAIM(!take(&w, 100 + order[i], 63 - seq, ASSENT_NUMI_NO_CLOCK));
		for (uint32_t seq = 0; seq < 64; seq++)
			for (int i = 0; i < 4; i++)
				CLAIM(take(&w, 100 + order[i], seq, ASSENT_NUMI_NO_CLOCK) ==
				      ASSENT_NUMI_REPLAY);
	}
}

static void test_a_slot_once_stale_stays_stale(void)
{
	struct world w = opened(4, 64, 10);

	CLAIM(!take(&w, 14, 0, ASSENT_NUMI_NO_CLOCK));
	for (uint64_t newest = 14; newest < 40; newest++) {
		CLAIM(!take(&w, newest, 1, ASSENT_NUMI_NO_CLOCK));
		for (uint64_t slot = 0; slot + 4 <= newest; slot++)
			CLAIM(take(&w, slot, 2, ASSENT_NUMI_NO_CLOCK) == ASSENT_NUMI_STALE_SLOT);
		CLAIM(w.window.newest == newest);
	}
}

static void test_numbers_beyond_the_bitmap(void)
{
	struct world w = opened(4, 1024, 1);

	CLAIM(!take(&w, 1, 1023, ASSENT_NUMI_NO_CLOCK));
	CLAIM(take(&w, 1, 1024, ASSENT_NUMI_NO_CLOCK) == ASSENT_NUMI_REPLAY);
	CLAIM(take(&w, 2, UINT32_MAX, ASSENT_NUMI_NO_CLOCK) == ASSENT_NUMI_REPLAY);
	CLAIM(w.window.newest == 1);
	CLAIM(!take(&w, 1, 0, ASSENT_NUMI_NO_CLOCK));
}

static void test_the_clock_bounds_what_moves_the_window(void)
{
	struct world w = opened(4, 64, 100);

	CLAIM(take(&w, 103, 0, 102) == ASSENT_NUMI_FUTURE_SLOT);
	CLAIM(take(&w, UINT64_MAX, 0, 102) == ASSENT_NUMI_FUTURE_SLOT);
	CLAIM(w.window.newest == 100);
	CLAIM(!take(&w, 97, 0, 102));
	CLAIM(!take(&w, 102, 0, 102));
	CLAIM(take(&w, 98, 0, 102) == ASSENT_NUMI_STALE_SLOT);
}

/* A CPU that checked against an old floor comes to a word that a newer slot has taken since. */
static void test_a_word_that_was_overtaken_is_left_alone(void)
{
	struct world w = opened(4, 64, 100);
	__u32 index = assent_numi_replay_index(&w.window, 100, 5);
	__u64 late = w.words[index];

	CLAIM(!assent_numi_replay_check(&w.window, late, 100, 5, ASSENT_NUMI_NO_CLOCK));
	CLAIM(!take(&w, 104, 6, ASSENT_NUMI_NO_CLOCK));
	CLAIM(assent_numi_replay_commit(&w.window, &w.words[index], 100, 5) == ASSENT_NUMI_REPLAY);
	CLAIM(take(&w, 104, 6, ASSENT_NUMI_NO_CLOCK) == ASSENT_NUMI_REPLAY);
	CLAIM(!take(&w, 104, 5, ASSENT_NUMI_NO_CLOCK));
	CLAIM(w.window.newest == 104);
}

#define RACERS 4
#define RACE_SLOTS 200

static struct world race;
static uint32_t taken[RACE_SLOTS][SEQS];

/* All run through the same packets, each in an order of its own. */
static void *racer(void *arg)
{
	uint32_t step = 2 * (uint32_t)(uintptr_t)arg + 1;

	for (uint64_t slot = 0; slot < RACE_SLOTS; slot++)
		for (uint32_t i = 0; i < SEQS; i++) {
			uint32_t seq = i * step % SEQS;
			__u32 index = assent_numi_replay_index(&race.window, slot, seq);
			__u64 word = ASSENT_READ_ONCE(race.words[index]);

			if (!assent_numi_replay_check(&race.window, word, slot, seq, slot) &&
			    !assent_numi_replay_commit(&race.window, &race.words[index], slot, seq))
				assent_atomic_add(&taken[slot][seq], 1);
		}
	return NULL;
}

static void test_cpus_in_a_race_take_nothing_twice(void)
{
	pthread_t threads[RACERS];

	race = opened(4, SEQS, 0);
	for (uintptr_t i = 0; i < RACERS; i++)
		CLAIM(!pthread_create(&threads[i], NULL, racer, (void *)i));
	for (int i = 0; i < RACERS; i++)
		CLAIM(!pthread_join(threads[i], NULL));
	for (int slot = 0; slot < RACE_SLOTS; slot++)
		for (int seq = 0; seq < SEQS; seq++)
			CLAIM(taken[slot][seq] <= 1);
	CLAIM(race.window.newest == RACE_SLOTS - 1);
}

static const struct host_case cases[] = {
    CASE(model),
    CASE(model_where_names_turn_over),
    CASE(no_false_reject_in_any_order_of_slots),
    CASE(a_slot_once_stale_stays_stale),
    CASE(numbers_beyond_the_bitmap),
    CASE(the_clock_bounds_what_moves_the_window),
    CASE(a_word_that_was_overtaken_is_left_alone),
    CASE(cpus_in_a_race_take_nothing_twice),
};

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
