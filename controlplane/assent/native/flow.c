// SPDX-License-Identifier: Apache-2.0
/* The life of a flow: how it begins, what can be asked of it, and how it ends. */
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "flow_parts.h"

/* A header, and a block of payload that holds more than the AEAD tag. */
#define MTU_MIN (ASSENT_HEADER_LEN + ASSENT_BLOCK_LEN)

/* -- rings of slots -- */

static uint32_t ring_size(uint32_t count)
{
	uint32_t size = AN_SLOTS_IDLE;

	while (size < count)
		size *= 2;
	return size;
}

int an_tx_reserve(struct an_flow *flow, uint32_t count)
{
	uint32_t size = ring_size(count);
	struct an_tx_slot *slots;

	if (size <= flow->tx_slots)
		return 0;
	slots = malloc(size * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (uint32_t seq = flow->tx_base; seq != flow->tx_next; seq++)
		slots[seq & (size - 1)] = *an_tx_slot(flow, seq);
	free(flow->tx);
	flow->tx = slots;
	flow->tx_slots = size;
	return 0;
}

int an_rx_reserve(struct an_flow *flow, uint32_t count)
{
	uint32_t size = ring_size(count);
	struct an_rx_slot *slots;

	if (size <= flow->rx_slots)
		return 0;
	slots = malloc(size * sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	for (uint32_t seq = flow->rx_next; seq != flow->rx_end; seq++)
		slots[seq & (size - 1)] = *an_rx_slot(flow, seq);
	free(flow->rx);
	flow->rx = slots;
	flow->rx_slots = size;
	return 0;
}

/* What an idle flow holds of its rings: as good as nothing. */
void an_flow_tidy(struct an_flow *flow)
{
	if (flow->tx_base == flow->tx_next && flow->tx_slots) {
		free(flow->tx);
		flow->tx = NULL;
		flow->tx_slots = 0;
	}
	if (flow->rx_next == flow->rx_end && flow->rx_slots) {
		free(flow->rx);
		flow->rx = NULL;
		flow->rx_slots = 0;
	}
}

/* -- begin and end -- */

static uint32_t first_expected(const struct assent_flow *line)
{
	return line->rx_next ? line->rx_next : 1;
}

static int check_usable(const struct an_flow_config *config, char *error, size_t error_len)
{
	const struct assent_flow *line = config->line;
	uint32_t unit = 1u << line->grant_shift;

	if (!line->replay_len) {
		snprintf(error, error_len, "the flow is not open: grant it credit, then connect");
		return -ENOTCONN;
	}
	if (config->mtu < MTU_MIN) {
		snprintf(error, error_len, "the MTU is %u: a frame with payload needs %u at least",
			 config->mtu, MTU_MIN);
		return -EMSGSIZE;
	}
	/* What is left over of a unit would never be granted, so never receipted. */
	if (line->tx_window % unit || line->rx_window % unit) {
		snprintf(error, error_len,
			 "grants are told in units of %u blocks, and a window of %u is not whole",
			 unit, line->tx_window % unit ? line->tx_window : line->rx_window);
		return -EINVAL;
	}
	/* What an engine that crashed had sent or taken in is gone with it. */
	if (line->tx_pending || first_expected(line) != line->rx_highest + 1) {
		snprintf(error, error_len,
			 "an earlier endpoint left this flow unfinished: renew the session");
		return -ESTALE;
	}
	return 0;
}

static void set_addresses(struct an_flow *flow, const struct an_flow_config *config)
{
	struct assent_pair reverse;
	uint64_t key[2];

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
	reverse.src = flow->header.pair.dst;
	reverse.dst = flow->header.pair.src;
	an_aead_init(&flow->seal, config->tx_payload_key, &flow->header.pair, config->epoch,
		     (uint16_t)config->flow);
	an_aead_init(&flow->open, config->rx_payload_key, &reverse, config->epoch,
		     (uint16_t)config->flow);
}

static void set_limits(struct an_flow *flow, const struct an_flow_config *config)
{
	const struct assent_flow *line = flow->line;
	uint64_t rate = config->rx_blocks_per_second;
	uint32_t most = AN_FRAME_MAX - ASSENT_ETH_LEN;
	uint32_t mtu = config->mtu < most ? config->mtu : most;

	flow->payload_max = (mtu - ASSENT_HEADER_LEN) & ~(uint32_t)(ASSENT_BLOCK_LEN - 1);
	flow->number_max = line->replay_len;
	flow->number_max -= (uint32_t)an_least(AN_LAG_NUMBERS, flow->number_max / 2);
	flow->receipt_fraction = config->receipt_fraction ? config->receipt_fraction : 8;
	flow->unit = 1u << line->grant_shift;
	/* Rounded up, so that the gate, which may round it down, is never the stricter one. */
	flow->pace = rate ? AN_SECOND / rate + (AN_SECOND % rate != 0) : 0;
}

int an_flow_init(struct an_flow *flow, const struct an_flow_config *config, struct an_pool *pool,
		 uint32_t open, uint64_t now, char *error, size_t error_len)
{
	struct assent_flow *line = config->line;
	int err = check_usable(config, error, error_len);

	if (err)
		return err;
	memset(flow, 0, sizeof(*flow));
	flow->line = line;
	flow->lent = config->lent ? config->line : NULL;
	flow->doorbell = config->lent ? config->doorbell : -1;
	flow->pool = pool;
	flow->delivery = (uint8_t)config->delivery;
	flow->class_ = (uint8_t)config->class_;
	flow->lamp = config->lamp != 0;
	set_addresses(flow, config);
	set_limits(flow, config);
	an_rtt_init(&flow->rtt, config->rtt_hint);

	flow->tx_origin = flow->tx_base = flow->tx_next = line->tx_seq + 1;
	flow->rx_next = flow->rx_end = flow->ask_end = first_expected(line);
	flow->probe_interval = an_probe_first(&flow->rtt);
	flow->recovery_interval = an_recovery_first(&flow->rtt);
	flow->tx_quiet_since = flow->progress_at = flow->heard_at = now;
	flow->tx_sent_at = flow->tx_granted_at = flow->announced_at = now;
	flow->tx_granted_seen = an_load(&line->tx_granted);
	flow->confirmed = flow->rx_announced = an_promised(flow);
	flow->confirmed_next = flow->rx_next;
	/* What an earlier engine had consumed, and closed before it was granted. */
	an_grant_resume(flow, now);
	__atomic_store_n(&line->rx_open, (uint16_t)open, __ATOMIC_RELEASE);
	an_ring_doorbell(flow);
	return 0;
}

void an_flow_shut(struct an_flow *flow)
{
	__atomic_store_n(&flow->line->rx_open, 0, __ATOMIC_RELEASE);
	an_ring_doorbell(flow);
}

static void give_list(struct an_pool *pool, struct an_buffer *head)
{
	while (head) {
		struct an_buffer *next = head->next;

		an_pool_give(pool, head);
		head = next;
	}
}

void an_flow_free(struct an_flow *flow)
{
	for (uint32_t seq = flow->tx_base; seq != flow->tx_next; seq++)
		an_pool_give(flow->pool, an_tx_slot(flow, seq)->payload);
	for (uint32_t seq = flow->rx_next; seq != flow->rx_end; seq++)
		if (flow->delivery == AN_ORDERED)
			an_pool_give(flow->pool, an_rx_slot(flow, seq)->payload);
	give_list(flow->pool, flow->ready_head);
	give_list(flow->pool, flow->queue_head);
	free(flow->tx);
	free(flow->rx);
	OPENSSL_cleanse(flow, sizeof(*flow));
}

void an_flow_move(struct an_flow *flow, const uint8_t local_mac[6], uint32_t open, uint64_t now)
{
	memcpy(flow->ethernet + 6, local_mac, 6);
	__atomic_store_n(&flow->line->rx_open, (uint16_t)open, __ATOMIC_RELEASE);
	an_ring_doorbell(flow);
	flow->answer_due = 1;
}

void an_flow_expect(struct an_flow *flow, int expects, uint64_t now)
{
	int waits = an_waits(flow);

	if (!expects)
		flow->expects_since = 0;
	else if (!flow->expects_since)
		flow->expects_since = now;
	an_began(flow, waits, now);
}

/* -- what can be asked -- */

int an_break(struct an_flow *flow, int err, const char *why, ...)
{
	va_list arguments;

	if (!flow->broken) {
		flow->broken = err;
		va_start(arguments, why);
		vsnprintf(flow->why, sizeof(flow->why), why, arguments);
		va_end(arguments);
	}
	return flow->broken;
}

/* Somebody waits for the peer, or for its receipts, who can ask or be told. */
int an_works(const struct an_flow *flow)
{
	return an_sends(flow) || flow->rx_missing || flow->cursor.inside ||
	       (flow->expects_since && flow->line->tx_window);
}

uint64_t an_silent_at(const struct an_flow *flow)
{
	return an_waits(flow) ? flow->progress_at + an_silence_limit(&flow->rtt) : UINT64_MAX;
}

int an_flow_check(const struct an_flow *flow, uint64_t now, char *error, size_t error_len)
{
	/* The slot is used again for another flow, but not before a second has passed. */
	int over = !__atomic_load_n(&flow->line->replay_len, __ATOMIC_ACQUIRE);

	if (flow->broken) {
		snprintf(error, error_len, "%s", flow->why);
		return flow->broken;
	}
	/* Only the engine itself opens and shuts the line, but for a gate whose maps were made
	 * anew. */
	if (!__atomic_load_n(&flow->line->rx_open, __ATOMIC_ACQUIRE)) {
		snprintf(error, error_len,
			 "the gate was rebuilt: open the flow again; where that fails, renew the "
			 "session");
		return -ENOTCONN;
	}
	if (over) {
		snprintf(error, error_len, "the session has ended: it was closed or renewed");
		return -ENOTCONN;
	}
	if (now < an_silent_at(flow))
		return 0;
	snprintf(error, error_len, "the peer has been silent for %llu s",
		 (unsigned long long)(an_silence_limit(&flow->rtt) / AN_SECOND));
	return -ETIMEDOUT;
}

uint32_t an_flow_message_max(const struct an_flow *flow)
{
	return flow->payload_max - ASSENT_AEAD_TAG_LEN - AN_RECORD_HEAD;
}

/* Who is done here may still owe what the peer waits for: grants that a rate holds back, and the
 * receipt of its end. */
static int owes_grants(const struct an_flow *flow)
{
	return flow->tx_finished && (flow->rx_held || (an_has_ended(flow) && flow->answer_due &&
						       an_may_send(flow, 1, 0)));
}

uint32_t an_flow_ready(const struct an_flow *flow)
{
	uint32_t ready = 0;

	if (flow->broken)
		return AN_BROKEN;
	if (an_at_hand(flow))
		ready |= AN_READABLE;
	if (an_has_ended(flow))
		ready |= AN_READABLE | AN_ENDED;
	if (an_may_write(flow))
		ready |= AN_WRITABLE;
	if (!flow->queue_count && !flow->message_open && !owes_grants(flow) &&
	    (!an_sends(flow) || (flow->delivery == AN_BEST_EFFORT && !flow->tx_finished)))
		ready |= AN_DRAINED;
	return ready;
}

void an_flow_stats(const struct an_flow *flow, struct an_stats *stats)
{
	*stats = flow->stats;
	stats->rtt_ns = flow->rtt.smooth;
}
