// SPDX-License-Identifier: Apache-2.0
#include "flow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_SIZE AN_FRAME_MAX
/* A header, and a block of payload that holds more than the AEAD tag. */
#define MTU_MIN (ASSENT_HEADER_LEN + ASSENT_BLOCK_LEN)
/* The fabric header starts 14 bytes into a frame; frames start 2 bytes into a slot, so it is
 * aligned. */
#define FRAME_OFFSET 2

static struct an_tx_slot *tx_slot(struct an_flow *flow, uint32_t seq)
{
	return &flow->tx[seq % AN_WINDOW];
}

static struct an_rx_slot *rx_slot(struct an_flow *flow, uint32_t seq)
{
	return &flow->rx[seq % AN_WINDOW];
}

static uint64_t load(const __u64 *counter)
{
	return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

/* -- life -- */

static uint32_t first_expected(const struct assent_flow *line)
{
	return line->rx_next ? line->rx_next : 1;
}

static int check_usable(const struct an_endpoint_config *config, char *error, size_t error_len)
{
	const struct assent_flow *line = config->line;

	if (!line->replay_len) {
		snprintf(error, error_len, "the flow is not open: grant it credit, then connect");
		return -ENOTCONN;
	}
	if (config->mtu < MTU_MIN) {
		snprintf(error, error_len, "the MTU is %u: a frame with payload needs %u at least",
			 config->mtu, MTU_MIN);
		return -EMSGSIZE;
	}
	/* In coarser units the last grant is rounded down, and the tail would never be receipted.
	 */
	if (line->grant_shift) {
		snprintf(error, error_len,
			 "grant_shift %u was agreed, and this endpoint reckons in single blocks",
			 line->grant_shift);
		return -ENOTSUP;
	}
	/* What an endpoint that crashed had sent or taken in is gone with it. */
	if (line->tx_pending || first_expected(line) != line->rx_highest + 1) {
		snprintf(error, error_len,
			 "an earlier endpoint left this flow unfinished: renew the session");
		return -ESTALE;
	}
	return 0;
}

static uint64_t at_most(uint64_t value, uint64_t limit)
{
	return value < limit ? value : limit;
}

static uint64_t at_least(uint64_t value, uint64_t limit)
{
	return value > limit ? value : limit;
}

/*
 * What is granted by and by to a peer held to a rate. The interval is rounded up, so that the gate,
 * which may round it down, is never the stricter one.
 */
static void set_pace(struct an_flow *flow, uint64_t rate, uint64_t now)
{
	uint32_t frame = assent_frame_cost(flow->payload_max);
	uint64_t worth;

	if (!rate)
		return;
	flow->pace = AN_SECOND / rate + (AN_SECOND % rate != 0);
	flow->pace_frame = frame * flow->pace;
	worth = at_least(AN_PACE_INTERVAL / flow->pace, frame);
	/* No more than half of what the peer can keep, if all its frames are of one block. */
	flow->receipt_step = at_most(at_most(flow->receipt_step, worth), AN_WINDOW / 2);
	flow->announced_at = now;
}

/* Holds what was consumed until its grant is due. */
static void hold(struct an_flow *flow, uint64_t blocks, uint64_t now)
{
	flow->rx_held_until = at_least(flow->rx_held_until, now) + blocks * flow->pace;
	flow->rx_held += blocks;
}

static void grant(struct an_flow *flow, uint64_t blocks)
{
	assent_counter_raise(&flow->line->rx_granted, load(&flow->line->rx_granted) + blocks);
}

/* Grants what is due. Of what is held, each block is due an interval after the one before. */
static void release(struct an_flow *flow, uint64_t now)
{
	uint64_t early = flow->rx_held_until > now ? flow->rx_held_until - now : 0;
	uint64_t kept = early ? at_most((early + flow->pace - 1) / flow->pace, flow->rx_held) : 0;

	if (kept == flow->rx_held)
		return;
	grant(flow, flow->rx_held - kept);
	flow->rx_held = kept;
	flow->rx_unannounced_data |= flow->rx_held_data;
	if (kept)
		return;
	flow->answer_due |= flow->rx_held_probe;
	flow->rx_held_data = flow->rx_held_probe = 0;
}

/* What an earlier endpoint had consumed, and closed before it was granted. */
static void take_over_held(struct an_flow *flow, uint64_t now)
{
	uint64_t paid = flow->line->rx_spent + flow->line->rx_window;
	uint64_t granted = load(&flow->line->rx_granted);

	if (paid <= granted)
		return;
	hold(flow, paid - granted, now);
	flow->rx_held_data = flow->rx_held_probe = 1;
	release(flow, now);
}

int an_flow_init(struct an_flow *flow, const struct an_endpoint_config *config, uint64_t now,
		 char *error, size_t error_len)
{
	struct assent_flow *line = config->line;
	struct assent_pair reverse;
	uint64_t key[2];
	int err = check_usable(config, error, error_len);

	if (err)
		return err;
	memset(flow, 0, sizeof(*flow));
	flow->line = line;
	memcpy(flow->header.pair.src.bytes, config->local_cell, ASSENT_CELLID_LEN);
	memcpy(flow->header.pair.dst.bytes, config->remote_cell, ASSENT_CELLID_LEN);
	flow->header.flow = assent_be16(config->flow);
	memcpy(flow->ethernet, config->remote_mac, 6);
	memcpy(flow->ethernet + 6, config->local_mac, 6);
	flow->ethernet[12] = ASSENT_ETHERTYPE >> 8;
	flow->ethernet[13] = ASSENT_ETHERTYPE & 0xff;
	memcpy(key, config->tx_header_key, sizeof(key));
	flow->tx_state = assent_pair_state(assent_le64(key[0]), assent_le64(key[1]), &flow->header);
	OPENSSL_cleanse(key, sizeof(key));

	flow->payload_max = config->mtu < AN_FRAME_MAX - ASSENT_ETH_LEN
				? config->mtu
				: AN_FRAME_MAX - ASSENT_ETH_LEN - FRAME_OFFSET;
	flow->payload_max =
	    (flow->payload_max - ASSENT_HEADER_LEN) & ~(uint32_t)(ASSENT_BLOCK_LEN - 1);
	flow->reserve =
	    line->tx_window / 4 < AN_CREDIT_RESERVE ? line->tx_window / 4 : AN_CREDIT_RESERVE;
	flow->receipt_step = line->rx_window > 8 ? line->rx_window / 8 : 1;
	flow->tx_origin = flow->tx_base = flow->tx_next = line->tx_seq + 1;
	flow->rx_next = flow->rx_end = flow->nack_cursor = first_expected(line);
	flow->probe_interval = AN_PROBE_INTERVAL;
	flow->recovery_interval = AN_RECOVERY_INTERVAL;
	flow->tx_quiet_since = flow->progress_at = flow->heard_at = now;
	flow->tx_sent_at = flow->tx_granted_at = now;
	flow->tx_granted_seen = load(&line->tx_granted);
	set_pace(flow, config->rx_blocks_per_second, now);

	flow->tx = calloc(AN_WINDOW, sizeof(*flow->tx));
	flow->rx = calloc(AN_WINDOW, sizeof(*flow->rx));
	flow->buffers = aligned_alloc(64, ((size_t)2 * AN_WINDOW + 1) * SLOT_SIZE);
	reverse.src = flow->header.pair.dst;
	reverse.dst = flow->header.pair.src;
	err = !flow->tx || !flow->rx || !flow->buffers ? -ENOMEM : 0;
	if (!err)
		err = an_aead_init(&flow->seal, 1, config->tx_payload_key, &flow->header.pair,
				   config->epoch, (uint16_t)config->flow);
	if (!err)
		err = an_aead_init(&flow->open, 0, config->rx_payload_key, &reverse, config->epoch,
				   (uint16_t)config->flow);
	if (err) {
		snprintf(error, error_len, "opening the flow: %s", strerror(-err));
		an_flow_free(flow);
		return err;
	}
	flow->inherited.frame = flow->buffers + (size_t)2 * AN_WINDOW * SLOT_SIZE + FRAME_OFFSET;
	for (size_t i = 0; i < AN_WINDOW; i++) {
		flow->tx[i].frame = flow->buffers + i * SLOT_SIZE + FRAME_OFFSET;
		flow->rx[i].payload = flow->buffers + (AN_WINDOW + i) * SLOT_SIZE;
	}
	flow->rx_announced = load(&line->rx_granted);
	take_over_held(flow, now);
	/* From here on the gate lets the flow's frames through. */
	__atomic_store_n(&line->rx_open, 1, __ATOMIC_RELEASE);
	return 0;
}

void an_flow_shut(struct an_flow *flow)
{
	__atomic_store_n(&flow->line->rx_open, 0, __ATOMIC_RELEASE);
}

void an_flow_free(struct an_flow *flow)
{
	an_aead_free(&flow->seal);
	an_aead_free(&flow->open);
	free(flow->tx);
	free(flow->rx);
	free(flow->buffers);
	OPENSSL_cleanse(flow, sizeof(*flow));
}

/* -- sending -- */

static uint64_t credit_left(const struct an_flow *flow)
{
	uint64_t granted = load(&flow->line->tx_granted);

	return granted > flow->line->tx_spent ? granted - flow->line->tx_spent : 0;
}

/* Fields that say how things stand now, not what the frame is: fresh at every transmission. */
static void stamp(struct an_flow *flow, uint8_t *frame, uint64_t wall)
{
	struct assent_header *h = (struct assent_header *)(frame + ASSENT_ETH_LEN);
	uint64_t granted = load(&flow->line->rx_granted);
	uint16_t flags = assent_be16(h->flags);

	h->grant = assent_be16(assent_grant_field(granted, flow->line->grant_shift));
	h->timestamp = assent_be64(wall);
	if (flow->rx_missing && !(flags & ASSENT_FLAG_NACK) &&
	    !rx_slot(flow, flow->rx_next)->present) {
		flags |= ASSENT_FLAG_NACK;
		h->nack_slot = assent_be32(flow->rx_next);
	} else if (!flow->rx_missing) {
		flags &= ~ASSENT_FLAG_NACK;
		h->nack_slot = 0;
	}
	h->flags = assent_be16(flags);
	h->tag = assent_le64(assent_header_tag(&flow->tx_state, h));
	flow->rx_announced = granted;
	flow->rx_unannounced_frames = 0;
	flow->rx_unannounced_data = 0;
	flow->answer_due = 0;
}

/* Copies a kept frame out. Its slot sits 2 bytes into a line, so the header in it is aligned. */
static uint32_t emit(struct an_flow *flow, struct an_tx_slot *slot, uint8_t *buffer, uint64_t now,
		     uint64_t wall)
{
	stamp(flow, slot->frame, wall);
	memcpy(buffer, slot->frame, slot->frame_len);
	slot->sent_at = now;
	flow->tx_quiet_since = flow->tx_sent_at = flow->announced_at = now;
	flow->stats.tx_frames++;
	flow->stats.tx_bytes += slot->frame_len;
	return slot->frame_len;
}

/* Takes the next number for a frame with `plain_len` bytes of the source; NULL if sealing failed.
 */
static struct an_tx_slot *compose(struct an_flow *flow, uint16_t flags, const uint8_t *plain,
				  uint32_t plain_len)
{
	uint32_t seq = flow->tx_next;
	struct an_tx_slot *slot = tx_slot(flow, seq);
	struct assent_header *h = (struct assent_header *)(slot->frame + ASSENT_ETH_LEN);
	uint32_t payload_len = plain_len ? plain_len + ASSENT_AEAD_TAG_LEN : 0;
	uint32_t padded = assent_padded_len(payload_len);
	uint8_t *payload = (uint8_t *)(h + 1);

	memcpy(slot->frame, flow->ethernet, ASSENT_ETH_LEN);
	*h = flow->header;
	h->seq = assent_be32(seq);
	h->flags = assent_be16(flags | ASSENT_FLAG_BLOCK);
	h->payload_len = assent_be16(payload_len);

	/* The number is spent in shared memory before its nonce is used: a crash cannot reuse it.
	 */
	__atomic_store_n(&flow->line->tx_seq, seq, __ATOMIC_RELEASE);
	flow->tx_next = seq + 1;
	if (plain_len) {
		flow->line->tx_pending = 1;
		if (an_aead_seal(&flow->seal, seq, plain, plain_len, payload))
			return NULL;
		memset(payload + payload_len, 0, padded - payload_len);
	}
	__atomic_store_n(&flow->line->tx_spent,
			 flow->line->tx_spent + assent_frame_cost(payload_len), __ATOMIC_RELEASE);
	slot->paid_until = flow->line->tx_spent;
	slot->plain_len = plain_len;
	flow->tx_data_pending += plain_len != 0;
	slot->frame_len = ASSENT_ETH_LEN + ASSENT_HEADER_LEN + padded;
	return slot;
}

static int window_open(const struct an_flow *flow)
{
	return flow->tx_next - flow->tx_base < AN_WINDOW;
}

/* A header-only frame, where it can be kept, and paid for so that `leave` blocks are left. */
static struct an_tx_slot *compose_bare(struct an_flow *flow, uint16_t flags, uint32_t leave)
{
	return window_open(flow) && credit_left(flow) > leave ? compose(flow, flags, NULL, 0)
							      : NULL;
}

/* Learns how long the peer takes between grants, while some are awaited. */
static void time_grants(struct an_flow *flow, uint64_t granted, uint64_t now)
{
	int64_t gap = (int64_t)at_most(now - flow->tx_granted_at, AN_PATIENCE_MAX / 2);

	if (flow->tx_base == flow->tx_next) {
		flow->tx_granted_at = now;
	} else if (granted != flow->tx_granted_seen) {
		flow->tx_grant_gap += (gap - (int64_t)flow->tx_grant_gap) / 4;
		flow->tx_granted_at = now;
	}
	flow->tx_granted_seen = granted;
}

void an_flow_take_receipts(struct an_flow *flow, uint64_t now)
{
	uint64_t granted = load(&flow->line->tx_granted);
	uint64_t consumed = granted > flow->line->tx_window ? granted - flow->line->tx_window : 0;
	uint32_t base = flow->tx_base;

	time_grants(flow, granted, now);
	while (flow->tx_base != flow->tx_next) {
		struct an_tx_slot *slot = tx_slot(flow, flow->tx_base);

		if (slot->paid_until > consumed)
			break;
		flow->stats.tx_payload += slot->plain_len;
		flow->tx_data_pending -= slot->plain_len != 0;
		flow->tx_base++;
	}
	flow->line->tx_pending = flow->tx_data_pending != 0;
	if (flow->tx_base != base) {
		flow->probe_interval = AN_PROBE_INTERVAL;
		flow->tx_quiet_since = now;
		flow->progress_at = now;
	}
}

static int is_kept(const struct an_flow *flow, uint32_t seq)
{
	return seq - flow->tx_base < flow->tx_next - flow->tx_base;
}

/*
 * A number that an earlier endpoint used. It closed with all its data receipted, so what the peer
 * misses was header-only and can be made again, paid for as it is.
 */
static int is_inherited(const struct an_flow *flow, uint32_t seq)
{
	return flow->tx_origin - seq - 1 < AN_WINDOW;
}

static struct an_tx_slot *compose_inherited(struct an_flow *flow, uint32_t seq)
{
	struct an_tx_slot *slot = &flow->inherited;
	struct assent_header *h = (struct assent_header *)(slot->frame + ASSENT_ETH_LEN);

	memcpy(slot->frame, flow->ethernet, ASSENT_ETH_LEN);
	*h = flow->header;
	h->seq = assent_be32(seq);
	h->flags = assent_be16(ASSENT_FLAG_BLOCK);
	slot->frame_len = ASSENT_ETH_LEN + ASSENT_HEADER_LEN;
	return slot;
}

static struct an_tx_slot *next_resend(struct an_flow *flow, uint64_t now)
{
	while (flow->resend_count) {
		uint32_t seq = flow->resend[flow->resend_head];

		flow->resend_head = (flow->resend_head + 1) % AN_WINDOW;
		flow->resend_count--;
		if (is_kept(flow, seq)) {
			struct an_tx_slot *slot = tx_slot(flow, seq);

			if (now - slot->sent_at >= AN_RESEND_INTERVAL)
				return slot;
		}
		if (is_inherited(flow, seq))
			return compose_inherited(flow, seq);
	}
	return NULL;
}

static void peer_misses(struct an_flow *flow, uint32_t seq)
{
	if (!(is_kept(flow, seq) || is_inherited(flow, seq)) || flow->resend_count == AN_WINDOW)
		return;
	flow->resend[(flow->resend_head + flow->resend_count) % AN_WINDOW] = seq;
	flow->resend_count++;
}

static struct an_tx_slot *next_nack(struct an_flow *flow, uint64_t now)
{
	if (!flow->rx_missing || now < flow->nack_round_at)
		return NULL;
	for (; flow->nack_cursor != flow->rx_end; flow->nack_cursor++) {
		struct an_rx_slot *missing = rx_slot(flow, flow->nack_cursor);
		struct an_tx_slot *slot;
		struct assent_header *h;

		if (missing->present || now - missing->nack_at < AN_NACK_INTERVAL)
			continue;
		slot = compose_bare(flow, ASSENT_FLAG_NACK, flow->reserve / 2);
		if (!slot)
			return NULL;
		missing->nack_at = now;
		h = (struct assent_header *)(slot->frame + ASSENT_ETH_LEN);
		h->nack_slot = assent_be32(flow->nack_cursor++);
		flow->stats.nacks_sent++;
		return slot;
	}
	/* The round is over; the next one looks at the gap from its start. */
	flow->nack_cursor = flow->rx_next;
	flow->nack_round_at = now + AN_NACK_INTERVAL / 4;
	return NULL;
}

/* A rate so low that a frame's worth takes long: the peer still wants to hear that it goes on. */
static int is_trickle_due(const struct an_flow *flow, uint64_t unannounced, uint64_t now)
{
	return flow->rx_held_data && unannounced &&
	       now - flow->announced_at >= AN_PACE_INTERVAL_MAX;
}

static struct an_tx_slot *next_receipt(struct an_flow *flow, uint64_t now)
{
	uint64_t unannounced = load(&flow->line->rx_granted) - flow->rx_announced;
	struct an_tx_slot *slot;

	if (!flow->answer_due && unannounced < flow->receipt_step &&
	    (flow->pace ? !is_trickle_due(flow, unannounced, now)
			: flow->rx_unannounced_frames < AN_WINDOW / 8))
		return NULL;
	slot = compose_bare(flow, 0, 0);
	if (slot)
		flow->stats.receipts_sent++;
	return slot;
}

static struct an_tx_slot *next_data(struct an_flow *flow)
{
	uint64_t left = flow->source_len - flow->source_sent;
	uint32_t room = flow->payload_max - ASSENT_AEAD_TAG_LEN;
	uint32_t plain_len = left < room ? (uint32_t)left : room;
	struct an_tx_slot *slot;

	if (!left || !window_open(flow))
		return NULL;
	if (credit_left(flow) <
	    assent_frame_cost(plain_len + ASSENT_AEAD_TAG_LEN) + flow->reserve) {
		flow->stats.credit_waits += !flow->waiting_for_credit;
		flow->waiting_for_credit = 1;
		return NULL;
	}
	flow->waiting_for_credit = 0;
	slot = compose(flow, ASSENT_FLAG_DATA, flow->source + flow->source_sent, plain_len);
	if (slot)
		flow->source_sent += plain_len;
	return slot;
}

/* Sends unreceipted frames again in turn, a burst of them each time that the line has been quiet.
 */
static struct an_tx_slot *next_recovery(struct an_flow *flow)
{
	uint32_t seq = flow->recovery_cursor;

	if (!flow->recovery_left)
		return NULL;
	flow->recovery_left--;
	if (!is_kept(flow, seq))
		seq = flow->tx_base;
	flow->recovery_cursor = seq + 1;
	return is_kept(flow, seq) ? tx_slot(flow, seq) : NULL;
}

static uint64_t backed_off(uint64_t interval, uint64_t limit)
{
	return 2 * interval < limit ? 2 * interval : limit;
}

/*
 * ns that the peer may be quiet and yet be well: twice what it takes between grants, or, held to a
 * rate, between frames.
 */
static uint64_t patience(const struct an_flow *flow)
{
	return at_most(2 * at_least(flow->tx_grant_gap, flow->pace_frame), AN_PATIENCE_MAX);
}

/* A peer that grants slowly is not asked, but one that hears nothing may give up. */
static int is_probe_due(const struct an_flow *flow, uint64_t quiet, uint64_t now)
{
	uint64_t ungranted = now - at_least(flow->tx_quiet_since, flow->tx_granted_at);

	return quiet >= flow->probe_interval &&
	       (ungranted >= patience(flow) || now - flow->tx_sent_at >= AN_PATIENCE_MAX);
}

/* Nothing is due, and there may be something that the peer does not know. */
static struct an_tx_slot *next_unasked(struct an_flow *flow, uint64_t now)
{
	int can_ask = credit_left(flow) > flow->reserve / 4 && window_open(flow);
	int sends = flow->tx_data_pending || flow->source_sent < flow->source_len;
	int works = sends || flow->sink_filled < flow->sink_len || flow->rx_held_data;
	uint64_t quiet = now - flow->tx_quiet_since;
	uint64_t unheard = now - flow->heard_at;
	/* Who is mute has nothing to wait for. */
	uint64_t slow =
	    at_least(flow->recovery_interval, can_ask ? at_most(patience(flow), AN_SECOND) : 0);

	if (!flow->rx_held && quiet >= flow->recovery_interval &&
	    unheard >= flow->recovery_interval &&
	    load(&flow->line->rx_granted) != flow->rx_announced && flow->rx_unannounced_data) {
		struct an_tx_slot *slot = compose_bare(flow, 0, 0);

		flow->stats.receipts_sent += slot != NULL;
		if (slot)
			return slot;
	}
	if (!is_kept(flow, flow->tx_base))
		return NULL;
	if (sends && can_ask) {
		if (!is_probe_due(flow, quiet, now))
			return NULL;
		flow->probe_interval = backed_off(flow->probe_interval, AN_PROBE_INTERVAL_MAX);
		flow->stats.probes_sent++;
		return compose(flow, ASSENT_FLAG_DATA, NULL, 0);
	}
	if (quiet < slow || unheard < slow)
		return NULL;
	/* Whoever is done says so a few times more: the peer may still wait to hear it. */
	if (!works && flow->recovery_rounds >= AN_RECOVERY_ROUNDS)
		return NULL;
	flow->recovery_rounds++;
	flow->recovery_interval = backed_off(flow->recovery_interval, AN_RECOVERY_INTERVAL_MAX);
	flow->recovery_left = works ? AN_RECOVERY_BURST : AN_RECOVERY_PAIR;
	return next_recovery(flow);
}

uint32_t an_flow_output(struct an_flow *flow, uint8_t *buffer, uint64_t now, uint64_t wall)
{
	struct an_tx_slot *slot;

	if (flow->rx_held)
		release(flow, now);
	slot = next_resend(flow, now);
	if (!slot)
		slot = next_recovery(flow);
	if (slot)
		flow->stats.retransmissions++;
	else
		slot = next_nack(flow, now);
	if (!slot)
		slot = next_receipt(flow, now);
	if (!slot)
		slot = next_data(flow);
	if (!slot)
		slot = next_unasked(flow, now);
	return slot ? emit(flow, slot, buffer, now, wall) : 0;
}

/* -- receiving -- */

static int is_for(const struct an_flow *flow, const struct assent_header *h)
{
	return h->flow == flow->header.flow &&
	       !memcmp(&h->pair.src, &flow->header.pair.dst, ASSENT_CELLID_LEN) &&
	       !memcmp(&h->pair.dst, &flow->header.pair.src, ASSENT_CELLID_LEN);
}

int an_flow_input(struct an_flow *flow, const uint8_t *data, uint32_t len, uint64_t now,
		  char *error, size_t error_len)
{
	struct assent_header h;
	struct an_rx_slot *slot;
	uint32_t payload_len;
	uint32_t seq;

	if (len < ASSENT_ETH_LEN + sizeof(h)) {
		flow->stats.foreign++;
		return 0;
	}
	memcpy(&h, data + ASSENT_ETH_LEN, sizeof(h));
	payload_len = assent_be16(h.payload_len);
	if (!is_for(flow, &h) ||
	    len != ASSENT_ETH_LEN + sizeof(h) + assent_padded_len(payload_len) ||
	    payload_len > SLOT_SIZE) {
		flow->stats.foreign++;
		return 0;
	}
	flow->stats.rx_frames++;
	flow->stats.rx_bytes += len;
	flow->progress_at = flow->heard_at = now;
	flow->recovery_interval = AN_RECOVERY_INTERVAL;
	flow->recovery_rounds = 0;

	if (h.flags & assent_be16(ASSENT_FLAG_NACK)) {
		flow->stats.nacks_received++;
		peer_misses(flow, assent_be32(h.nack_slot));
	}

	seq = assent_be32(h.seq);
	if ((int32_t)(seq - flow->rx_next) < 0)
		return 0;
	if (seq - flow->rx_next >= AN_WINDOW) {
		snprintf(error, error_len, "the peer ran past the window: %u while %u is awaited",
			 seq, flow->rx_next);
		return -EPROTO;
	}
	for (; (int32_t)(seq - flow->rx_end) >= 0; flow->rx_end++) {
		rx_slot(flow, flow->rx_end)->present = 0;
		rx_slot(flow, flow->rx_end)->nack_at = now - AN_NACK_INTERVAL;
		flow->rx_missing++;
		flow->nack_round_at = now;
	}
	slot = rx_slot(flow, seq);
	if (slot->present)
		return 0;
	slot->present = 1;
	slot->flags = assent_be16(h.flags);
	slot->payload_len = payload_len;
	memcpy(slot->payload, data + ASSENT_ETH_LEN + sizeof(h), payload_len);
	flow->rx_missing--;
	if (slot->flags & ASSENT_FLAG_DATA && !payload_len)
		flow->answer_due = 1;
	return 0;
}

int an_flow_deliver(struct an_flow *flow, char *error, size_t error_len)
{
	uint64_t consumed = 0;
	int err = 0;

	if (flow->rx_held)
		release(flow, flow->heard_at);
	while (flow->rx_next != flow->rx_end && rx_slot(flow, flow->rx_next)->present) {
		struct an_rx_slot *slot = rx_slot(flow, flow->rx_next);
		uint32_t plain_len = slot->payload_len > ASSENT_AEAD_TAG_LEN
					 ? slot->payload_len - ASSENT_AEAD_TAG_LEN
					 : 0;

		if (plain_len > flow->sink_len - flow->sink_filled)
			break; /* no room: keep it, and keep the credit for it */
		if (slot->payload_len) {
			err = an_aead_open(&flow->open, flow->rx_next, slot->payload,
					   slot->payload_len, flow->sink + flow->sink_filled);
			if (err) {
				flow->stats.aead_failures++;
				snprintf(
				    error, error_len,
				    "frame %u has a good tag and a payload that was tampered with",
				    flow->rx_next);
				break;
			}
		}
		flow->sink_filled += plain_len;
		flow->stats.rx_payload += plain_len;
		consumed += assent_frame_cost(slot->payload_len);
		flow->rx_unannounced_frames++;
		if (flow->pace) {
			flow->rx_held_data |= slot->payload_len != 0;
			flow->rx_held_probe |= slot->flags & ASSENT_FLAG_DATA && !slot->payload_len;
		} else {
			flow->rx_unannounced_data |= slot->payload_len != 0;
		}
		slot->present = 0;
		flow->rx_next++;
	}
	if (consumed) {
		if ((int32_t)(flow->nack_cursor - flow->rx_next) < 0)
			flow->nack_cursor = flow->rx_next;
		flow->line->rx_next = flow->rx_next;
		/* As of when it was last heard: nothing of it had arrived later than that. */
		if (flow->pace)
			hold(flow, consumed, flow->heard_at);
		else
			grant(flow, consumed);
	}
	return err;
}

int an_flow_check(const struct an_flow *flow, uint64_t now, char *error, size_t error_len)
{
	/* The slot is used again for another flow, but not before a second has passed. */
	int ended = !__atomic_load_n(&flow->line->replay_len, __ATOMIC_ACQUIRE);
	int working = flow->tx_data_pending || flow->source_sent < flow->source_len ||
		      flow->sink_filled < flow->sink_len;

	/* Only the endpoint itself opens and shuts the line, but for a gate whose maps were made
	 * anew. */
	if (!__atomic_load_n(&flow->line->rx_open, __ATOMIC_ACQUIRE)) {
		snprintf(error, error_len,
			 "the gate was rebuilt: open the flow again; where that fails, renew the "
			 "session");
		return -ENOTCONN;
	}
	if (ended) {
		snprintf(error, error_len, "the session has ended: it was closed or renewed");
		return -ENOTCONN;
	}
	if (!working || now - flow->progress_at < AN_SILENCE_LIMIT)
		return 0;
	snprintf(error, error_len, "the peer has been silent for 30 s");
	return -ETIMEDOUT;
}

uint64_t an_flow_wait(const struct an_flow *flow, uint64_t now)
{
	uint64_t unannounced = load(&flow->line->rx_granted) - flow->rx_announced;
	uint64_t wanted = flow->receipt_step > unannounced ? flow->receipt_step - unannounced : 0;
	uint64_t later, due;

	if (!flow->rx_held)
		return UINT64_MAX;
	later = wanted < flow->rx_held ? (flow->rx_held - wanted) * flow->pace : 0;
	due = flow->rx_held_until - at_most(later, flow->rx_held_until);
	return due > now ? due - now : 0;
}
