/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the flow engine have of one another. */
#ifndef AN_FLOW_PARTS_H
#define AN_FLOW_PARTS_H

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "flow.h"
#include "lend.h"
#include "records.h"

static inline uint64_t an_load(const __u64 *counter)
{
	return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

/* a is before b, as in RFC 1982. */
static inline int an_before(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline struct an_tx_slot *an_tx_slot(const struct an_flow *flow, uint32_t seq)
{
	return &flow->tx[seq & (flow->tx_slots - 1)];
}

static inline struct an_rx_slot *an_rx_slot(const struct an_flow *flow, uint32_t seq)
{
	return &flow->rx[seq & (flow->rx_slots - 1)];
}

static inline int an_is_kept(const struct an_flow *flow, uint32_t seq)
{
	return seq - flow->tx_base < flow->tx_next - flow->tx_base;
}

/* -- credit and numbers -- */

/* Blocks that the peer granted and nothing is meant for yet. */
static inline uint64_t an_credit_left(const struct an_flow *flow)
{
	uint64_t granted = an_load(&flow->line->tx_granted);
	uint64_t spent = flow->line->tx_spent + flow->queue_cost;

	return granted > spent ? granted - spent : 0;
}

/* Blocks that are kept for less than data; see Liveness. */
static inline uint32_t an_credit_reserve(const struct an_flow *flow)
{
	uint32_t quarter = flow->line->tx_window / 4;
	uint32_t most = flow->unit > AN_CREDIT_RESERVE ? flow->unit : AN_CREDIT_RESERVE;

	return quarter < most ? quarter : most;
}

/* Blocks that data leaves: where grants are told in units, one to fill up the last. */
static inline uint32_t an_data_leaves(const struct an_flow *flow)
{
	return an_credit_reserve(flow) + (flow->unit > 1 ? flow->unit : 0);
}

static inline uint32_t an_numbers_left(const struct an_flow *flow)
{
	uint32_t used = flow->tx_next - flow->tx_base + flow->queue_count;

	return used < flow->number_max ? flow->number_max - used : 0;
}

static inline uint32_t an_number_reserve(const struct an_flow *flow)
{
	uint32_t quarter = flow->number_max / 4;

	return quarter < AN_NUMBER_RESERVE ? quarter : AN_NUMBER_RESERVE;
}

/* Whether a frame without data may be sent; `rank`: 2 leaves half of the reserves, 4 a quarter, 0
 * nothing. */
static inline int an_may_send(const struct an_flow *flow, uint32_t cost, uint32_t rank)
{
	uint32_t credit = rank ? an_credit_reserve(flow) / rank : 0;
	uint32_t numbers = rank ? an_number_reserve(flow) / rank : 0;

	return an_credit_left(flow) >= (uint64_t)credit + cost && an_numbers_left(flow) > numbers;
}

/* -- grants (flow_grant.c) -- */

/* What the gate grants the peer. */
static inline uint64_t an_granted(const struct an_flow *flow)
{
	if (flow->lent)
		return __atomic_load_n(&flow->lent->confirmed_granted, __ATOMIC_ACQUIRE);
	return an_load(&flow->line->rx_granted);
}

/* The same as the peer is told of it. */
static inline uint64_t an_promised(const struct an_flow *flow)
{
	return an_granted(flow) & ~(uint64_t)(flow->unit - 1);
}

/* Takes over the books of an earlier engine. */
void an_grant_resume(struct an_flow *flow, uint64_t now);
/* Books what was consumed, and grants what is due. */
void an_grant_consumed(struct an_flow *flow, uint64_t blocks);
/* Grants what has come due, or what a wider window allows. */
void an_grant_due(struct an_flow *flow, uint64_t now);
/* Blocks granted unannounced that are worth a frame. */
uint64_t an_receipt_step(const struct an_flow *flow);
/* ns that a peer held to the rate needs for a whole frame. */
uint64_t an_pace_frame(const struct an_flow *flow);
/* When enough of what is held is granted to tell of it; UINT64_MAX where nothing is held. */
uint64_t an_grant_at(const struct an_flow *flow, uint64_t now);
/* It has spent all that it was granted: nobody hears it till something is read here. */
static inline int an_peer_is_mute(const struct an_flow *flow)
{
	uint32_t quarter = flow->line->rx_window / 4;
	uint32_t reserve = (uint32_t)an_least(quarter, an_most(flow->unit, AN_CREDIT_RESERVE));

	return an_load(&flow->line->rx_spent) + reserve / 4 >= an_promised(flow) &&
	       flow->line->rx_window;
}

/* Whether the peer could have no credit or numbers left, as far as is known for sure. */
int an_peer_may_be_mute(const struct an_flow *flow);
/* A void stood for `cost` blocks, of which the gate has charged one. 0, or -EPROTO. */
int an_book_void(struct an_flow *flow, uint32_t cost);
/* Books on a lent line what the gate booked on its own. */
void an_book_lent(struct an_flow *flow, const struct assent_header *h, uint32_t cost);
/* Tells the lender, where there is one, that the line has changed. */
void an_ring_doorbell(struct an_flow *flow);
/* The same where a wish for a grant is worth it. */
void an_wish(struct an_flow *flow);

/* -- sending (flow_tx.c, flow_write.c) -- */

/* Lets go of what the peer's grant says is consumed. */
void an_take_receipts(struct an_flow *flow, uint64_t now);
/* A number that the peer misses, once it can have missed it. */
void an_peer_misses(struct an_flow *flow, uint32_t seq, uint64_t now);
void an_peer_misses_ranges(struct an_flow *flow, const struct an_gap *gaps, int count,
			   uint64_t now);
/* The peer has consumed what was sent under LAMP up to that number. */
void an_take_ack(struct an_flow *flow, uint32_t seq, uint64_t now);
/* Something waits for its receipt, or for credit. */
int an_sends(const struct an_flow *flow);
/* Somebody waits for the peer, or for its receipts. */
int an_works(const struct an_flow *flow);
/* Somebody waits for the peer, and it can speak: for long it may not be silent then. */
static inline int an_waits(const struct an_flow *flow)
{
	return an_works(flow) && !an_peer_is_mute(flow);
}

/* Waiting may have begun just now. */
static inline void an_began(struct an_flow *flow, int waited, uint64_t now)
{
	if (!waited && an_waits(flow))
		flow->progress_at = now;
}

/* When that is too long; UINT64_MAX where nobody waits. */
uint64_t an_silent_at(const struct an_flow *flow);
/* There is credit and room for one more frame of data. */
int an_may_write(const struct an_flow *flow);
/* The text to be sent next, or NULL. */
struct an_buffer *an_queue_pop(struct an_flow *flow);

/* -- receiving (flow_rx.c, flow_read.c) -- */

/* Consumes what is done in order. */
void an_consume(struct an_flow *flow);
/* The text that is read next, or NULL. */
struct an_buffer *an_at_hand(const struct an_flow *flow);
/* Takes in the peer's end, where that is next. */
void an_take_end(struct an_flow *flow);
int an_has_ended(const struct an_flow *flow);
/* Missing numbers from ask_cursor on and before ask_end, as ranges; *next: where to go on. */
uint32_t an_find_gaps(const struct an_flow *flow, struct an_gap *gaps, uint32_t max,
		      uint32_t *next);

/* -- rings of slots (flow.c) -- */

/* Room for `count` numbers from the oldest on; 0, or -ENOMEM. */
int an_tx_reserve(struct an_flow *flow, uint32_t count);
int an_rx_reserve(struct an_flow *flow, uint32_t count);

/* What an idle flow holds of its rings it gives back. */
void an_flow_tidy(struct an_flow *flow);

/* The flow cannot go on. Returns why it could not in the first place. */
int an_break(struct an_flow *flow, int err, const char *why, ...)
    __attribute__((format(printf, 3, 4)));

#endif /* AN_FLOW_PARTS_H */
