// SPDX-License-Identifier: Apache-2.0
/* What arrives: order, gaps, and what is consumed on the spot. */
#include "flow_parts.h"

/* -- gaps -- */

/* A gap is there as soon as a later number is. */
static int extend(struct an_flow *flow, uint32_t seq, uint64_t now)
{
	if (an_rx_reserve(flow, seq - flow->rx_next + 1))
		return an_break(flow, -ENOMEM, "there is no memory for what arrives");
	flow->gap_new |= seq != flow->rx_end;
	for (; !an_before(seq, flow->rx_end); flow->rx_end++) {
		memset(an_rx_slot(flow, flow->rx_end), 0, sizeof(struct an_rx_slot));
		flow->rx_missing++;
	}
	return 0;
}

static int is_missing(const struct an_flow *flow, uint32_t seq)
{
	return !(an_rx_slot(flow, seq)->state & AN_RX_PRESENT);
}

uint32_t an_find_gaps(const struct an_flow *flow, struct an_gap *gaps, uint32_t max, uint32_t *next)
{
	uint32_t seq = flow->ask_cursor, count = 0;

	if (an_before(seq, flow->rx_next))
		seq = flow->rx_next;

	while (seq != flow->rx_end) {
		uint32_t first = seq;

		while (seq != flow->rx_end && is_missing(flow, seq))
			seq++;
		if (seq == first) {
			seq++;
			continue;
		}
		if (count == max) {
			seq = first;
			break;
		}
		gaps[count++] = (struct an_gap){.first = first, .count = seq - first};
	}
	*next = seq;
	return count;
}

/* What was sent before it was asked for has no newer timestamp than what had arrived by then. */
static void take_answer_time(struct an_flow *flow, uint32_t seq, uint64_t stamp, uint64_t now)
{
	if (!flow->timed_at || seq != flow->timed_seq)
		return;
	if (stamp > flow->timed_stamp && !an_peer_is_mute(flow))
		an_rtt_sample(&flow->rtt, now - flow->timed_at);
	flow->timed_at = 0;
}

/* -- kinds of frames -- */

static int is_kind(uint32_t flags, uint32_t kind)
{
	return (flags & kind) == kind;
}

/* Sealed text, opened into a buffer of its own. */
static struct an_buffer *open_payload(struct an_flow *flow, uint32_t seq, const uint8_t *payload,
				      uint32_t len)
{
	struct an_buffer *text = an_pool_take(flow->pool, len);

	if (!text) {
		an_break(flow, -ENOMEM, "there is no memory for what arrives");
		return NULL;
	}
	if (an_aead_open(&flow->pool->cipher, &flow->open, seq, payload, len, text->data)) {
		flow->stats.aead_failures++;
		an_pool_give(flow->pool, text);
		an_break(flow, -EBADMSG,
			 "frame %u has a good tag and a payload that was tampered with", seq);
		return NULL;
	}
	text->seq = seq;
	text->len = (uint16_t)(len - ASSENT_AEAD_TAG_LEN);
	return text;
}

static void make_ready(struct an_flow *flow, struct an_buffer *text)
{
	if (flow->ready_tail)
		flow->ready_tail->next = text;
	else
		flow->ready_head = text;
	flow->ready_tail = text;
}

static int take_data(struct an_flow *flow, struct an_rx_slot *slot, uint32_t seq,
		     const uint8_t *payload, uint32_t len)
{
	struct an_buffer *text = open_payload(flow, seq, payload, len);
	int end;

	if (!text)
		return flow->broken;
	if (an_records_check(text->data, text->len, flow->delivery == AN_ORDERED, &end) ||
	    (flow->rx_end_known && an_before(flow->rx_end_seq, seq))) {
		an_pool_give(flow->pool, text);
		return an_break(flow, -EPROTO, "frame %u does not hold messages", seq);
	}
	if (end) {
		flow->rx_end_known = 1;
		flow->rx_end_seq = seq;
	}
	slot->payload = text;
	if (flow->delivery != AN_ORDERED)
		make_ready(flow, text);
	return 0;
}

static int take_gaps(struct an_flow *flow, uint32_t seq, const uint8_t *payload, uint32_t len,
		     uint64_t now)
{
	struct an_gap gaps[AN_GAPS_READ_MAX];
	struct an_buffer *text = open_payload(flow, seq, payload, len);
	int count;

	if (!text)
		return flow->broken;
	count = an_gaps_decode(text->data, text->len, gaps);
	an_pool_give(flow->pool, text);
	if (count < 0)
		return an_break(flow, -EPROTO, "frame %u does not hold gaps", seq);
	flow->stats.gaps_received++;
	an_peer_misses_ranges(flow, gaps, count, now);
	return 0;
}

static void want_answer(struct an_flow *flow, struct an_rx_slot *slot)
{
	slot->state |= AN_RX_PROBE;
	flow->answer_due = 1;
}

/* What the frame is for. Where nothing is to be read, it is done with. */
static int take_kind(struct an_flow *flow, struct an_rx_slot *slot, const struct assent_header *h,
		     const uint8_t *payload, uint64_t now)
{
	uint32_t seq = assent_be32(h->seq), nack_slot = assent_be32(h->nack_slot);
	uint32_t len = assent_be16(h->payload_len);
	uint32_t flags = assent_be16(h->flags);

	slot->flags = (uint16_t)flags;
	slot->cost = is_kind(flags, ASSENT_FLAG_LAMP) ? 0 : assent_frame_cost(len);
	if (len && is_kind(flags, ASSENT_FLAG_DATA)) {
		slot->state = AN_RX_PRESENT;
		return take_data(flow, slot, seq, payload, len);
	}
	slot->state = AN_RX_PRESENT | AN_RX_READ;
	if (len && is_kind(flags, ASSENT_FLAG_NACK))
		return take_gaps(flow, seq, payload, len, now);
	if (len)
		return an_break(flow, -EPROTO, "frame %u has a payload of no known kind", seq);
	if (is_kind(flags, ASSENT_FLAG_FIN) && !is_kind(flags, ASSENT_FLAG_LAMP)) {
		flow->stats.voids_received++;
		/* Under a new number it is a probe as well. */
		if (seq + 1 == flow->rx_end)
			want_answer(flow, slot);
		slot->cost = nack_slot;
		return nack_slot ? an_book_void(flow, nack_slot)
				 : an_break(flow, -EPROTO, "a void stands for nothing");
	}
	if (is_kind(flags, ASSENT_FLAG_DATA))
		want_answer(flow, slot);
	return 0;
}

/* -- consumption -- */

void an_consume(struct an_flow *flow)
{
	const uint32_t done = AN_RX_PRESENT | AN_RX_READ;
	uint64_t consumed = 0;
	uint32_t from = flow->rx_next;

	while (flow->rx_next != flow->rx_end) {
		const struct an_rx_slot *slot = an_rx_slot(flow, flow->rx_next);
		int data = is_kind(slot->flags, ASSENT_FLAG_DATA);

		if ((slot->state & done) != done)
			break;
		consumed += slot->cost;
		if (flow->pace) {
			flow->rx_held_data |= slot->cost > 1;
			flow->rx_held_probe |= (slot->state & AN_RX_PROBE) != 0;
		} else {
			flow->rx_unannounced_data |= slot->cost > 1;
		}
		flow->rx_ack_due |= data && !slot->cost;
		flow->rx_next++;
	}
	if (flow->rx_next == from)
		return;
	flow->rx_unannounced_frames += flow->rx_next - from;
	__atomic_store_n(&flow->line->rx_next, flow->rx_next, __ATOMIC_RELEASE);
	an_grant_consumed(flow, consumed);
}

/* -- frames -- */

/* The peer's newest frame says where the peer is. */
static void follow(struct an_flow *flow, const uint8_t *frame)
{
	if (!memcmp(flow->ethernet, frame + 6, 6))
		return;
	memcpy(flow->ethernet, frame + 6, 6);
	flow->stats.moves++;
}

static void hear(struct an_flow *flow, const struct assent_header *h, uint32_t len, uint64_t now)
{
	flow->stats.rx_frames++;
	flow->stats.rx_bytes += len;
	flow->progress_at = flow->heard_at = now;
	flow->recovery_interval = an_recovery_first(&flow->rtt);
	flow->recovery_rounds = 0;
	flow->ask_unanswered = 0;
	/* A NACK, or what names a missing number beside; GAPS list theirs. */
	if (h->flags & assent_be16(ASSENT_FLAG_NACK) &&
	    !(h->flags & assent_be16(ASSENT_FLAG_FIN)) &&
	    (!h->payload_len || h->flags & assent_be16(ASSENT_FLAG_DATA))) {
		flow->stats.nacks_received++;
		an_peer_misses(flow, assent_be32(h->nack_slot), now);
	}
	if (h->flags & assent_be16(ASSENT_FLAG_LAMP | ASSENT_FLAG_ACK))
		an_take_ack(flow, assent_be32(h->nack_slot), now);
}

int an_flow_input(struct an_flow *flow, const uint8_t *frame, uint32_t len, uint64_t now,
		  char *error, size_t error_len)
{
	struct assent_header h;
	struct an_rx_slot *slot;
	uint32_t seq;
	int err = flow->broken;

	if (err)
		goto out;
	memcpy(&h, frame + ASSENT_ETH_LEN, sizeof(h));
	seq = assent_be32(h.seq);
	hear(flow, &h, len, now);
	if (flow->lent)
		an_book_lent(flow, &h,
			     h.flags & assent_be16(ASSENT_FLAG_LAMP)
				 ? 0
				 : assent_frame_cost(assent_be16(h.payload_len)));
	/* Who waits for receipts is told at once, and not when something is to be sent next. */
	if (flow->tx_base != flow->tx_next)
		an_take_receipts(flow, now);
	/* Of a session that is over nothing is taken in, and an_flow_check says so. */
	if (an_before(seq, flow->rx_next) || !flow->line->replay_len)
		return 0;
	if (seq - flow->rx_next >= flow->number_max + AN_LAG_NUMBERS) {
		err =
		    an_break(flow, -EPROTO, "the peer ran past the window: %u while %u is awaited",
			     seq, flow->rx_next);
		goto out;
	}
	if (!an_before(seq, flow->rx_end)) {
		follow(flow, frame);
		err = extend(flow, seq, now);
		if (err)
			goto out;
	}
	slot = an_rx_slot(flow, seq);
	if (slot->state & AN_RX_PRESENT)
		return 0;
	flow->rx_missing--;
	take_answer_time(flow, seq, assent_be64(h.timestamp), now);
	flow->newest_stamp = an_most(flow->newest_stamp, assent_be64(h.timestamp));
	err = take_kind(flow, slot, &h, frame + ASSENT_ETH_LEN + sizeof(h), now);
	if (!err) {
		an_take_end(flow);
		an_consume(flow);
		return 0;
	}
out:
	snprintf(error, error_len, "%s", flow->why);
	return err;
}
