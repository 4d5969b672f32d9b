// SPDX-License-Identifier: Apache-2.0
/*
 * numiport/native/sched.c under ASan and UBSan: its bounds, and that whatever is taken is given
 * back once. That it decides what it should is test_numi_sched.py's.
 */
#include <stdint.h>

#include "cases.h"
#include "sched.h"

#define START 1000000000ULL
#define LENGTH 400000000ULL

static struct numi_sched_config usual(void)
{
	struct numi_sched_config config = {
	    .burst_p0 = 8,
	    .burst_p1 = 8,
	    .quantum_p1 = 65536,
	    .quantum_p2 = 65536,
	    .bursts = 128,
	    .high_permille = 20,
	    .high_scale = 700,
	    .raised_permille = 10,
	    .raised_scale = 850,
	    .calm_permille = 2,
	    .calm_scale = 980,
	    .calm_slots = 16,
	    .step_permille = 300,
	};

	for (int cls = 0; cls < NUMI_CLASSES; cls++)
		config.classes[cls] = (struct numi_sched_class){
		    .credit = 200000,
		    .floor = 65536,
		    .ceiling = 400000,
		    .queue_packets = 100,
		    .queue_bytes = 1 << 20,
		};
	return config;
}

static uint64_t random_word(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int is_made(const struct numi_sched_config *config, uint64_t start, uint64_t length)
{
	numi_sched *sched = numi_sched_new(config, 1, start, length);
	int made = sched != NULL;

	numi_sched_free(sched);
	return made;
}

static void test_bounds_of_slots(void)
{
	struct numi_sched_config config = usual();

	CLAIM(is_made(&config, 0, NUMI_SCHED_SLOT_LEAST));
	CLAIM(is_made(&config, NUMI_SCHED_TIME_MAX - 1, NUMI_SCHED_SLOT_MOST));
	CLAIM(!is_made(&config, NUMI_SCHED_TIME_MAX, LENGTH));
	CLAIM(!is_made(&config, UINT64_MAX, LENGTH));
	CLAIM(!is_made(&config, START, NUMI_SCHED_SLOT_LEAST - 1));
	CLAIM(!is_made(&config, START, NUMI_SCHED_SLOT_MOST + 1));
}

#define REFUSED(field, value)                                                                      \
	do {                                                                                       \
		struct numi_sched_config config = usual();                                         \
		CLAIM(is_made(&config, START, LENGTH));                                            \
		config.field = value;                                                              \
		CLAIM(!is_made(&config, START, LENGTH));                                           \
	} while (0)

static void test_bounds_of_settings(void)
{
	REFUSED(classes[0].floor, NUMI_SCHED_PACKET_MAX - 1);
	REFUSED(classes[1].credit, 65535);
	REFUSED(classes[1].ceiling, 199999);
	REFUSED(classes[2].ceiling, NUMI_SCHED_CREDIT_MAX + 1u);
	REFUSED(classes[3].queue_packets, 0);
	REFUSED(classes[3].margin, NUMI_SCHED_SLOT_MOST + 1);
	REFUSED(burst_p0, 0);
	REFUSED(burst_p1, 0);
	REFUSED(bursts, 0);
	REFUSED(quantum_p1, 1023);
	REFUSED(quantum_p2, 1023);
	REFUSED(quantum_p1, NUMI_SCHED_CREDIT_MAX + 1u);
	REFUSED(quantum_p2, UINT32_MAX);
	REFUSED(high_scale, 1001);
	REFUSED(raised_scale, 1001);
	REFUSED(calm_scale, 1001);
	REFUSED(high_permille, 1001);
	REFUSED(raised_permille, 1001);
	REFUSED(calm_permille, 1001);
	REFUSED(step_permille, 0);
	REFUSED(step_permille, 1001);
	REFUSED(line, NUMI_SCHED_TIME_MAX + 1ULL);
}

static void test_nothing_is_freed_twice(void)
{
	struct numi_sched_config config = usual();
	struct numi_offer offers[64];
	numi_sched *sched = numi_sched_new(&config, 1, START, LENGTH);

	CLAIM(sched);
	for (int at = 0; at < 64; at++)
		offers[at] = (struct numi_offer){.handle = at, .slot = 1, .len = 9, .cls = at % 4};
	CLAIM(numi_sched_push(sched, START, offers, 64) == 64);
	numi_sched_free(sched);
	numi_sched_free(NULL);
}

/* The largest budget, slot and line: no sum or product overflows, and credit is not passed. */
static void test_largest_numbers(void)
{
	struct numi_sched_config config = usual();
	struct numi_offer offer = {.slot = 5, .len = NUMI_SCHED_PACKET_MAX, .cls = 1};
	struct numi_departure out[2];
	struct numi_sched_stats stats;
	uint64_t start = NUMI_SCHED_TIME_MAX - 1 - 2 * NUMI_SCHED_SLOT_MOST;
	numi_sched *sched;

	config.phase = UINT64_MAX;
	config.bursts = 1;
	config.line = NUMI_SCHED_TIME_MAX;
	config.quantum_p1 = config.quantum_p2 = NUMI_SCHED_CREDIT_MAX;
	for (int cls = 0; cls < NUMI_CLASSES; cls++) {
		config.classes[cls].credit = config.classes[cls].ceiling = NUMI_SCHED_CREDIT_MAX;
		config.classes[cls].queue_bytes = config.classes[cls].queue_packets = UINT32_MAX;
	}
	sched = numi_sched_new(&config, 5, start, NUMI_SCHED_SLOT_MOST);
	CLAIM(sched);
	for (uint64_t sent = 0; sent < 40000; sent++) {
		CLAIM(numi_sched_push(sched, start, &offer, 1) == 1);
		offer.cls = offer.cls % 2 + 1;
	}
	while (numi_sched_run(sched, start, UINT64_MAX, out, 2))
		numi_sched_stats(sched, &stats);
	CLAIM(stats.phase == NUMI_SCHED_SLOT_MOST - 1);
	for (int cls = 1; cls <= 2; cls++) {
		CLAIM(stats.classes[cls].sent_bytes <= NUMI_SCHED_CREDIT_MAX + 1);
		CLAIM(stats.classes[cls].credit < NUMI_SCHED_PACKET_MAX);
	}
	CLAIM(numi_sched_next(sched, UINT64_MAX) == UINT64_MAX);
	CLAIM(numi_sched_mark(sched, UINT32_MAX, UINT32_MAX) == 0);
	CLAIM(numi_sched_mark(sched, UINT32_MAX, UINT32_MAX) == 0);
	numi_sched_widen(sched, UINT64_MAX);
	CLAIM(numi_sched_cap(sched, 1, UINT64_MAX) == 0);
	CLAIM(numi_sched_slot(sched, UINT64_MAX, start + NUMI_SCHED_SLOT_MOST,
			      NUMI_SCHED_SLOT_MOST) == 0);
	numi_sched_stats(sched, &stats);
	CLAIM(stats.classes[1].budget == NUMI_SCHED_CREDIT_MAX);
	CLAIM(numi_sched_slot(sched, UINT64_MAX, start + NUMI_SCHED_SLOT_MOST + 1, LENGTH) == -1);
	numi_sched_free(sched);
}

/* Whatever is done, in any order: what was taken comes back once, times never go back, and no
 * class has more credit than its budget. */
static void test_what_is_taken_comes_back_once(void)
{
	enum { HANDLES = 200000, BATCH = 40 };
	static uint8_t held[HANDLES];
	struct numi_sched_config config = usual();
	struct numi_sched_stats stats;
	uint64_t state = 88172645463325252ULL, now = START, slot = 1, end = START + LENGTH;
	uint64_t last = 0, next = 0, taken = 0, back = 0;
	numi_sched *sched;

	config.line = 12345678;
	config.phase = random_word(&state);
	config.classes[1].margin = LENGTH / 4;
	sched = numi_sched_new(&config, slot, START, LENGTH);
	CLAIM(sched);
	while (next + BATCH < HANDLES) {
		struct numi_offer offers[BATCH];
		struct numi_departure out[BATCH];
		uint32_t count = random_word(&state) % BATCH;

		for (uint32_t at = 0; at < count; at++)
			offers[at] = (struct numi_offer){
			    .handle = next + at,
			    .slot = slot + random_word(&state) % 3,
			    .len = random_word(&state) % 3000,
			    .cls = random_word(&state) % 5,
			};
		numi_sched_push(sched, now, offers, count);
		for (uint32_t at = 0; at < count; at++)
			held[next + at] = offers[at].verdict == NUMI_SCHED_TAKEN;
		for (uint32_t at = 0; at < count; at++)
			taken += held[next + at];
		next += count;
		now += random_word(&state) % 4000000;
		count = numi_sched_run(sched, now, now + random_word(&state) % 4000000, out,
				       random_word(&state) % BATCH);
		for (uint32_t at = 0; at < count; at++) {
			CLAIM(held[out[at].handle] == 1);
			held[out[at].handle] = 2;
			CLAIM(out[at].time >= last && out[at].time < end);
			last = out[at].time;
			back++;
		}
		if (now >= end) {
			numi_sched_mark(sched, random_word(&state) % 50, 1000);
			CLAIM(numi_sched_slot(sched, ++slot, end, LENGTH) == 0);
			end += LENGTH;
		}
		numi_sched_stats(sched, &stats);
		for (int cls = 0; cls < NUMI_CLASSES; cls++)
			CLAIM(stats.classes[cls].credit <= stats.classes[cls].budget);
	}
	for (int cls = 0; cls < NUMI_CLASSES; cls++)
		back += stats.classes[cls].queued_packets;
	CLAIM(back == taken && taken > 10000 && slot > 10);
	numi_sched_free(sched);
}

static const struct host_case cases[] = {
    CASE(bounds_of_slots),
    CASE(bounds_of_settings),
    CASE(nothing_is_freed_twice),
    CASE(largest_numbers),
    CASE(what_is_taken_comes_back_once),
};

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(*cases), argc, argv);
}
