// SPDX-License-Identifier: Apache-2.0
/* What leaves, and when: see the theory of operation in flow.h. */
#include "flow_parts.h"

/* -- receipts -- */

/* Learns how long the peer takes between grants, while some are awaited. */
static void time_grants(struct an_flow *flow, uint64_t granted, uint64_t now)
{
	uint64_t limit = an_patience_max(&flow->rtt) / 2;
	int64_t gap = (int64_t)an_least(now - flow->tx_granted_at, limit);

	if (flow->tx_base == flow->tx_next) {
		flow->tx_granted_at = now;
	} else if (granted != flow->tx_granted_seen) {
		flow->tx_grant_gap += (uint64_t)((gap - (int64_t)flow->tx_grant_gap) / 4);
		flow->tx_granted_at = now;
	}
	flow->tx_granted_seen = granted;
}

static int is_lamp(const struct an_tx_slot *slot)
{
	return (slot->flags & ASSENT_FLAG_LAMP) != 0;
}

/* A new number that is answered as soon as it comes. */
static int is_probe(const struct an_tx_slot *slot)
{
	return slot->state & AN_TX_PROBE;
}

static int is_lamp_data(const struct an_tx_slot *slot)
{
	return is_lamp(slot) && slot->flags & ASSENT_FLAG_DATA;
}

/* A grant receipts a frame under LAMP only by what was consumed after it. */
static int is_receipted(const struct an_tx_slot *slot, uint64_t consumed)
{
	if (is_lamp(slot))
		return slot->state & AN_TX_ACKED || slot->paid_until < consumed;
	return slot->paid_until <= consumed;
}

static void let_go(struct an_flow *flow, struct an_tx_slot *slot)
{
	flow->stats.tx_payload += slot->message_bytes;
	flow->tx_dear -= slot->cost > 1;
	flow->tx_unsettled -= slot->cost > 1 && !(slot->state & AN_TX_UNAWAITED);
	flow->tx_lamps -= is_lamp_data(slot) && !(slot->state & AN_TX_ACKED);
	flow->tx_wanted -= (slot->state & AN_TX_WANTED) != 0;
	flow->confirmed = assent_grant_read(flow->confirmed, slot->grant, flow->line->grant_shift);
	if (an_before(flow->confirmed_next, slot->rx_next))
		flow->confirmed_next = slot->rx_next;
	an_pool_give(flow->pool, slot->payload);
}

static void note_pending(struct an_flow *flow)
{
	flow->line->tx_pending = flow->tx_dear || flow->tx_lamps;
}

void an_take_receipts(struct an_flow *flow, uint64_t now)
{
	uint64_t granted = an_load(&flow->line->tx_granted);
	uint32_t window = __atomic_load_n(&flow->line->tx_window, __ATOMIC_ACQUIRE);
	uint64_t consumed = granted > window ? granted - window : 0;
	const struct an_tx_slot *last = NULL;

	time_grants(flow, granted, now);
	while (flow->tx_base != flow->tx_next) {
		struct an_tx_slot *slot = an_tx_slot(flow, flow->tx_base);

		if (!is_receipted(slot, consumed))
			break;
		let_go(flow, slot);
		flow->tx_base++;
		last = slot;
	}
	if (!last)
		return;
	if (!(last->state & AN_TX_TWICE)) {
		if (is_probe(last))
			an_rtt_sample(&flow->rtt, now - last->sent_at);
		else
			an_rtt_at_most(&flow->rtt, now - last->sent_at);
	}
	note_pending(flow);
	flow->probe_interval = an_probe_first(&flow->rtt);
	flow->tx_quiet_since = flow->progress_at = now;
}

void an_flow_taken(struct an_flow *flow, uint32_t awaited)
{
	if (an_before(flow->tx_next, awaited))
		return;
	while (an_before(flow->tx_base, awaited))
		let_go(flow, an_tx_slot(flow, flow->tx_base++));
	note_pending(flow);
}

void an_take_ack(struct an_flow *flow, uint32_t seq, uint64_t now)
{
	for (uint32_t at = flow->tx_base; at != flow->tx_next && !an_before(seq, at); at++) {
		struct an_tx_slot *slot = an_tx_slot(flow, at);

		if (!is_lamp(slot) || slot->state & AN_TX_ACKED)
			continue;
		flow->tx_lamps -= is_lamp_data(slot);
		slot->state |= AN_TX_ACKED;
	}
	an_take_receipts(flow, now);
	note_pending(flow);
}

/* -- frames -- */

/* Takes the next number for a frame that costs so much. */
static struct an_tx_slot *new_slot(struct an_flow *flow, uint16_t flags, uint32_t cost)
{
	uint32_t seq = flow->tx_next;
	struct an_tx_slot *slot;

	if (an_tx_reserve(flow, seq - flow->tx_base + 1))
		return NULL;
	/* The number is spent in shared memory before its nonce is used: a crash cannot reuse it.
	 */
	__atomic_store_n(&flow->line->tx_seq, seq, __ATOMIC_RELEASE);
	flow->tx_next = seq + 1;
	__atomic_store_n(&flow->line->tx_spent, flow->line->tx_spent + cost, __ATOMIC_RELEASE);
	slot = an_tx_slot(flow, seq);
	memset(slot, 0, sizeof(*slot));
	slot->paid_until = flow->line->tx_spent;
	slot->cost = cost;
	slot->flags = flags;
	if (cost > 1) {
		flow->tx_dear++;
		flow->tx_unsettled++;
		flow->line->tx_pending = 1;
	}
	return slot;
}

static void await_no_receipt(struct an_flow *flow, struct an_tx_slot *slot)
{
	slot->state |= AN_TX_UNAWAITED;
	flow->tx_unsettled -= slot->cost > 1;
}

/* A header-only frame. */
static struct an_tx_slot *new_bare(struct an_flow *flow, uint16_t flags, uint32_t rank)
{
	return an_may_send(flow, 1, rank) ? new_slot(flow, flags, 1) : NULL;
}

/* A frame with that text, whose buffer becomes the frame's. */
static struct an_tx_slot *new_sealed(struct an_flow *flow, uint16_t flags, struct an_buffer *text)
{
	uint32_t payload_len = text->len + ASSENT_AEAD_TAG_LEN;
	uint32_t padded = assent_padded_len(payload_len);
	uint32_t cost = flags & ASSENT_FLAG_LAMP ? 0 : assent_frame_cost(payload_len);
	struct an_tx_slot *slot = new_slot(flow, flags, cost);

	if (slot && an_aead_seal(&flow->pool->cipher, &flow->seal, flow->tx_next - 1, text->data,
				 text->len, text->data)) {
		an_break(flow, -EIO, "sealing a frame failed");
		slot = NULL;
	}
	if (!slot) {
		an_pool_give(flow->pool, text);
		return NULL;
	}
	memset(text->data + payload_len, 0, padded - payload_len);
	text->len = (uint16_t)payload_len;
	slot->payload = text;
	return slot;
}

/* What is sent under this number from now on, should it be asked for: no more than a header. */
static void give_up(struct an_flow *flow, struct an_tx_slot *slot)
{
	an_pool_give(flow->pool, slot->payload);
	slot->payload = NULL;
	slot->flags = ASSENT_FLAG_FIN;
	slot->nack_slot = slot->cost;
}

/* Fields that say how things stand now, not what the frame is: fresh at every transmission. */
static void stamp(struct an_flow *flow, struct assent_header *h, struct an_tx_slot *slot,
		  uint64_t wall)
{
	const uint32_t plain = ASSENT_FLAG_DATA;
	uint64_t granted = an_promised(flow);
	uint32_t flags = slot->flags, nack_slot = slot->nack_slot;

	if (!(flags & ~plain) && flow->rx_missing &&
	    !(an_rx_slot(flow, flow->rx_next)->state & AN_RX_PRESENT)) {
		flags |= ASSENT_FLAG_NACK;
		nack_slot = flow->rx_next;
	} else if (flags & (ASSENT_FLAG_LAMP | ASSENT_FLAG_ACK)) {
		nack_slot = flow->rx_next - 1;
		flow->rx_ack_due = 0;
	}
	h->flags = assent_be16(flags | ASSENT_FLAG_BLOCK);
	h->nack_slot = assent_be32(nack_slot);
	h->grant = assent_be16(assent_grant_field(granted, flow->line->grant_shift));
	h->timestamp = assent_be64(wall);
	h->tag = assent_le64(assent_header_tag(&flow->tx_state, h));
	slot->grant = assent_grant_field(granted, flow->line->grant_shift);
	slot->rx_next = flow->rx_next;
	flow->rx_announced = granted;
	flow->rx_unannounced_frames = 0;
	flow->rx_unannounced_data = 0;
	flow->answer_due = 0;
}

static uint32_t emit(struct an_flow *flow, uint32_t seq, struct an_tx_slot *slot, uint8_t *buffer,
		     uint64_t now, uint64_t wall)
{
	struct assent_header *h = (struct assent_header *)(buffer + ASSENT_ETH_LEN);
	uint32_t payload_len = slot->payload ? slot->payload->len : 0;
	uint32_t len = ASSENT_ETH_LEN + ASSENT_HEADER_LEN + assent_padded_len(payload_len);

	memcpy(buffer, flow->ethernet, ASSENT_ETH_LEN);
	*h = flow->header;
	h->seq = assent_be32(seq);
	h->payload_len = assent_be16(payload_len);
	stamp(flow, h, slot, wall);
	if (slot->payload)
		memcpy(h + 1, slot->payload->data, assent_padded_len(payload_len));
	slot->sent_at = now;
	flow->tx_quiet_since = flow->announced_at = now;
	flow->stats.tx_frames++;
	flow->stats.tx_bytes += len;
	flow->stats.voids_sent += (slot->flags & ASSENT_FLAG_FIN) != 0;
	return len;
}

/* -- what was asked for -- */

/*
 * A number that an earlier engine used. It closed with all its data receipted, so what the peer
 * misses was header-only and can be made again, paid for as it is.
 */
static int is_inherited(const struct an_flow *flow, uint32_t seq)
{
	return flow->tx_origin - seq - 1 < ASSENT_REPLAY_MAX;
}

static void want_inherited(struct an_flow *flow, uint32_t seq)
{
	for (uint32_t i = 0; i < flow->inherited_count; i++)
		if (flow->inherited[i] == seq)
			return;
	if (flow->inherited_count < AN_INHERITED)
		flow->inherited[flow->inherited_count++] = seq;
}

/* It is sent again as soon as can be. */
static void want(struct an_flow *flow, uint32_t seq)
{
	struct an_tx_slot *slot = an_tx_slot(flow, seq);

	if (slot->state & AN_TX_WANTED)
		return;
	slot->state |= AN_TX_WANTED;
	if (!flow->tx_wanted++ || an_before(seq, flow->tx_wanted_from))
		flow->tx_wanted_from = seq;
}

/*
 * ns for which asks for a number are overlooked that was just sent again: who asks cannot know that
 * yet. But while all that is new waits for what is missing, it may as well be sent a few times.
 */
static uint64_t overlooks(const struct an_flow *flow)
{
	uint64_t echo = an_echo_interval(&flow->rtt);

	return flow->waiting_for_credit ? echo / 4 : echo;
}

void an_peer_misses(struct an_flow *flow, uint32_t seq, uint64_t now)
{
	struct an_tx_slot *slot;

	if (!an_is_kept(flow, seq)) {
		if (is_inherited(flow, seq))
			want_inherited(flow, seq);
		return;
	}
	slot = an_tx_slot(flow, seq);
	if (slot->state & AN_TX_TWICE && now - slot->sent_at < overlooks(flow))
		return;
	if (!(slot->state & AN_TX_TWICE))
		an_rtt_at_most(&flow->rtt, now - slot->sent_at);
	want(flow, seq);
}

void an_peer_misses_ranges(struct an_flow *flow, const struct an_gap *gaps, int count, uint64_t now)
{
	uint32_t oldest = flow->tx_origin - AN_INHERITED;

	if (an_before(oldest, flow->tx_base - flow->number_max))
		oldest = flow->tx_base - flow->number_max;
	for (int i = 0; i < count; i++) {
		uint32_t from = gaps[i].first, to = gaps[i].first + gaps[i].count;

		if (an_before(from, oldest))
			from = oldest;
		if (an_before(flow->tx_next, to))
			to = flow->tx_next;
		for (; an_before(from, to); from++)
			an_peer_misses(flow, from, now);
	}
}

static struct an_tx_slot *next_wanted(struct an_flow *flow, uint32_t *seq)
{
	if (!flow->tx_wanted)
		return NULL;
	if (an_before(flow->tx_wanted_from, flow->tx_base))
		flow->tx_wanted_from = flow->tx_base;
	for (; flow->tx_wanted_from != flow->tx_next; flow->tx_wanted_from++) {
		struct an_tx_slot *slot = an_tx_slot(flow, flow->tx_wanted_from);

		if (!(slot->state & AN_TX_WANTED))
			continue;
		slot->state &= ~AN_TX_WANTED;
		flow->tx_wanted--;
		*seq = flow->tx_wanted_from++;
		return slot;
	}
	return NULL;
}

/* Sends unreceipted frames again in turn, a burst of them each time that the line has been quiet.
 */
static struct an_tx_slot *next_recovery(struct an_flow *flow, uint32_t *seq)
{
	if (flow->tx_base == flow->tx_next)
		flow->recovery_left = 0;
	if (!flow->recovery_left)
		return NULL;
	flow->recovery_left--;
	*seq = an_is_kept(flow, flow->recovery_cursor) ? flow->recovery_cursor : flow->tx_base;
	flow->recovery_cursor = *seq + 1;
	return an_tx_slot(flow, *seq);
}

static uint32_t emit_inherited(struct an_flow *flow, uint8_t *buffer, uint64_t now, uint64_t wall)
{
	struct an_tx_slot slot = {0};

	return emit(flow, flow->inherited[--flow->inherited_count], &slot, buffer, now, wall);
}

/* What was sent before, and is sent again. */
static uint32_t output_again(struct an_flow *flow, uint8_t *buffer, uint64_t now, uint64_t wall)
{
	struct an_tx_slot *slot;
	uint32_t seq;

	if (flow->inherited_count) {
		flow->stats.retransmissions++;
		return emit_inherited(flow, buffer, now, wall);
	}
	slot = next_wanted(flow, &seq);
	if (!slot)
		slot = next_recovery(flow, &seq);
	if (!slot)
		return 0;
	slot->state |= AN_TX_TWICE;
	flow->stats.retransmissions++;
	return emit(flow, seq, slot, buffer, now, wall);
}

/* -- what is new -- */

/* -- asks -- */

static int has_asks(const struct an_flow *flow)
{
	return flow->ask_from != flow->ask_to && an_is_kept(flow, flow->ask_to - 1);
}

/* When asks or their copies are due. */
static uint64_t ask_at(const struct an_flow *flow)
{
	int may_ask = an_may_send(flow, 1, 2);

	if (!flow->rx_missing)
		return UINT64_MAX;
	if (flow->asking && may_ask)
		return 0;
	if (flow->gap_new && may_ask)
		return flow->asked_at + an_ask_interval(&flow->rtt);
	if (flow->ask_copies < AN_ASK_COPIES && has_asks(flow))
		return flow->asked_at + an_copy_interval(&flow->rtt, flow->ask_copies);
	return may_ask ? flow->ask_anew_at : UINT64_MAX;
}

/* The last round's asks are out of date. Should they be missed, they say no more than that. */
static void retire_asks(struct an_flow *flow)
{
	for (uint32_t seq = flow->ask_from; seq != flow->ask_to; seq++) {
		struct an_tx_slot *slot;

		if (!an_is_kept(flow, seq))
			continue;
		slot = an_tx_slot(flow, seq);
		if (slot->payload) {
			give_up(flow, slot);
		} else {
			slot->flags = 0;
			slot->nack_slot = 0;
		}
	}
	flow->ask_from = flow->ask_to = flow->tx_next;
}

static void begin_round(struct an_flow *flow, uint64_t now)
{
	retire_asks(flow);
	flow->asking = 1;
	flow->ask_copies = 0;
	flow->ask_cursor = flow->rx_next;
	flow->ask_anew_at = now + an_ask_anew(&flow->rtt, flow->ask_unanswered);
	flow->ask_unanswered += !flow->gap_new;
	flow->gap_new = 0;
}

/* The same asks again, under their numbers. */
static void want_copies(struct an_flow *flow)
{
	for (uint32_t seq = flow->ask_from; seq != flow->ask_to; seq++)
		if (an_is_kept(flow, seq))
			want(flow, seq);
}

/* Whether it is time for asks: for a round, or for copies of the last one. */
static void turn_asks(struct an_flow *flow, uint64_t now)
{
	struct an_gap gap;
	uint32_t next;

	/* The rest may have come meanwhile, or credit is short. */
	if (flow->asking && (!an_may_send(flow, 1, 2) || !an_find_gaps(flow, &gap, 1, &next)))
		flow->asking = 0;
	if (now < ask_at(flow) || flow->asking)
		return;
	flow->asked_at = now;
	if ((flow->gap_new || now >= flow->ask_anew_at) && an_may_send(flow, 1, 2)) {
		begin_round(flow, now);
	} else {
		flow->ask_copies++;
		want_copies(flow);
	}
}

/* Ranges in one frame, as many as credit and the frame allow. */
static struct an_tx_slot *new_gaps(struct an_flow *flow, const struct an_gap *gaps, uint32_t count,
				   uint32_t *written)
{
	uint64_t credit = an_credit_left(flow) - an_credit_reserve(flow) / 2;
	uint64_t blocks = an_least(flow->payload_max / ASSENT_BLOCK_LEN, credit - 1);
	struct an_tx_slot *slot;
	struct an_buffer *text;
	uint8_t plain[2048];
	uint32_t len;

	*written = 0;
	/* The last block is the AEAD tag's. */
	if (blocks < 2)
		return NULL;
	len = an_gaps_encode(gaps, count, plain,
			     (uint32_t)an_least((blocks - 1) * ASSENT_BLOCK_LEN, sizeof(plain)),
			     written);
	text = *written ? an_pool_take(flow->pool, len + ASSENT_AEAD_TAG_LEN) : NULL;
	if (!text)
		return NULL;
	memcpy(text->data, plain, len);
	text->len = (uint16_t)len;
	flow->stats.gaps_sent++;
	slot = new_sealed(flow, ASSENT_FLAG_NACK, text);
	/* It would take a unit to be told. */
	if (slot && flow->unit > 1)
		await_no_receipt(flow, slot);
	return slot;
}

/* One answer is timed at a time; it is known by a timestamp that is newer than any till now. */
static void time_answer(struct an_flow *flow, const struct an_gap *gap, uint64_t now)
{
	if (flow->timed_at || an_before(gap->first, flow->ask_end))
		return;
	flow->timed_seq = gap->first;
	flow->timed_at = now;
	flow->timed_stamp = flow->newest_stamp;
}

/* The round's next frame: one missing number is named in a NACK, more in GAPS. */
static struct an_tx_slot *next_ask(struct an_flow *flow, uint64_t now)
{
	struct an_gap gaps[AN_GAPS_MAX];
	struct an_tx_slot *slot = NULL;
	uint32_t count, written = 0, next;

	if (!flow->asking)
		return NULL;
	count = an_find_gaps(flow, gaps, AN_GAPS_MAX, &next);
	flow->asking = 0;
	if (!count)
		return NULL;
	if (count > 1 || gaps[0].count > 1)
		slot = new_gaps(flow, gaps, count, &written);
	if (!slot) {
		slot = new_bare(flow, ASSENT_FLAG_NACK, 2);
		flow->stats.nacks_sent += slot != NULL;
		written = 0;
		next = gaps[0].first + 1;
	}
	if (!slot)
		return NULL;
	slot->nack_slot = gaps[0].first;
	if (written && written < count)
		next = gaps[written].first;
	time_answer(flow, &gaps[written ? written - 1 : 0], now);
	flow->ask_to = flow->tx_next;
	flow->ask_cursor = next;
	flow->asking = an_before(next, flow->rx_end);
	if (!flow->asking)
		flow->ask_end = flow->rx_end;
	return slot;
}

static struct an_tx_slot *new_receipt(struct an_flow *flow)
{
	struct an_tx_slot *slot = new_bare(flow, 0, 0);

	flow->stats.receipts_sent += slot != NULL;
	return slot;
}

/* A rate so low that a frame's worth takes long: the peer still wants to hear that it goes on. */
static uint64_t trickle_at(const struct an_flow *flow)
{
	uint64_t at = flow->announced_at + AN_PACE_INTERVAL_MAX;
	uint64_t blocks = flow->unit - (an_granted(flow) & (flow->unit - 1));

	if (!flow->rx_held_data)
		return UINT64_MAX;
	if (an_promised(flow) != flow->rx_announced)
		return at;
	/* Not before there is something to tell. */
	if (blocks > flow->rx_held)
		return UINT64_MAX;
	return an_most(at, flow->rx_held_until - (flow->rx_held - blocks) * flow->pace);
}

static int receipt_due(const struct an_flow *flow, uint64_t now)
{
	uint64_t unannounced = an_promised(flow) - flow->rx_announced;
	uint32_t frames = flow->number_max / (uint32_t)an_most(flow->receipt_fraction, 4);

	if (!an_may_send(flow, 1, 0))
		return 0;
	if (flow->answer_due || (unannounced && unannounced >= an_receipt_step(flow)))
		return 1;
	if (flow->pace)
		return unannounced && now >= trickle_at(flow);
	return unannounced && flow->rx_unannounced_frames >= frames;
}

/* Grants cannot receipt what costs nothing. Who has no credit answers under LAMP as well. */
static int ack_due(const struct an_flow *flow)
{
	return flow->rx_ack_due && (an_may_send(flow, 1, 0) || flow->lamp);
}

static struct an_tx_slot *next_ack(struct an_flow *flow)
{
	struct an_tx_slot *slot;

	if (!ack_due(flow))
		return NULL;
	slot = new_bare(flow, ASSENT_FLAG_ACK, 0);
	if (!slot && flow->lamp)
		slot = new_slot(flow, ASSENT_FLAG_ACK | ASSENT_FLAG_LAMP, 0);
	if (!slot)
		return NULL;
	flow->rx_ack_due = 0;
	return slot;
}

static struct an_tx_slot *next_data(struct an_flow *flow)
{
	struct an_buffer *text = an_queue_pop(flow);
	uint16_t bytes;
	struct an_tx_slot *slot;
	int lamp;

	if (!text)
		return NULL;
	text = an_buffer_shrink(flow->pool, text, text->len + ASSENT_AEAD_TAG_LEN);
	bytes = (uint16_t)text->message_bytes;
	lamp = text->lamp;
	slot = new_sealed(flow, ASSENT_FLAG_DATA | (lamp ? ASSENT_FLAG_LAMP : 0), text);
	if (!slot)
		return NULL;
	slot->message_bytes = bytes;
	if (lamp) {
		flow->tx_lamps++;
		flow->stats.lamps_sent++;
		flow->line->tx_pending = 1;
	}
	return slot;
}

/* -- what nobody asked for -- */

int an_sends(const struct an_flow *flow)
{
	return flow->tx_unsettled || flow->tx_lamps ||
	       (flow->waiting_for_credit && flow->tx_base != flow->tx_next);
}

/* Blocks that a probe costs: where grants are told in units, what fills the last one up. */
static uint32_t probe_cost(const struct an_flow *flow)
{
	uint64_t spent = flow->line->tx_window + flow->line->tx_spent + flow->queue_cost;

	return flow->unit - (uint32_t)(spent & (flow->unit - 1));
}

static int can_probe(const struct an_flow *flow)
{
	return an_may_send(flow, probe_cost(flow), 4);
}

static struct an_tx_slot *new_probe(struct an_flow *flow)
{
	uint32_t cost = probe_cost(flow);
	int useless = flow->heard_at > flow->tx_sent_at || an_peer_is_mute(flow);
	struct an_tx_slot *slot;

	flow->probe_interval =
	    an_least(2 * flow->probe_interval, an_probe_max(&flow->rtt, useless));
	slot = new_slot(flow, cost > 1 ? ASSENT_FLAG_FIN : ASSENT_FLAG_DATA, cost);
	if (slot && cost > 1)
		slot->nack_slot = cost;
	if (slot) {
		flow->probe_seq = flow->tx_next - 1;
		flow->probe_copies = 1;
		slot->state = AN_TX_PROBE;
		await_no_receipt(flow, slot);
	}
	flow->stats.probes_sent += slot != NULL;
	return slot;
}

/*
 * ns that the peer may be quiet and yet be well: twice what it takes between grants, or, held to a
 * rate, between frames.
 */
static uint64_t patience(const struct an_flow *flow)
{
	return an_least(2 * an_most(flow->tx_grant_gap, an_pace_frame(flow)),
			an_patience_max(&flow->rtt));
}

static int is_copy_due(const struct an_flow *flow)
{
	return flow->probe_copies && an_is_kept(flow, flow->probe_seq);
}

/* A peer that grants slowly is not asked, but one that hears nothing may give up. */
static uint64_t probe_at(const struct an_flow *flow)
{
	uint64_t granted = an_most(flow->tx_quiet_since, flow->tx_granted_at) + patience(flow);
	uint64_t heard = flow->tx_sent_at + an_patience_max(&flow->rtt);

	if (is_copy_due(flow))
		return flow->tx_quiet_since + flow->probe_interval / 2;
	return an_most(flow->tx_quiet_since + flow->probe_interval, an_least(granted, heard));
}

enum unasked { UNASKED_NOTHING, UNASKED_GRANT, UNASKED_PROBE, UNASKED_RECOVERY };

/* Who waits for the peer to write asks now and then whether it is there. */
static uint64_t keep_alive_at(const struct an_flow *flow)
{
	uint64_t third = an_silence_limit(&flow->rtt) / 3;

	if (!flow->expects_since || !can_probe(flow))
		return UINT64_MAX;
	return an_most(an_most(flow->heard_at, flow->expects_since), flow->tx_sent_at) + third;
}

/*
 * To a peer that may be unable to ask: a grant that was not told, or, where nobody reads what it
 * sent, that it is not forgotten.
 */
static uint64_t grant_untold_at(const struct an_flow *flow)
{
	uint64_t third = an_silence_limit(&flow->rtt) / 3;

	if (flow->rx_held || !an_may_send(flow, 1, 0) || !an_peer_may_be_mute(flow))
		return UINT64_MAX;
	if (flow->rx_unannounced_data && an_promised(flow) != flow->rx_announced)
		return an_most(flow->tx_quiet_since, flow->heard_at) + flow->recovery_interval;
	return an_at_hand(flow) ? an_most(flow->tx_sent_at, flow->heard_at) + third : UINT64_MAX;
}

/* There may be something that the peer does not know. What is due next, and when. */
static uint64_t unasked_at(const struct an_flow *flow, enum unasked *what)
{
	int can_ask = can_probe(flow);
	uint64_t at = grant_untold_at(flow);
	uint64_t slow, then;

	*what = UNASKED_GRANT;
	then = keep_alive_at(flow);
	if (then < at) {
		*what = UNASKED_PROBE;
		at = then;
	}
	if (flow->tx_base == flow->tx_next)
		return at;
	if (an_sends(flow) && can_ask) {
		then = probe_at(flow);
		if (then < at) {
			*what = UNASKED_PROBE;
			at = then;
		}
		return at;
	}
	/* Who is mute has nothing to wait for. */
	slow = an_most(flow->recovery_interval, can_ask ? an_least(patience(flow), AN_SECOND) : 0);
	/* Whoever is done says so a few times more, and then now and then until nobody can wait for
	 * it any longer: the peer may still wait to hear it. */
	if (!an_works(flow) && !flow->rx_held_data) {
		if (!an_peer_may_be_mute(flow) ||
		    flow->tx_quiet_since > flow->heard_at + an_silence_limit(&flow->rtt))
			return at;
		if (flow->recovery_rounds >= AN_RECOVERY_ROUNDS)
			slow = an_most(slow, an_silence_limit(&flow->rtt) / 16);
	}
	then = an_most(flow->tx_quiet_since, flow->heard_at) + slow;
	if (then < at) {
		*what = UNASKED_RECOVERY;
		at = then;
	}
	return at;
}

static struct an_tx_slot *next_unasked(struct an_flow *flow, uint64_t now)
{
	enum unasked what;

	if (now < unasked_at(flow, &what))
		return NULL;
	if (what == UNASKED_GRANT)
		return new_receipt(flow);
	if (what == UNASKED_PROBE) {
		if (!is_copy_due(flow))
			return new_probe(flow);
		flow->probe_copies--;
		want(flow, flow->probe_seq);
		return NULL;
	}
	flow->recovery_rounds++;
	flow->recovery_interval =
	    an_least(2 * flow->recovery_interval, an_recovery_max(&flow->rtt));
	flow->recovery_left =
	    an_works(flow) || flow->rx_held_data ? AN_RECOVERY_BURST : AN_RECOVERY_PAIR;
	return NULL;
}

/* -- all of it -- */

static struct an_tx_slot *next_new(struct an_flow *flow, uint64_t now)
{
	struct an_tx_slot *slot = next_ask(flow, now);

	if (!slot)
		slot = next_ack(flow);
	if (!slot && receipt_due(flow, now))
		slot = new_receipt(flow);
	if (!slot)
		slot = next_data(flow);
	if (!slot)
		slot = next_unasked(flow, now);
	return slot;
}

static int is_idle(const struct an_flow *flow)
{
	return (flow->tx_slots && flow->tx_base == flow->tx_next) ||
	       (flow->rx_slots && flow->rx_next == flow->rx_end);
}

static uint64_t tidy_at(const struct an_flow *flow)
{
	return is_idle(flow) ? an_most(flow->heard_at, flow->tx_quiet_since) + AN_IDLE : UINT64_MAX;
}

uint32_t an_flow_output(struct an_flow *flow, uint8_t *buffer, uint64_t now, uint64_t wall)
{
	struct an_tx_slot *slot;
	uint32_t len;

	if (flow->broken)
		return 0;
	an_take_receipts(flow, now);
	an_grant_due(flow, now);
	if (flow->lent)
		an_wish(flow);
	turn_asks(flow, now);
	len = output_again(flow, buffer, now, wall);
	if (len)
		return len;
	slot = next_new(flow, now);
	if (!slot) {
		/* What is sent again for nobody asked. */
		if (flow->recovery_left || flow->tx_wanted)
			return output_again(flow, buffer, now, wall);
		if (now >= tidy_at(flow))
			an_flow_tidy(flow);
		return 0;
	}
	len = emit(flow, flow->tx_next - 1, slot, buffer, now, wall);
	flow->tx_sent_at = now;
	/* What nobody repairs is not kept; the end is. */
	if (flow->delivery == AN_BEST_EFFORT && slot->message_bytes && !is_lamp(slot))
		give_up(flow, slot);
	return len;
}

/* Something can leave at once. */
static int is_due(const struct an_flow *flow, uint64_t now)
{
	return flow->tx_wanted || flow->inherited_count || flow->queue_count ||
	       (flow->recovery_left && flow->tx_base != flow->tx_next) || now >= ask_at(flow) ||
	       ack_due(flow) || receipt_due(flow, now);
}

uint64_t an_flow_deadline(const struct an_flow *flow, uint64_t now)
{
	enum unasked what;
	uint64_t at;

	if (flow->broken || is_due(flow, now))
		return now;
	at = an_least(unasked_at(flow, &what), tidy_at(flow));
	if (an_may_send(flow, 1, 0)) {
		at = an_least(at, an_grant_at(flow, now));
		at = an_least(at, trickle_at(flow));
	}
	at = an_least(at, ask_at(flow));
	return an_least(at, an_silent_at(flow));
}
