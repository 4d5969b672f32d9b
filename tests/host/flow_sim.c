// SPDX-License-Identifier: Apache-2.0
/*
 * Two flow engines joined by a hostile link, each behind the real verdict pipeline, in virtual
 * time.
 *
 *     left engine --> link (loss, duplication, reordering, delay) --> right's gate --> right engine
 *     left engine <-- left's gate <-- link <------------------------------------------ right engine
 *
 * usage: flow_sim SEED BYTES LOSS_PERCENT DUPLICATE_PERCENT REORDER_PERCENT WINDOW_BLOCKS
 *                 [BLOCKS_PER_SECOND [BACK_BLOCKS_PER_SECOND]]
 *
 * With a rate, right grants left by it, and right's gate holds left to the same rate with the
 * window as its burst; with a second one, left's do the same to right.
 *
 * Prints one JSON object; exits 0 only if every byte arrived once and in order, both books balance,
 * nobody was over its rate, and no invariant broke on the way.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../controlplane/assent/native/flow.h"

/* -- the tables that verdict.h asks for: those of the host that is receiving -- */

struct host {
	const char *name;
	struct assent_cellid cell;
	struct assent_config config;
	struct assent_session session;
	struct assent_flow lines[2] __attribute__((aligned(64)));
	struct assent_replay_chunk chunks[4];
	struct an_flow engine;
	uint64_t rate;     /* blocks a second that the peer may send; 0 = any */
	double allowance;  /* blocks that it may send now */
	uint64_t level_at; /* when that was reckoned */
	uint64_t counted[64];
};

static struct host *receiving;
static uint64_t now;

#include "assent/verdict.h"

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell)
{
	return NULL; /* the one that there is stands in the configuration */
}

static __always_inline const __u64 *assent_bloom_word(__u32 index)
{
	static const __u64 everybody = ~0ULL;

	return index ? NULL : &everybody;
}

static __always_inline struct assent_session *assent_find_session(const struct assent_pair *pair)
{
	return &receiving->session;
}

static __always_inline struct assent_flow *assent_flow_at(__u32 slot)
{
	return slot < 2 ? &receiving->lines[slot] : NULL;
}

static __always_inline struct assent_replay_chunk *assent_replay_chunk_at(__u32 index)
{
	return index < 4 ? &receiving->chunks[index] : NULL;
}

static __always_inline const struct assent_config *assent_get_config(void)
{
	return &receiving->config;
}

static __always_inline __u64 assent_now(void)
{
	return now;
}

/* -- the link -- */

#define IN_FLIGHT 65536
#define STEP 10000ULL /* ns of virtual time a turn takes */
#define DELAY 20      /* turns */

struct flying {
	struct host *to;
	uint64_t due; /* turn */
	uint32_t len;
	uint8_t data[AN_FRAME_MAX];
};

static struct flying *air[IN_FLIGHT];
static unsigned int air_count;
static uint64_t turn_number;
static uint64_t rng;

static uint64_t next_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static int chance(unsigned int percent)
{
	return next_random() % 100 < percent;
}

static void fail(const char *what)
{
	fprintf(stderr, "flow_sim: %s\n", what);
	exit(1);
}

static void launch(struct host *to, const uint8_t *data, uint32_t len, unsigned int reorder)
{
	struct flying *frame = malloc(sizeof(*frame));

	if (!frame || air_count == IN_FLIGHT)
		fail("the link is full");
	frame->to = to;
	frame->due = turn_number + DELAY + (chance(reorder) ? next_random() % 200 : 0);
	frame->len = len;
	memcpy(frame->data, data, len);
	air[air_count++] = frame;
}

static void check_books(const struct host *host)
{
	const struct assent_flow *line = &host->lines[1];

	if (line->rx_spent > line->rx_granted)
		fail("more was charged than granted");
	if (line->tx_spent > line->tx_granted)
		fail("more was sent than granted");
}

/* What was admitted is the window at most, and the rate times the time since, of any interval: a
 * bucket that is reckoned otherwise than the gate's. */
static void check_rate(struct host *host, uint32_t cost)
{
	double window = host->lines[1].rx_window;

	if (!host->rate)
		return;
	host->allowance += (double)(now - host->level_at) * (double)host->rate / 1e9;
	if (host->allowance > window)
		host->allowance = window;
	host->level_at = now;
	host->allowance -= cost;
	if (host->allowance < -1e-3)
		fail("more was admitted than the rate allows");
}

static void land(struct flying *frame)
{
	uint8_t aligned[AN_FRAME_MAX] __attribute__((aligned(8)));
	const struct assent_header *h = (const struct assent_header *)aligned;
	struct host *host = frame->to;
	struct assent_found found = {0};
	char error[128];
	enum assent_reason reason;

	memcpy(aligned, frame->data + ASSENT_ETH_LEN, frame->len - ASSENT_ETH_LEN);
	receiving = host;
	reason = assent_verdict(h, frame->len - ASSENT_ETH_LEN, &found);
	host->counted[reason]++;
	check_books(host);
	if (reason == ASSENT_DROP_OVER_RATE)
		fail("who spends what it was granted is over the rate");
	if (reason == ASSENT_ADMITTED)
		check_rate(host, assent_frame_cost(assent_be16(h->payload_len)));
	if (reason == ASSENT_ADMITTED &&
	    an_flow_input(&host->engine, frame->data, frame->len, now, error, sizeof(error)))
		fail(error);
}

static void arrivals(void)
{
	unsigned int kept = 0;

	/* In the order in which they left; those with a longer delay stay, which reorders them. */
	for (unsigned int i = 0; i < air_count; i++) {
		if (air[i]->due <= turn_number) {
			land(air[i]);
			free(air[i]);
		} else {
			air[kept++] = air[i];
		}
	}
	air_count = kept;
}

/* -- the two hosts -- */

static void set_up(struct host *host, struct host *peer, const char *name, uint8_t id,
		   uint8_t peer_id, uint32_t window, uint64_t rate)
{
	struct an_endpoint_config config = {
	    .epoch = 1, .flow = 1, .mtu = 1500, .rx_blocks_per_second = rate};
	struct assent_header from_peer = {0};
	uint64_t key[2];
	char error[128];

	host->name = name;
	memset(host->cell.bytes, id, sizeof(host->cell.bytes));
	host->config.home_count = 1;
	host->config.home[0] = host->cell;
	memset(config.local_cell, id, 16);
	memset(config.remote_cell, peer_id, 16);
	memset(config.tx_payload_key, id, 32);
	memset(config.rx_payload_key, peer_id, 32);
	memset(config.tx_header_key, id, 16);
	config.line = &host->lines[1];

	memset(key, peer_id, sizeof(key));
	memset(from_peer.pair.src.bytes, peer_id, 16);
	memset(from_peer.pair.dst.bytes, id, 16);
	host->session.current = assent_pair_state(key[0], key[1], &from_peer);
	host->session.flags = ASSENT_SESSION_ESTABLISHED | ASSENT_SESSION_COVENANTED;
	host->session.flow_count = 2;
	host->rate = rate;
	host->allowance = window;
	host->level_at = now;
	if (rate) {
		host->session.flags |= ASSENT_SESSION_TERMS;
		host->session.data_interval = (1000000000 + rate - 1) / rate;
		host->session.data_burst = window * host->session.data_interval;
	}
	host->lines[1] = (struct assent_flow){
	    .rx_granted = window,
	    .tx_granted = window,
	    .rx_window = window,
	    .tx_window = window,
	    .replay_len = 2048,
	    .replay_mask = 1,
	};
	host->chunks[0].word[0] = 1; /* number 0 is never used */
	if (an_flow_init(&host->engine, &config, now, error, sizeof(error)))
		fail(error);
}

static void show(const struct host *host)
{
	const struct assent_flow *line = &host->lines[1];
	const struct an_flow *engine = &host->engine;

	fprintf(stderr,
		"%s: rx granted %llu spent %llu, tx granted %llu spent %llu; tx [%u, %u) %u data, "
		"rx [%u, %u) %u missing; source %" PRIu64 ", sink %" PRIu64 "\n",
		host->name, line->rx_granted, line->rx_spent, line->tx_granted, line->tx_spent,
		engine->tx_base, engine->tx_next, engine->tx_data_pending, engine->rx_next,
		engine->rx_end, engine->rx_missing, engine->source_sent, engine->sink_filled);
}

static void pump(struct host *host, struct host *peer, unsigned int loss, unsigned int duplicate,
		 unsigned int reorder)
{
	uint8_t frame[AN_FRAME_MAX];
	char error[128];
	uint32_t len;

	if (an_flow_deliver(&host->engine, error, sizeof(error)) ||
	    an_flow_check(&host->engine, now, error, sizeof(error))) {
		show(host);
		show(peer);
		fail(error);
	}
	an_flow_take_receipts(&host->engine, now);
	for (int i = 0; i < 16 && (len = an_flow_output(&host->engine, frame, now, now)); i++) {
		check_books(host);
		if (!chance(loss))
			launch(peer, frame, len, reorder);
		if (chance(duplicate))
			launch(peer, frame, len, reorder);
	}
}

int main(int argc, char **argv)
{
	static struct host left;
	static struct host right;
	unsigned int loss, duplicate, reorder;
	uint8_t *source, *sink;
	uint64_t bytes, rate, back_rate;

	if (argc < 7 || argc > 9)
		fail("usage: flow_sim SEED BYTES LOSS DUPLICATE REORDER WINDOW [RATE [BACK_RATE]]");
	rng = strtoull(argv[1], NULL, 10) * 2654435761u + 1;
	bytes = strtoull(argv[2], NULL, 10);
	loss = (unsigned int)atoi(argv[3]);
	duplicate = (unsigned int)atoi(argv[4]);
	reorder = (unsigned int)atoi(argv[5]);
	rate = argc > 7 ? strtoull(argv[7], NULL, 10) : 0;
	back_rate = argc > 8 ? strtoull(argv[8], NULL, 10) : 0;
	now = 1000000000;

	set_up(&left, &right, "left", 'L', 'R', (uint32_t)atoi(argv[6]), back_rate);
	set_up(&right, &left, "right", 'R', 'L', (uint32_t)atoi(argv[6]), rate);
	source = malloc(bytes);
	sink = calloc(1, bytes);
	if (!source || !sink)
		fail("out of memory");
	for (uint64_t i = 0; i < bytes; i++)
		source[i] = (uint8_t)next_random();
	left.engine.source = source;
	left.engine.source_len = bytes;
	right.engine.sink = sink;
	right.engine.sink_len = bytes;

	while (!an_flow_all_sent(&left.engine) || !an_flow_sink_full(&right.engine)) {
		arrivals();
		pump(&left, &right, loss, duplicate, reorder);
		pump(&right, &left, loss, duplicate, reorder);
		turn_number++;
		now += STEP;
		if (turn_number > 100000000)
			fail("no end in sight");
	}
	if (memcmp(source, sink, bytes))
		fail("what arrived is not what was sent");
	printf("{\"virtual_ms\": %" PRIu64 ", \"retransmissions\": %" PRIu64 ", \"nacks\": %" PRIu64
	       ", \"probes\": %" PRIu64 ", \"receipts\": %" PRIu64 ", \"replays\": %" PRIu64
	       ", \"no_credit\": %" PRIu64 ", \"left_frames\": %" PRIu64
	       ", \"right_frames\": %" PRIu64 "}\n",
	       (now - 1000000000) / 1000000, left.engine.stats.retransmissions,
	       right.engine.stats.nacks_sent, left.engine.stats.probes_sent,
	       right.engine.stats.receipts_sent, right.counted[ASSENT_DROP_REPLAY],
	       right.counted[ASSENT_DROP_NO_CREDIT], left.engine.stats.tx_frames,
	       right.engine.stats.tx_frames);
	an_flow_free(&left.engine);
	an_flow_free(&right.engine);
	while (air_count)
		free(air[--air_count]);
	free(source);
	free(sink);
	return 0;
}
