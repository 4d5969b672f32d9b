// SPDX-License-Identifier: Apache-2.0
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "acks.h"

#define WORD_BITS 64
#define P0 0
#define P1 1

struct span {
	uint16_t first;
	uint16_t last;
};

/* What has arrived of one slot and stream. */
struct arrived {
	uint64_t slot;
	uint64_t since; /* the first packet that no receipt was sent for */
	uint32_t pending;
	uint32_t asked_to; /* numbers below it were asked for */
	uint32_t count;
	bool used;
	struct span spans[NUMI_ACK_KEPT]; /* ascending, with gaps between them */
};

struct numi_ack_rx {
	struct numi_ack_config config;
	struct arrived cells[];
};

/* What was sent of one slot and stream. */
struct departed {
	uint64_t slot;
	bool used;
	uint64_t *sent; /* bits */
	uint64_t *acked;
	uint16_t *sizes;
};

struct watched {
	uint64_t slot;
	uint64_t due;
	uint64_t handle;
	uint32_t stream;
	uint32_t seq;
};

struct numi_ack_tx {
	struct numi_ack_config config;
	struct numi_ack_counts counts;
	uint32_t watching;
	struct watched watched[NUMI_ACK_WATCHED]; /* in no order */
	struct departed cells[];
};

static bool is_config(const struct numi_ack_config *c)
{
	return c->slots >= 1 && c->slots <= NUMI_ACK_SLOTS_MAX && c->seqs >= WORD_BITS &&
	       c->seqs <= NUMI_ACK_SEQS && !(c->seqs & (c->seqs - 1)) && c->packets >= 1 &&
	       c->ranges >= 1 && c->ranges <= NUMI_ACK_RANGES && c->nacks >= 1 &&
	       c->nacks <= NUMI_ACK_NACKS && c->resend_fraction >= 1;
}

static uint32_t cell_index(const struct numi_ack_config *c, uint64_t slot, uint32_t stream)
{
	return (uint32_t)(slot % c->slots) * NUMI_ACK_STREAMS + stream;
}

static uint64_t later(uint64_t time, uint64_t by)
{
	return time > UINT64_MAX - by ? UINT64_MAX : time + by;
}

/* -- the receiver ------------------------------------------------------------------------------ */

struct numi_ack_rx *numi_ack_rx_new(const struct numi_ack_config *config)
{
	size_t cells = config->slots * (size_t)NUMI_ACK_STREAMS;
	struct numi_ack_rx *rx;

	if (!is_config(config))
		return NULL;
	rx = calloc(1, sizeof(*rx) + cells * sizeof(rx->cells[0]));
	if (rx)
		rx->config = *config;
	return rx;
}

void numi_ack_rx_free(struct numi_ack_rx *rx)
{
	free(rx);
}

static struct arrived *arrived_at(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream)
{
	struct arrived *cell;

	if (stream >= NUMI_ACK_STREAMS)
		return NULL;
	cell = &rx->cells[cell_index(&rx->config, slot, stream)];
	return cell->used && cell->slot == slot ? cell : NULL;
}

/* The cell of a slot and stream, begun anew where an older slot has it; NULL: a newer one has. */
static struct arrived *arriving(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream)
{
	struct arrived *cell = &rx->cells[cell_index(&rx->config, slot, stream)];

	if (cell->used && cell->slot > slot)
		return NULL;
	if (!cell->used || cell->slot < slot)
		*cell = (struct arrived){.slot = slot, .used = true};
	return cell;
}

/* What is forgotten has arrived all the same: it is not asked for. */
static void forget(struct arrived *cell, uint16_t last)
{
	cell->asked_to = cell->asked_to > last ? cell->asked_to : last + 1U;
}

static void insert_span(struct arrived *cell, uint32_t at, uint16_t seq)
{
	if (cell->count == NUMI_ACK_KEPT && !at) {
		forget(cell, seq);
		return;
	}
	if (cell->count == NUMI_ACK_KEPT) {
		forget(cell, cell->spans[0].last);
		memmove(&cell->spans[0], &cell->spans[1], (--at) * sizeof(cell->spans[0]));
	} else {
		memmove(&cell->spans[at + 1], &cell->spans[at],
			(cell->count - at) * sizeof(cell->spans[0]));
		cell->count++;
	}
	cell->spans[at] = (struct span){seq, seq};
}

static void add_seq(struct arrived *cell, uint16_t seq)
{
	struct span *spans = cell->spans;
	uint32_t after = cell->count; /* spans[after] is the first beyond seq */
	bool joins_before, joins_after;

	while (after && spans[after - 1].first > seq)
		after--;
	if (after && spans[after - 1].last >= seq)
		return;
	joins_before = after && spans[after - 1].last + 1 == seq;
	joins_after = after < cell->count && spans[after].first == seq + 1;
	if (joins_before && joins_after) {
		spans[after - 1].last = spans[after].last;
		memmove(&spans[after], &spans[after + 1],
			(cell->count - after - 1) * sizeof(spans[0]));
		cell->count--;
	} else if (joins_before) {
		spans[after - 1].last = seq;
	} else if (joins_after) {
		spans[after].first = seq;
	} else {
		insert_span(cell, after, seq);
	}
}

int numi_ack_note(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream, uint32_t seq,
		  int eliciting, uint64_t now)
{
	struct arrived *cell;

	if (stream >= NUMI_ACK_STREAMS || seq >= NUMI_ACK_SEQS)
		return 0;
	cell = arriving(rx, slot, stream);
	if (!cell)
		return 0;
	add_seq(cell, (uint16_t)seq);
	if (eliciting && !cell->pending++)
		cell->since = now;
	return 1;
}

static uint64_t due_at(const struct numi_ack_config *config, const struct arrived *cell)
{
	if (!cell->pending)
		return UINT64_MAX;
	return cell->pending >= config->packets ? cell->since
						: later(cell->since, config->interval);
}

int numi_ack_due(const struct numi_ack_rx *rx, uint64_t now, uint64_t *slot, uint32_t *stream)
{
	uint32_t cells = rx->config.slots * NUMI_ACK_STREAMS;
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; i < cells; i++) {
		uint64_t due = due_at(&rx->config, &rx->cells[i]);

		if (due > now || due >= first)
			continue;
		first = due;
		*slot = rx->cells[i].slot;
		*stream = i % NUMI_ACK_STREAMS;
	}
	return first != UINT64_MAX;
}

uint64_t numi_ack_rx_deadline(const struct numi_ack_rx *rx)
{
	uint32_t cells = rx->config.slots * NUMI_ACK_STREAMS;
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; i < cells; i++) {
		uint64_t due = due_at(&rx->config, &rx->cells[i]);

		first = due < first ? due : first;
	}
	return first;
}

uint32_t numi_ack_write(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream,
			struct numi_ack_range *ranges)
{
	struct arrived *cell = arrived_at(rx, slot, stream);
	uint32_t count, skipped;

	if (!cell)
		return 0;
	count = cell->count < rx->config.ranges ? cell->count : rx->config.ranges;
	skipped = cell->count - count;
	for (uint32_t i = 0; i < count; i++) {
		struct span span = cell->spans[skipped + i];
		uint32_t run = span.last - span.first + 1U;

		ranges[i].start = span.first;
		ranges[i].run = (uint16_t)(run < UINT16_MAX ? run : UINT16_MAX);
	}
	cell->pending = 0;
	return count;
}

static bool is_last_of_slot(const struct numi_ack_config *config, uint64_t slot_end, uint64_t slack,
			    uint64_t now)
{
	return later(now, config->nack_window) >= slot_end && now < later(slot_end, slack);
}

uint32_t numi_ack_missing(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream, uint32_t cls,
			  uint64_t slot_end, uint64_t now, uint32_t *seqs)
{
	struct arrived *cell = arrived_at(rx, slot, stream);
	uint32_t count = 0, seq = 0;

	if (!cell || cls > P1 || !is_last_of_slot(&rx->config, slot_end, 0, now))
		return 0;
	for (uint32_t i = 0; i < cell->count && count < rx->config.nacks; i++) {
		seq = seq > cell->asked_to ? seq : cell->asked_to;
		for (; seq < cell->spans[i].first && count < rx->config.nacks; seq++)
			seqs[count++] = seq;
		if (seq <= cell->spans[i].last && count < rx->config.nacks)
			seq = cell->spans[i].last + 1U;
	}
	cell->asked_to = count ? seqs[count - 1] + 1 : cell->asked_to;
	return count;
}

/* -- the sender -------------------------------------------------------------------------------- */

struct numi_ack_tx *numi_ack_tx_new(const struct numi_ack_config *config)
{
	size_t cells = config->slots * (size_t)NUMI_ACK_STREAMS;
	struct numi_ack_tx *tx;

	if (!is_config(config))
		return NULL;
	tx = calloc(1, sizeof(*tx) + cells * sizeof(tx->cells[0]));
	if (tx)
		tx->config = *config;
	return tx;
}

void numi_ack_tx_free(struct numi_ack_tx *tx)
{
	if (!tx)
		return;
	for (uint32_t i = 0; i < tx->config.slots * NUMI_ACK_STREAMS; i++)
		free(tx->cells[i].sent);
	free(tx);
}

static struct departed *departed_at(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream)
{
	struct departed *cell;

	if (stream >= NUMI_ACK_STREAMS)
		return NULL;
	cell = &tx->cells[cell_index(&tx->config, slot, stream)];
	return cell->used && cell->slot == slot ? cell : NULL;
}

static size_t bitmap_len(const struct numi_ack_tx *tx)
{
	return tx->config.seqs / 8;
}

/* Memory comes with the first packet of a stream, and stays. */
static struct departed *departing(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream)
{
	struct departed *cell = &tx->cells[cell_index(&tx->config, slot, stream)];
	size_t words = tx->config.seqs / WORD_BITS;

	if (cell->used && cell->slot > slot)
		return NULL;
	if (!cell->sent) {
		cell->sent = malloc(2 * bitmap_len(tx) + tx->config.seqs * sizeof(uint16_t));
		if (!cell->sent)
			return NULL;
		cell->acked = cell->sent + words;
		cell->sizes = (uint16_t *)(cell->acked + words);
	}
	if (!cell->used || cell->slot < slot) {
		memset(cell->sent, 0, 2 * bitmap_len(tx));
		cell->slot = slot;
		cell->used = true;
	}
	return cell;
}

static void watch(struct numi_ack_tx *tx, struct watched packet)
{
	uint32_t first = 0;

	if (tx->watching < NUMI_ACK_WATCHED) {
		tx->watched[tx->watching++] = packet;
		return;
	}
	for (uint32_t i = 1; i < tx->watching; i++)
		if (tx->watched[i].due < tx->watched[first].due)
			first = i;
	tx->watched[first] = packet;
	tx->counts.unwatched++;
}

int numi_ack_sent(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream, uint32_t seq,
		  uint32_t cls, uint32_t size, uint64_t handle, uint64_t slot_len, uint64_t now)
{
	uint64_t wait = slot_len / tx->config.resend_fraction;
	struct departed *cell;

	if (stream >= NUMI_ACK_STREAMS || seq >= tx->config.seqs || size > UINT16_MAX)
		return 0;
	cell = departing(tx, slot, stream);
	if (!cell)
		return 0;
	cell->sent[seq / WORD_BITS] |= 1ULL << seq % WORD_BITS;
	cell->sizes[seq] = (uint16_t)size;
	wait = wait < tx->config.resend_most ? wait : tx->config.resend_most;
	if (cls == P0)
		watch(tx, (struct watched){slot, later(now, wait), handle, stream, seq});
	return 1;
}

static bool is_acked(const struct departed *cell, uint32_t seq)
{
	return cell->acked[seq / WORD_BITS] >> seq % WORD_BITS & 1;
}

static void unwatch_acked(struct numi_ack_tx *tx, const struct departed *cell, uint32_t stream)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < tx->watching; i++) {
		struct watched *w = &tx->watched[i];

		if (w->slot == cell->slot && w->stream == stream && is_acked(cell, w->seq))
			continue;
		tx->watched[kept++] = *w;
	}
	tx->watching = kept;
}

/* The bits from `from` to `to`, which is not included, within the word that `from` is in. */
static uint64_t bits(uint32_t from, uint32_t to)
{
	uint64_t upper = ~0ULL << from % WORD_BITS;

	return to / WORD_BITS > from / WORD_BITS ? upper : upper & ~(~0ULL << to % WORD_BITS);
}

uint32_t numi_ack_acked(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream,
			const struct numi_ack_range *ranges, uint32_t count)
{
	struct departed *cell = departed_at(tx, slot, stream);
	uint32_t fresh = 0;

	if (!cell || count > NUMI_ACK_RANGES)
		return 0;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t end = ranges[i].start + (uint32_t)ranges[i].run;
		uint32_t most = end < tx->config.seqs ? end : tx->config.seqs;
		uint32_t seq = ranges[i].start;

		if (end > most)
			tx->counts.unsent += end - (seq > most ? seq : most);
		while (seq < most) {
			uint32_t word = seq / WORD_BITS;
			uint64_t told = bits(seq, most);
			uint64_t known = told & cell->sent[word];

			tx->counts.unsent += (uint32_t)__builtin_popcountll(told & ~known);
			fresh += (uint32_t)__builtin_popcountll(known & ~cell->acked[word]);
			cell->acked[word] |= known;
			seq = (word + 1) * WORD_BITS;
		}
	}
	if (fresh && tx->watching)
		unwatch_acked(tx, cell, stream);
	return fresh;
}

static bool heed(struct numi_ack_tx *tx, const struct departed *cell, uint32_t stream, uint32_t seq,
		 uint64_t now)
{
	if (seq >= tx->config.seqs || !(cell->sent[seq / WORD_BITS] >> seq % WORD_BITS & 1) ||
	    is_acked(cell, seq))
		return false;
	for (uint32_t i = 0; i < tx->watching; i++) {
		struct watched *w = &tx->watched[i];

		if (w->slot == cell->slot && w->stream == stream && w->seq == seq && w->due > now)
			w->due = now;
	}
	return true;
}

uint32_t numi_ack_nacked(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream, uint32_t cls,
			 const uint32_t *seqs, uint32_t count, uint64_t slot_end, uint64_t slack,
			 uint64_t now)
{
	struct departed *cell = departed_at(tx, slot, stream);
	uint32_t heeded = 0;

	if (cell && cls <= P1 && count <= tx->config.nacks &&
	    is_last_of_slot(&tx->config, slot_end, slack, now))
		for (uint32_t i = 0; i < count; i++)
			heeded += heed(tx, cell, stream, seqs[i], now);
	tx->counts.nacked += heeded;
	tx->counts.nacks_unheeded += count - heeded;
	return heeded;
}

uint32_t numi_ack_resend(struct numi_ack_tx *tx, uint64_t now, uint64_t *handles, uint32_t most)
{
	uint32_t count = 0;

	while (count < most && tx->watching) {
		uint32_t first = 0;

		for (uint32_t i = 1; i < tx->watching; i++)
			if (tx->watched[i].due < tx->watched[first].due)
				first = i;
		if (tx->watched[first].due > now)
			break;
		handles[count++] = tx->watched[first].handle;
		tx->watched[first] = tx->watched[--tx->watching];
	}
	tx->counts.resent += count;
	return count;
}

uint64_t numi_ack_tx_deadline(const struct numi_ack_tx *tx)
{
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; i < tx->watching; i++)
		first = tx->watched[i].due < first ? tx->watched[i].due : first;
	return first;
}

int numi_ack_summary(const struct numi_ack_tx *tx, uint64_t slot, uint32_t stream,
		     struct numi_ack_summary *summary)
{
	const struct departed *cell = departed_at((struct numi_ack_tx *)tx, slot, stream);

	*summary = (struct numi_ack_summary){0};
	if (!cell)
		return 0;
	for (uint32_t word = 0; word < tx->config.seqs / WORD_BITS; word++) {
		for (uint64_t left = cell->sent[word]; left; left &= left - 1) {
			uint32_t seq = word * WORD_BITS + (uint32_t)__builtin_ctzll(left);
			uint32_t *largest =
			    is_acked(cell, seq) ? &summary->largest_acked : &summary->largest_lost;

			summary->sent++;
			summary->acked += is_acked(cell, seq);
			*largest = cell->sizes[seq] > *largest ? cell->sizes[seq] : *largest;
		}
	}
	return 1;
}

void numi_ack_counts(const struct numi_ack_tx *tx, struct numi_ack_counts *counts)
{
	*counts = tx->counts;
}
