// SPDX-License-Identifier: Apache-2.0
/*
 * native/acks.c under ASan and UBSan: whatever is sent, arrives and is told, in whatever order, the
 * books stay within their bounds and the two sides agree. Each function below is one case.
 */
#include <stdint.h>

#include "acks.h"
#include "cases.h"

#define MS 1000000ULL
#define SLOT_LEN (400 * MS)
#define SEQS 128

static const struct numi_ack_config config = {
    .slots = 4,
    .seqs = SEQS,
    .packets = 16,
    .ranges = 16,
    .interval = 5 * MS,
    .nacks = 8,
    .resend_fraction = 8,
    .nack_window = 10 * MS,
    .resend_most = 20 * MS,
};

static uint64_t drawn;

static uint32_t draw(uint32_t below)
{
	drawn ^= drawn << 13;
	drawn ^= drawn >> 7;
	drawn ^= drawn << 17;
	return (uint32_t)(drawn >> 16) % below;
}

static void check_ranges(const struct numi_ack_range *ranges, uint32_t count)
{
	CLAIM(count <= NUMI_ACK_RANGES);
	for (uint32_t i = 0; i < count; i++) {
		CLAIM(ranges[i].run > 0);
		if (i)
			CLAIM(ranges[i].start > ranges[i - 1].start + ranges[i - 1].run);
	}
}

/* Ranges that no honest peer would write, too: they overlap, or go beyond all that was sent. */
static void wild_receipt(struct numi_ack_tx *tx, uint64_t slot)
{
	struct numi_ack_range ranges[NUMI_ACK_RANGES];

	for (int i = 0; i < NUMI_ACK_RANGES; i++)
		ranges[i] = (struct numi_ack_range){(uint16_t)drawn, (uint16_t)draw(1 << 16)};
	numi_ack_acked(tx, slot, draw(6), ranges, draw(NUMI_ACK_RANGES + 2));
}

static void lossy_link(uint64_t seed)
{
	struct numi_ack_rx *rx = numi_ack_rx_new(&config);
	struct numi_ack_tx *tx = numi_ack_tx_new(&config);
	struct numi_ack_range ranges[NUMI_ACK_RANGES];
	uint32_t seqs[NUMI_ACK_NACKS];
	uint64_t handles[16], now = 0, slot = 100;

	CLAIM(rx && tx);
	drawn = seed;
	for (int i = 0; i < 20000; i++) {
		uint64_t of = slot - draw(6);
		uint64_t end = (slot - 99) * SLOT_LEN;
		uint32_t stream = draw(5), seq = draw(SEQS + 8), count;

		now += draw(MS);
		slot = 100 + now / SLOT_LEN;
		numi_ack_sent(tx, of, stream, seq, draw(4), draw(2000), seq, SLOT_LEN, now);
		if (draw(3))
			numi_ack_note(rx, of, stream, seq, draw(2), now);
		count = numi_ack_missing(rx, of, stream, draw(4), end, now, seqs);
		CLAIM(count <= config.nacks);
		numi_ack_nacked(tx, of, stream, draw(4), seqs, count, end, MS, now);
		if (numi_ack_due(rx, now, &of, &stream)) {
			count = numi_ack_write(rx, of, stream, ranges);
			check_ranges(ranges, count);
			numi_ack_acked(tx, of, stream, ranges, count);
		}
		CLAIM(numi_ack_resend(tx, now, handles, 16) <= 16);
		if (!draw(50))
			wild_receipt(tx, of);
	}
	for (uint64_t of = slot - 3; of <= slot; of++) {
		struct numi_ack_summary summary;

		if (numi_ack_summary(tx, of, 0, &summary))
			CLAIM(summary.acked <= summary.sent && summary.sent <= SEQS);
	}
	numi_ack_rx_free(rx);
	numi_ack_tx_free(tx);
}

static void test_a_lossy_link(void)
{
	for (uint64_t seed = 1; seed <= 20; seed++)
		lossy_link(seed);
}

/* With nothing lost, everything is told of, and nothing is sent again. */
static void test_a_perfect_link(void)
{
	struct numi_ack_rx *rx = numi_ack_rx_new(&config);
	struct numi_ack_tx *tx = numi_ack_tx_new(&config);
	struct numi_ack_summary summary;
	struct numi_ack_counts counts;
	struct numi_ack_range ranges[NUMI_ACK_RANGES];
	uint32_t stream, count;
	uint64_t slot, handle;

	for (uint32_t seq = 0; seq < SEQS; seq++) {
		uint64_t now = seq * MS;

		CLAIM(numi_ack_sent(tx, 7, 1, seq, 0, 100, seq, SLOT_LEN, now));
		CLAIM(numi_ack_note(rx, 7, 1, seq, 1, now));
		while (numi_ack_due(rx, now, &slot, &stream)) {
			count = numi_ack_write(rx, slot, stream, ranges);
			CLAIM(numi_ack_acked(tx, slot, stream, ranges, count) > 0);
		}
		CLAIM(!numi_ack_resend(tx, now, &handle, 1));
	}
	count = numi_ack_write(rx, 7, 1, ranges);
	CLAIM(count == 1 && ranges[0].start == 0 && ranges[0].run == SEQS);
	numi_ack_acked(tx, 7, 1, ranges, count);
	CLAIM(numi_ack_summary(tx, 7, 1, &summary));
	CLAIM(summary.sent == SEQS && summary.acked == SEQS && summary.largest_lost == 0);
	CLAIM(numi_ack_tx_deadline(tx) == UINT64_MAX);
	numi_ack_counts(tx, &counts);
	CLAIM(!counts.unsent && !counts.unwatched && !counts.resent);
	numi_ack_rx_free(rx);
	numi_ack_tx_free(tx);
}

static void test_configurations_that_there_are_not(void)
{
	const struct numi_ack_config wrong[] = {
	    {0},
	    {.slots = NUMI_ACK_SLOTS_MAX + 1,
	     .seqs = 64,
	     .packets = 1,
	     .ranges = 1,
	     .nacks = 1,
	     .resend_fraction = 1},
	    {.slots = 4, .seqs = 96, .packets = 1, .ranges = 1, .nacks = 1, .resend_fraction = 1},
	    {.slots = 4, .seqs = 64, .packets = 1, .ranges = 17, .nacks = 1, .resend_fraction = 1},
	    {.slots = 4, .seqs = 64, .packets = 1, .ranges = 1, .nacks = 9, .resend_fraction = 1},
	    {.slots = 4, .seqs = 64, .packets = 1, .ranges = 1, .nacks = 1, .resend_fraction = 0},
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CLAIM(!numi_ack_rx_new(&wrong[i]) && !numi_ack_tx_new(&wrong[i]));
	numi_ack_tx_free(NULL);
	numi_ack_rx_free(NULL);
}

static const struct host_case cases[] = {
    CASE(a_lossy_link),
    CASE(a_perfect_link),
    CASE(configurations_that_there_are_not),
};

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
