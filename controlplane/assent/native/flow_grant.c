// SPDX-License-Identifier: Apache-2.0
/* The books that this end keeps of what it takes in: consumed, held, granted, told. */
#include <unistd.h>

#include "flow_parts.h"

/* What a grant is due for. */
static uint64_t taken(const struct an_flow *flow)
{
	return flow->rx_consumed - flow->rx_held;
}

/* Grants all that was consumed and is not held. A window that became wider counts at once, and one
 * that became narrower when as much has been consumed. */
static void settle(struct an_flow *flow)
{
	uint64_t window = __atomic_load_n(&flow->line->rx_window, __ATOMIC_ACQUIRE);

	assent_counter_raise(&flow->line->rx_granted, window + taken(flow));
	if (flow->lent)
		__atomic_store_n(&flow->lent->taken, taken(flow), __ATOMIC_RELEASE);
}

static void hold(struct an_flow *flow, uint64_t blocks, uint64_t now)
{
	flow->rx_held_until = an_most(flow->rx_held_until, now) + blocks * flow->pace;
	flow->rx_held += blocks;
}

/* Of what is held, each block is due an interval after the one before. */
static void release(struct an_flow *flow, uint64_t now)
{
	uint64_t early = flow->rx_held_until > now ? flow->rx_held_until - now : 0;
	uint64_t kept = early ? an_least((early + flow->pace - 1) / flow->pace, flow->rx_held) : 0;

	if (kept == flow->rx_held)
		return;
	flow->rx_held = kept;
	flow->rx_unannounced_data |= flow->rx_held_data;
	if (kept)
		return;
	flow->answer_due |= flow->rx_held_probe;
	flow->rx_held_data = flow->rx_held_probe = 0;
}

void an_grant_due(struct an_flow *flow, uint64_t now)
{
	int waited = an_waits(flow);

	if (flow->rx_held)
		release(flow, now);
	settle(flow);
	/* Who was mute can speak now. */
	an_began(flow, waited, now);
}

void an_grant_consumed(struct an_flow *flow, uint64_t blocks)
{
	flow->rx_consumed += blocks;
	/* As of when it was last heard: nothing of it had arrived later than that. */
	if (flow->pace)
		hold(flow, blocks, flow->heard_at);
	settle(flow);
}

void an_grant_resume(struct an_flow *flow, uint64_t now)
{
	uint64_t due, granted = an_load(&flow->line->rx_granted);

	/* All that arrived was consumed, or the flow could not be taken over. */
	flow->rx_consumed = an_load(&flow->line->rx_spent);
	due = flow->rx_consumed + flow->line->rx_window;
	if (flow->pace && due > granted) {
		hold(flow, due - granted, now);
		flow->rx_held_data = flow->rx_held_probe = 1;
	}
	settle(flow);
}

uint64_t an_pace_frame(const struct an_flow *flow)
{
	return assent_frame_cost(flow->payload_max) * flow->pace;
}

uint64_t an_receipt_step(const struct an_flow *flow)
{
	uint64_t step = an_most(flow->line->rx_window / flow->receipt_fraction, 1);

	if (flow->pace) {
		uint64_t frame = assent_frame_cost(flow->payload_max);

		/* No more than half of the peer's numbers, if all its frames are of one block. */
		step = an_least(step, an_most(AN_PACE_INTERVAL / flow->pace, frame));
		step = an_least(step, flow->number_max / 2);
	}
	return (step + flow->unit - 1) & ~(uint64_t)(flow->unit - 1);
}

uint64_t an_grant_at(const struct an_flow *flow, uint64_t now)
{
	uint64_t unannounced = an_granted(flow) - flow->rx_announced;
	uint64_t step = an_receipt_step(flow);
	uint64_t wanted = step > unannounced ? step - unannounced : 0;
	uint64_t later;

	if (!flow->rx_held)
		return UINT64_MAX;
	later = wanted < flow->rx_held ? (flow->rx_held - wanted) * flow->pace : 0;
	return flow->rx_held_until - an_least(later, flow->rx_held_until);
}

/*
 * What it surely knows that it was granted, and what has come of it; numbers likewise. What it sent
 * and has not come it sends again, if it can do nothing else; so only if all has come it may be
 * mute.
 */
int an_peer_may_be_mute(const struct an_flow *flow)
{
	return flow->confirmed <= an_load(&flow->line->rx_spent) + flow->line->rx_window / 2 ||
	       flow->rx_end - flow->confirmed_next >= flow->number_max / 2;
}

/* The private book of a lent flow is its application's alone; the lender keeps the gate's. */
int an_book_void(struct an_flow *flow, uint32_t cost)
{
	__u64 spent = an_load(&flow->line->rx_spent);

	do {
		if (an_load(&flow->line->rx_granted) - spent < cost - 1)
			return an_break(flow, -EPROTO, "a void stands for more than was granted");
	} while (!__atomic_compare_exchange_n(&flow->line->rx_spent, &spent, spent + cost - 1, 0,
					      __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
	if (flow->lent)
		__atomic_add_fetch(&flow->lent->voided, cost - 1, __ATOMIC_ACQ_REL);
	return 0;
}

/* Books what the gate would have booked, had it this line. */
void an_book_lent(struct an_flow *flow, const struct assent_header *h, uint32_t cost)
{
	struct assent_flow *line = flow->line;
	uint32_t seq = assent_be32(h->seq);

	assent_counter_raise(&line->tx_granted,
			     assent_grant_read(an_load(&line->tx_granted), assent_be16(h->grant),
					       line->grant_shift));
	line->rx_spent += cost;
	if (an_before(line->rx_highest, seq))
		line->rx_highest = seq;
}

/* Tells the lender that there is something to carry out. */
void an_ring_doorbell(struct an_flow *flow)
{
	uint64_t one = 1;

	if (flow->doorbell < 0)
		return;
	flow->rx_rung = taken(flow);
	if (write(flow->doorbell, &one, sizeof(one)) != sizeof(one))
		return; /* it is rung already, as often as can be counted */
}

/* A wish is worth a ring when a receipt is, or somebody waits for one. */
void an_wish(struct an_flow *flow)
{
	uint64_t wished = taken(flow) - flow->rx_rung;

	if (wished >= an_receipt_step(flow) / 2 || (wished && flow->answer_due))
		an_ring_doorbell(flow);
}
