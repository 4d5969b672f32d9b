// SPDX-License-Identifier: Apache-2.0
/*
 * Two flow engines joined by a hostile link, each behind the real verdict pipeline, in virtual
 * time.
 *
 *     left engine --> link (loss, duplication, reordering, delay) --> right's gate --> right engine
 *     left engine <-- left's gate <-- link <------------------------------------------ right engine
 *
 * usage: flow_sim NAME=VALUE... (see struct scenario)
 *
 * Left sends messages, and ends; with `both` right does so too. Prints one JSON object; exits 0
 * only if every message arrived once (best effort: at most once) and as it was sent, in order where
 * the flow is ordered, both ends saw the other's end, both books balance to the block, nobody was
 * over its rate, and no invariant broke on the way.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../controlplane/assent/native/flow_parts.h"

struct scenario {
	uint64_t seed;
	uint64_t messages;  /* that a side sends */
	uint64_t size;      /* bytes of each; with `vary`, at most */
	uint64_t vary;      /* sizes are random */
	uint64_t loss;      /* percent */
	uint64_t duplicate; /* percent */
	uint64_t reorder;   /* percent */
	uint64_t window;    /* blocks */
	uint64_t rate;      /* blocks a second that right grants left; 0 = any */
	uint64_t back_rate;
	uint64_t delivery; /* enum an_delivery */
	uint64_t shift;    /* grant_shift */
	uint64_t lamp;     /* data may go under LAMP */
	uint64_t both;     /* right sends as well */
	uint64_t replay;   /* numbers in the replay windows */
	uint64_t step;     /* ns that a turn takes */
	uint64_t delay;    /* turns that a frame takes */
	uint64_t jitter;   /* turns that a late frame takes longer, at most */
	uint64_t burst;    /* frames that a side sends in a turn: the link's rate */
	uint64_t hint;     /* whether the round trip is known */
	uint64_t coalesce; /* messages share frames */
	uint64_t stall;    /* turns that right does not read, after half of the messages */
	uint64_t outage;   /* turns that the link is down, after half of the messages */
	uint64_t rewindow; /* what the window becomes, after half of the messages */
	uint64_t move;     /* left has another address after half of the messages */
	uint64_t fraction; /* of the window, for a receipt */
	uint64_t lent;     /* right's line is lent */
};

static struct scenario s = {
    .seed = 1,
    .messages = 100,
    .size = 1000,
    .window = 16384,
    .replay = 2048,
    .step = 10000,
    .delay = 20,
    .jitter = 200,
    .burst = 16,
};

static const struct {
	const char *name;
	uint64_t *value;
} settings[] = {
    {"seed", &s.seed},           {"messages", &s.messages}, {"size", &s.size},
    {"vary", &s.vary},           {"loss", &s.loss},         {"duplicate", &s.duplicate},
    {"reorder", &s.reorder},     {"window", &s.window},     {"rate", &s.rate},
    {"back_rate", &s.back_rate}, {"delivery", &s.delivery}, {"shift", &s.shift},
    {"lamp", &s.lamp},           {"both", &s.both},         {"replay", &s.replay},
    {"step", &s.step},           {"delay", &s.delay},       {"jitter", &s.jitter},
    {"burst", &s.burst},         {"hint", &s.hint},         {"coalesce", &s.coalesce},
    {"stall", &s.stall},         {"outage", &s.outage},     {"rewindow", &s.rewindow},
    {"move", &s.move},           {"fraction", &s.fraction}, {"lent", &s.lent},
};

#define NUMBERS (1u << 22)

/* -- the tables that verdict.h asks for: those of the host that is receiving -- */

struct host {
	const char *name;
	struct assent_cellid cell;
	struct assent_config config;
	struct assent_session session;
	struct assent_flow lines[2] __attribute__((aligned(64)));
	struct assent_replay_chunk chunks[8];
	struct an_pool pool;
	struct an_flow engine;
	struct an_lent_line page __attribute__((aligned(64)));
	uint64_t rate;       /* blocks a second that the peer may send; 0 = any */
	double allowance;    /* blocks that it may send now */
	uint64_t level_at;   /* when that was reckoned */
	uint64_t quiet_till; /* nothing leaves before, unless something happens */
	int touched;         /* since then */
	uint64_t voided;     /* that the lender has booked */
	uint64_t counted[64];

	/* as a sender: what each number cost, in its own books */
	uint32_t *costs;
	uint32_t numbers;
	uint64_t sending; /* messages that it sends */
	uint64_t written;
	uint64_t written_of; /* bytes of the one at hand */
	int finished;
	uint8_t mac[6];

	/* as a receiver */
	uint64_t read;
	uint64_t read_bytes;
	uint8_t *seen;
	uint8_t *part; /* of the message at hand */
	uint64_t part_len;
	int ended;
	uint64_t stalled_till;
};

static struct host left, right;
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
	return index < 8 ? &receiving->chunks[index] : NULL;
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

#define IN_FLIGHT 262144

struct flying {
	struct host *to;
	uint64_t due; /* turn */
	uint32_t len;
	uint8_t data[];
};

static struct flying *air[IN_FLIGHT];
static unsigned int air_count;
static uint64_t turn_number;
static uint64_t down_till; /* turn */
static uint64_t rng;

static uint64_t next_random(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static int chance(uint64_t percent)
{
	return next_random() % 100 < percent;
}

static void show(const struct host *host)
{
	const struct assent_flow *line = &host->lines[1];
	const struct an_flow *engine = &host->engine;

	fprintf(
	    stderr,
	    "%s: rx granted %llu spent %llu consumed %" PRIu64 ", tx granted %llu spent %llu; "
	    "tx [%u, %u) %u unsettled %u lamps, queue %u, rx [%u, %u) %u missing; written %" PRIu64
	    ", read %" PRIu64 " ended %d; retransmissions %" PRIu64 " probes %" PRIu64
	    " rtt %" PRIu64 "\n",
	    host->name, line->rx_granted, line->rx_spent, engine->rx_consumed, line->tx_granted,
	    line->tx_spent, engine->tx_base, engine->tx_next, engine->tx_unsettled,
	    engine->tx_lamps, engine->queue_count, engine->rx_next, engine->rx_end,
	    engine->rx_missing, host->written, host->read, host->ended,
	    engine->stats.retransmissions, engine->stats.probes_sent, engine->rtt.smooth);
}

static void fail(const char *what)
{
	fprintf(stderr, "flow_sim: %s, turn %" PRIu64 "\n", what, turn_number);
	show(&left);
	show(&right);
	exit(1);
}

static void launch(struct host *to, const uint8_t *data, uint32_t len)
{
	struct flying *frame = malloc(sizeof(*frame) + len);

	if (!frame || air_count == IN_FLIGHT)
		fail("the link is full");
	frame->to = to;
	frame->due = turn_number + s.delay;
	if (chance(s.reorder))
		frame->due += next_random() % s.jitter;
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

/* What a lender does when its doorbell rings. */
static void lend(struct host *host)
{
	struct assent_flow *gate = &host->lines[1], *page = &host->page.line;
	uint64_t taken;

	assent_atomic_add(&gate->rx_spent, host->page.voided - host->voided);
	host->voided = host->page.voided;
	taken = host->page.taken < gate->rx_spent ? host->page.taken : gate->rx_spent;
	assent_counter_raise(&gate->rx_granted, gate->rx_window + taken);
	host->page.confirmed_granted = gate->rx_granted;
	gate->rx_open = page->rx_open;
	gate->tx_seq = page->tx_seq;
	gate->tx_spent = page->tx_spent;
	gate->rx_next = page->rx_next;
	gate->tx_pending = page->tx_pending;
	page->rx_window = gate->rx_window;
	page->tx_window = gate->tx_window;
	assent_counter_raise(&page->tx_granted, gate->tx_granted);
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
	if (reason != ASSENT_ADMITTED)
		return;
	if (!(h->flags & assent_be16(ASSENT_FLAG_LAMP)))
		check_rate(host, assent_frame_cost(assent_be16(h->payload_len)));
	host->touched = 1;
	if (an_flow_input(&host->engine, frame->data, frame->len, now, error, sizeof(error)))
		fail(error);
	check_books(host);
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

/* -- messages -- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * 0x7fb5d329728ea185ULL;
	x = (x ^ x >> 27) * 0x81dadef4bc2dd44dULL;
	return x ^ x >> 33;
}

static uint64_t message_len(uint64_t index)
{
	uint64_t random = mix(s.seed * 1000003 + index);

	if (!s.vary)
		return s.size;
	/* Many are small, some are empty. */
	return random % 4 == 0 ? s.size && random % 8 ? mix(random) % (s.size + 1) : 0
			       : mix(random) % (s.size / 8 + 2) % (s.size + 1);
}

/* Those with room for it begin with their index. */
static void message_fill(uint64_t index, uint8_t *out, uint64_t len)
{
	uint64_t word = mix(index + 77);

	for (uint64_t i = 0; i < len; i++)
		out[i] = (uint8_t)((word >> i % 57) + i * 3);
	if (len >= 4)
		memcpy(out, &index, 4);
}

static void take_message(struct host *host, const uint8_t *data, uint64_t len)
{
	static uint8_t *wanted;
	uint64_t index = host->read;

	if (!wanted)
		wanted = malloc(s.size + 1);
	host->read++;
	host->read_bytes += len;
	if (s.delivery != AN_ORDERED) {
		uint32_t low;

		if (len < 4)
			return;
		memcpy(&low, data, 4);
		index = low;
	}
	if (index >= s.messages || message_len(index) != len)
		fail("a message has another length");
	if (host->seen[index]++)
		fail("a message came twice");
	message_fill(index, wanted, len);
	if (memcmp(data, wanted, len))
		fail("what arrived is not what was sent");
}

/* Empty ones cannot be told apart where they may overtake others. */
static void fill_seen(struct host *host)
{
	for (uint64_t i = 0; i < s.messages; i++)
		if (s.delivery == AN_UNORDERED && message_len(i) >= 4 && !host->seen[i])
			fail("a message is missing");
	if (s.delivery != AN_BEST_EFFORT && host->read != s.messages)
		fail("the number of messages is another");
}

static void write_one(struct host *host, uint8_t *data, int64_t *taken)
{
	uint64_t len = message_len(host->written), cut = len ? next_random() % (len + 1) : 0;
	struct an_span spans[2] = {{data, cut}, {data + cut, len - cut}};

	message_fill(host->written, data, len);
	*taken = an_flow_write(&host->engine, spans, 2, host->written_of,
			       s.coalesce ? AN_COALESCE : 0, now);
	if (*taken < 0)
		return;
	host->written_of += (uint64_t)*taken;
	if (host->written_of == len) {
		host->written++;
		host->written_of = 0;
	}
}

static int64_t write_some(struct host *host, uint8_t *data)
{
	uint32_t lengths[32];
	uint64_t at = 0;
	uint32_t count = 0;
	int64_t taken;

	while (count < 32 && host->written + count < host->sending) {
		uint64_t len = message_len(host->written + count);

		message_fill(host->written + count, data + at, len);
		lengths[count++] = (uint32_t)len;
		at += len;
	}
	taken = an_flow_write_many(&host->engine, data, 0, lengths, count,
				   s.coalesce ? AN_COALESCE : 0, now);
	if (taken > 0)
		host->written += (uint64_t)taken;
	return taken;
}

static void writes(struct host *host)
{
	static uint8_t *data;
	int64_t taken = 1;

	if (!data)
		data = malloc(32 * s.size + 1);
	while (host->written < host->sending && taken >= 0 && host->engine.queue_count < s.burst) {
		taken = -EMSGSIZE;
		if (!host->written_of && chance(30))
			taken = write_some(host, data);
		if (taken == -EMSGSIZE)
			write_one(host, data, &taken);
		if (taken < 0 && taken != -EAGAIN)
			fail("a message is not taken");
		host->touched |= taken >= 0;
	}
	if (host->written == host->sending && !host->finished) {
		int err = an_flow_finish(&host->engine, now);

		if (err && err != -EAGAIN)
			fail("the end is not taken");
		host->finished = !err;
		host->touched |= !err;
	}
}

static int64_t read_many(struct host *host)
{
	static uint8_t buf[4096];
	uint32_t lengths[16];
	int64_t got = an_flow_read_many(&host->engine, buf, sizeof(buf), lengths, 16, now);
	uint64_t at = 0;

	for (int64_t i = 0; i < got; i++) {
		take_message(host, buf + at, lengths[i]);
		at += lengths[i];
	}
	return got;
}

static int64_t read_part(struct host *host)
{
	uint64_t room = s.size - host->part_len;
	uint64_t len = chance(50) ? room : next_random() % (room + 1);
	int end;
	int64_t got = an_flow_read(&host->engine, host->part + host->part_len, len, &end, now);

	if (got < 0)
		return got;
	host->part_len += (uint64_t)got;
	if (end) {
		take_message(host, host->part, host->part_len);
		host->part_len = 0;
	}
	return got;
}

static void reads(struct host *host)
{
	int64_t got = 0;

	if (turn_number < host->stalled_till)
		return;
	for (int i = 0; i < 64 && got >= 0; i++) {
		got = -EMSGSIZE;
		if (!host->part_len && chance(50))
			got = read_many(host);
		if (got == -EMSGSIZE)
			got = read_part(host);
		host->touched |= got != -EAGAIN;
	}
	if (got == -EPIPE)
		host->ended = 1;
	else if (got < 0 && got != -EAGAIN)
		fail("reading fails");
}

/* -- the two hosts -- */

static void set_up(struct host *host, const char *name, uint8_t id, uint8_t peer_id, uint64_t rate)
{
	struct an_flow_config config = {
	    .epoch = 1,
	    .flow = 1,
	    .mtu = 1500,
	    .rx_blocks_per_second = rate,
	    .delivery = (uint32_t)s.delivery,
	    .lamp = (uint32_t)s.lamp,
	    .rtt_hint = s.hint ? 2 * s.delay * s.step : 0,
	    .receipt_fraction = (uint32_t)s.fraction,
	    .doorbell = -1,
	};
	struct assent_header from_peer = {0};
	uint64_t key[2];
	uint32_t window = (uint32_t)s.window;
	char error[128];

	host->name = name;
	memset(host->cell.bytes, id, sizeof(host->cell.bytes));
	host->config.home_count = 1;
	host->config.home[0] = host->cell;
	host->config.lamp_interval = AN_SECOND / 64;
	host->config.lamp_burst = AN_SECOND;
	memset(config.local_cell, id, 16);
	memset(config.remote_cell, peer_id, 16);
	memset(config.local_mac, id, 6);
	memset(config.remote_mac, peer_id, 6);
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
	    .replay_len = (uint16_t)s.replay,
	    .replay_mask = (uint8_t)(s.replay > 4096   ? 7
				     : s.replay > 2048 ? 3
						       : 1),
	    .grant_shift = (uint8_t)s.shift,
	};
	host->chunks[0].word[0] = 1; /* number 0 is never used */
	host->costs = calloc(NUMBERS, sizeof(*host->costs));
	host->seen = calloc(1, s.messages + 1);
	host->part = malloc(s.size + 1);
	if (!host->costs || !host->seen || !host->part || an_pool_init(&host->pool))
		fail("out of memory");
	if (s.lent && id == 'R') {
		host->page.line = host->lines[1];
		host->page.confirmed_granted = window;
		config.line = &host->page;
		config.lent = 1;
	}
	if (an_flow_init(&host->engine, &config, &host->pool, 1, now, error, sizeof(error)))
		fail(error);
}

/* What a number costs is settled when it leaves first. */
static void note_cost(struct host *host, const uint8_t *frame)
{
	struct assent_header h;
	uint32_t seq, flags;

	memcpy(&h, frame + ASSENT_ETH_LEN, sizeof(h));
	seq = assent_be32(h.seq);
	flags = assent_be16(h.flags);
	if (seq < host->numbers || !seq)
		return;
	if (seq != host->numbers + (host->numbers == 0) || seq >= NUMBERS)
		fail("numbers do not rise one by one");
	host->costs[seq] = flags & ASSENT_FLAG_LAMP ? 0
			   : flags & ASSENT_FLAG_FIN
			       ? assent_be32(h.nack_slot)
			       : assent_frame_cost(assent_be16(h.payload_len));
	host->numbers = seq + 1;
}

/* Consumed is what the numbers before rx_next have cost, to the block. */
static void check_consumed(const struct host *host, const struct host *peer)
{
	uint64_t consumed = 0;

	for (uint32_t seq = 1; seq < host->engine.rx_next; seq++)
		consumed += peer->costs[seq];
	if (consumed != host->engine.rx_consumed)
		fail("what was consumed is not what it had cost");
}

static void pump(struct host *host, struct host *peer)
{
	uint8_t room[AN_FRAME_MAX + 2] __attribute__((aligned(16)));
	uint8_t *frame = room + 2;
	char error[128];
	uint32_t len = 0;
	uint64_t i;

	reads(host);
	writes(host);
	if (s.lent && host == &right)
		lend(host);
	if (an_flow_check(&host->engine, now, error, sizeof(error)))
		fail(error);
	for (i = 0; i < s.burst; i++) {
		len = an_flow_output(&host->engine, frame, now, now);
		if (!len)
			break;
		if (!host->touched && now < host->quiet_till && !i)
			fail("a frame leaves before its time");
		check_books(host);
		note_cost(host, frame);
		if (turn_number >= down_till && !chance(s.loss))
			launch(peer, frame, len);
		if (turn_number >= down_till && chance(s.duplicate))
			launch(peer, frame, len);
	}
	host->touched = s.lent || i == s.burst;
	host->quiet_till = an_flow_deadline(&host->engine, now);
	if (!len && host->quiet_till <= now)
		fail("a frame is due and does not leave");
}

static int is_done(const struct host *host)
{
	return host->finished && host->ended && an_flow_ready(&host->engine) & AN_DRAINED;
}

/* Nothing happens before one of these times. */
static void skip_quiet_turns(void)
{
	uint64_t until = left.quiet_till < right.quiet_till ? left.quiet_till : right.quiet_till;
	uint64_t turns;

	if (left.touched || right.touched || until <= now)
		return;
	turns = (until - now) / s.step;
	if (turn_number < right.stalled_till && turns > right.stalled_till - turn_number)
		turns = right.stalled_till - turn_number;
	for (unsigned int i = 0; i < air_count; i++)
		if (air[i]->due < turn_number + turns)
			turns = air[i]->due > turn_number ? air[i]->due - turn_number : 0;
	if (turns > 1) {
		turn_number += turns - 1;
		now += (turns - 1) * s.step;
	}
}

/* What changes in the midst. */
static void halfway(void)
{
	static int done;
	static const uint8_t elsewhere[6] = {2, 2, 2, 2, 2, 2};

	if (done || left.written < s.messages / 2)
		return;
	done = 1;
	right.stalled_till = turn_number + s.stall;
	down_till = turn_number + s.outage;
	if (s.move)
		an_flow_move(&left.engine, elsewhere, 1, now);
	left.touched |= s.move != 0;
}

/* As GRANT does it: a wider window is told before it is given, a narrower one as it comes true. */
static void rewindow(void)
{
	struct assent_flow *line = &right.lines[1];
	const struct assent_flow *books = s.lent ? &right.page.line : line;
	uint32_t told = left.lines[1].tx_window;

	if (!s.rewindow || left.written < s.messages / 2)
		return;
	if (s.rewindow > told)
		left.lines[1].tx_window = (uint32_t)s.rewindow;
	line->rx_window = (uint32_t)s.rewindow;
	/* Where all that came is consumed. */
	if (books->rx_next == line->rx_highest + 1 &&
	    line->rx_granted - line->rx_spent < left.lines[1].tx_window)
		left.lines[1].tx_window = (uint32_t)(line->rx_granted - line->rx_spent);
	if (left.lines[1].tx_window < s.rewindow)
		left.lines[1].tx_window = (uint32_t)s.rewindow;
	left.touched |= told != left.lines[1].tx_window;
	right.touched = 1;
}

static void run(void)
{
	for (;;) {
		arrivals();
		halfway();
		rewindow();
		pump(&left, &right);
		pump(&right, &left);
		if (is_done(&left) && is_done(&right))
			return;
		skip_quiet_turns();
		turn_number++;
		now += s.step;
		if (turn_number > 100000000)
			fail("no end in sight");
	}
}

static void set_one(const char *argument)
{
	size_t len = strcspn(argument, "=");

	for (size_t i = 0; i < sizeof(settings) / sizeof(*settings); i++) {
		if (strlen(settings[i].name) == len && !memcmp(settings[i].name, argument, len) &&
		    argument[len]) {
			*settings[i].value = strtoull(argument + len + 1, NULL, 10);
			return;
		}
	}
	fprintf(stderr, "flow_sim: what is %s?\n", argument);
	exit(2);
}

static void report(uint64_t virtual_ns)
{
	const struct an_stats *l = &left.engine.stats, *r = &right.engine.stats;

	printf("{\"virtual_ns\": %" PRIu64 ", \"turns\": %" PRIu64 ", \"read\": %" PRIu64
	       ", \"read_bytes\": %" PRIu64 ", \"retransmissions\": %" PRIu64
	       ", \"nacks\": %" PRIu64 ", \"gaps\": %" PRIu64 ", \"probes\": %" PRIu64
	       ", \"receipts\": %" PRIu64 ", \"voids\": %" PRIu64 ", \"lamps\": %" PRIu64
	       ", \"moves\": %" PRIu64 ", \"replays\": %" PRIu64 ", \"no_credit\": %" PRIu64
	       ", \"no_lamp\": %" PRIu64 ", \"left_frames\": %" PRIu64
	       ", \"right_frames\": %" PRIu64 ", \"rtt_ns\": %" PRIu64
	       ", \"credit_waits\": %" PRIu64 "}\n",
	       virtual_ns, turn_number, right.read, right.read_bytes, l->retransmissions,
	       r->nacks_sent, r->gaps_sent, l->probes_sent, r->receipts_sent, l->voids_sent,
	       l->lamps_sent, r->moves, right.counted[ASSENT_DROP_REPLAY],
	       right.counted[ASSENT_DROP_NO_CREDIT], right.counted[ASSENT_DROP_NO_LAMP],
	       l->tx_frames, r->tx_frames, right.engine.rtt.smooth, l->credit_waits);
}

static void tear_down(struct host *host)
{
	an_flow_shut(&host->engine);
	an_flow_free(&host->engine);
	if (host->pool.held_bytes)
		fail("buffers are lost");
	an_pool_free(&host->pool);
	free(host->costs);
	free(host->seen);
	free(host->part);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		set_one(argv[i]);
	rng = s.seed * 2654435761u + 1;
	now = 1000000000;
	set_up(&left, "left", 'L', 'R', s.back_rate);
	set_up(&right, "right", 'R', 'L', s.rate);
	left.sending = s.messages;
	right.sending = s.both ? s.messages : 0;
	run();
	fill_seen(&right);
	if (s.both)
		fill_seen(&left);
	check_consumed(&left, &right);
	check_consumed(&right, &left);
	report(now - 1000000000);
	tear_down(&left);
	tear_down(&right);
	while (air_count)
		free(air[--air_count]);
	return 0;
}
