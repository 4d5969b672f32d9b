// SPDX-License-Identifier: Apache-2.0
/*
 * The shared headers on the host, under ASan and UBSan, with arrays for tables and a clock that
 * stands still. Each function below is one case; it aborts with a message where a claim is false.
 *
 * What can only be seen here: exact edges of time, exhaustive sweeps, and threads that race for one
 * word (ASSENT_DROP_CONTENDED cannot be brought about by single frames).
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/types.h"

/*
 * Compare-and-swap that can be told to lose: the word seems to have changed under the caller's
 * hands, each time to the other of two values, the second of which is the one it began with.
 */
static __thread int races_to_win, races_to_lose;

static int loses_race(void)
{
	if (races_to_win) {
		races_to_win--;
		return 0;
	}
	return races_to_lose ? races_to_lose-- : 0;
}

#undef assent_cmpxchg
#define assent_cmpxchg(p, old, new)                                                                \
	(loses_race() ? (*(p) ^= 1ULL << 20) : __sync_val_compare_and_swap((p), (old), (new)))

#include "assent/verdict.h"
#include "cases.h"

#define SEC 1000000000ULL
#define CHUNKS 8
#define FLOWS 4

/* -- tables and clock -----------------------------------------------------------------------------
 */

static struct {
	struct assent_cellid tabled_cell; /* the one in `locals` */
	struct assent_local local;
	__u64 bloom[2];
	__u32 bloom_words;
	struct assent_pair pair;
	struct assent_session session;
	struct assent_flow flows[FLOWS];
	struct assent_replay_chunk chunks[CHUNKS];
	struct assent_config config;
	bool has_config;
	__u64 now;
} host;

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell)
{
	return memcmp(cell, &host.tabled_cell, sizeof(*cell)) ? NULL : &host.local;
}

static __always_inline const __u64 *assent_bloom_word(__u32 index)
{
	return index < host.bloom_words ? &host.bloom[index] : NULL;
}

static __always_inline struct assent_session *assent_find_session(const struct assent_pair *pair)
{
	return memcmp(pair, &host.pair, sizeof(*pair)) ? NULL : &host.session;
}

static __always_inline struct assent_flow *assent_flow_at(__u32 slot)
{
	return slot < FLOWS ? &host.flows[slot] : NULL;
}

static __always_inline struct assent_replay_chunk *assent_replay_chunk_at(__u32 index)
{
	return index < CHUNKS ? &host.chunks[index] : NULL;
}

static __always_inline const struct assent_config *assent_get_config(void)
{
	return host.has_config ? &host.config : NULL;
}

static __always_inline __u64 assent_now(void)
{
	return host.now;
}

/* -- helpers --------------------------------------------------------------------------------------
 */

static const uint8_t header_key[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const uint8_t admission_key[16] = {9, 9, 9};

static __u64 word_at(const uint8_t *bytes)
{
	__u64 word;

	memcpy(&word, bytes, sizeof(word));
	return assent_le64(word);
}

/* xorshift64: the same numbers in every run */
static __u64 random_state = 0x9e3779b97f4a7c15ULL;

static __u64 random_u64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static struct assent_header header_of(uint32_t seq, uint16_t flags, uint16_t flow)
{
	struct assent_header h = {.pair = host.pair};

	h.seq = assent_be32(seq);
	h.flags = assent_be16(flags | ASSENT_FLAG_BLOCK);
	h.flow = assent_be16(flow);
	return h;
}

static void sign(struct assent_header *h, const uint8_t *key)
{
	struct assent_sip state = assent_pair_state(word_at(key), word_at(key + 8), h);

	h->tag = assent_le64(assent_header_tag(&state, h));
}

static void reset(void)
{
	struct assent_header h;

	memset(&host, 0, sizeof(host));
	memset(&host.pair.src, 0x20, sizeof(host.pair.src));
	memset(&host.pair.dst, 0x10, sizeof(host.pair.dst));
	host.bloom_words = 1;
	host.bloom[0] = ~0ULL; /* lets everybody through */
	h = header_of(0, 0, 0);
	host.session.current = assent_pair_state(word_at(header_key), word_at(header_key + 8), &h);
	host.session.admission =
	    assent_pair_state(word_at(admission_key), word_at(admission_key + 8), &h);
	host.session.flags = ASSENT_SESSION_ESTABLISHED | ASSENT_SESSION_COVENANTED;
	host.session.flow_count = 2;
	for (int i = 0; i < 2; i++) {
		host.flows[i].replay_base = i;
		host.flows[i].replay_len = 1024;
		host.flows[i].rx_granted = 1000;
		host.flows[i].rx_open = ASSENT_TO_RING;
		host.chunks[i].word[0] = 1;
	}
	host.config = (struct assent_config){
	    .handshake_interval = 20,
	    .handshake_burst = 40,
	    .control_interval = 10,
	    .control_burst = 20,
	    .lamp_interval = 10,
	    .lamp_burst = 30,
	    .home_count = 1,
	    .home = {host.pair.dst},
	};
	host.has_config = true;
	host.now = 1000 * SEC;
}

static enum assent_reason verdict(const struct assent_header *h)
{
	struct assent_found found = {0};

	return assent_verdict(h, sizeof(*h), &found);
}

/* -- siphash.h, tag.h
 * ------------------------------------------------------------------------------ */

/* The authors' reference vectors: key 00..0f, message 00..(n-1). */
static void test_siphash_vectors(void)
{
	static const __u64 empty = 0x726fdb47dd0e0e31ULL, eight = 0x93f5f5799a932462ULL,
			   fifteen = 0xa129ca6149be45e5ULL;
	uint8_t message[15];
	struct assent_sip s;

	for (int i = 0; i < 15; i++)
		message[i] = i;
	assent_sip_init(&s, word_at(header_key), word_at(header_key + 8));
	CLAIM(assent_sip_finish(&s, 0) == empty);
	assent_sip_init(&s, word_at(header_key), word_at(header_key + 8));
	assent_sip_absorb(&s, word_at(message));
	CLAIM(assent_sip_finish(&s, 8ULL << 56) == eight);
	assent_sip_init(&s, word_at(header_key), word_at(header_key + 8));
	assent_sip_absorb(&s, word_at(message));
	__u64 last = 15ULL << 56;
	for (int i = 8; i < 15; i++)
		last |= (__u64)message[i] << 8 * (i - 8);
	CLAIM(assent_sip_finish(&s, last) == fifteen);
}

/* From the stored state the tag is that of the whole 56 bytes; no bit of header or tag is idle. */
static void test_tag_covers_every_bit(void)
{
	reset();
	for (int round = 0; round < 50; round++) {
		struct assent_header h = header_of(0, 0, 0);
		uint8_t *bytes = (uint8_t *)&h;
		struct assent_sip plain, state;

		for (size_t i = 32; i < ASSENT_SIGNED_LEN; i++)
			bytes[i] = random_u64();
		sign(&h, header_key);
		assent_sip_init(&plain, word_at(header_key), word_at(header_key + 8));
		for (int i = 0; i < 7; i++)
			assent_sip_absorb(&plain, word_at(bytes + 8 * i));
		CLAIM(assent_sip_finish(&plain, 56ULL << 56) == assent_le64(h.tag));

		state = host.session.current;
		CLAIM(assent_tag_matches(&state, &h));
		for (int bit = 32 * 8; bit < 64 * 8; bit++) {
			bytes[bit / 8] ^= 1 << bit % 8;
			CLAIM(!assent_tag_matches(&state, &h));
			bytes[bit / 8] ^= 1 << bit % 8;
		}
	}
}

/* -- replay.h
 * -------------------------------------------------------------------------------------- */

/* RFC 6479 without its tricks: one byte a number, over a stretch of numbers that may wrap. */
#define STRETCH 200000

struct model {
	uint32_t start;
	uint32_t highest;
	uint32_t len;
	uint8_t seen[STRETCH];
};

static bool model_accepts(struct model *m, uint32_t seq)
{
	if ((int32_t)(m->highest - seq) >= (int32_t)m->len || m->seen[seq - m->start])
		return false;
	m->seen[seq - m->start] = 1;
	if ((int32_t)(seq - m->highest) > 0)
		m->highest = seq;
	return true;
}

static enum assent_reason replay_accepts(struct assent_flow *flow, uint32_t seq)
{
	__u64 *slot = assent_replay_word(&host.chunks[assent_replay_chunk_index(flow, seq)], seq);
	__u64 word = *slot;
	enum assent_reason reason = assent_replay_check(flow, word, seq);

	return reason ? reason : assent_replay_commit(flow, slot, word, seq);
}

/* Leaves the ring as if every number up to `seq` had been admitted in order. */
static void walk_to(struct assent_flow *flow, uint32_t seq)
{
	uint32_t words = (flow->replay_mask + 1) * ASSENT_REPLAY_WORDS;
	uint32_t newest = seq / ASSENT_REPLAY_WORD_BITS;

	for (uint32_t back = 0; back < words; back++) {
		uint32_t generation = (newest - back) & 0x07ffffff;
		uint32_t first = generation * ASSENT_REPLAY_WORD_BITS;

		*assent_replay_word(&host.chunks[assent_replay_chunk_index(flow, first)], first) =
		    (__u64)generation << 32 | 0xffffffff;
	}
	*assent_replay_word(&host.chunks[assent_replay_chunk_index(flow, seq)], seq) =
	    (__u64)newest << 32 | (uint32_t)((2ULL << seq % 32) - 1);
	flow->rx_highest = seq;
}

static void replay_against_model(uint32_t start, uint32_t len, uint32_t chunks)
{
	static struct model m;
	struct assent_flow *flow = &host.flows[0];
	uint32_t admitted = 0;

	reset();
	memset(&m, 0, sizeof(m));
	flow->replay_base = 0;
	flow->replay_len = len;
	flow->replay_mask = chunks - 1;
	/* The stretch begins well before, so that what is older than the window lies in it too. */
	m.start = start - STRETCH / 4;
	m.highest = start;
	m.len = len;
	memset(m.seen, 1, STRETCH / 4 + 1);
	walk_to(flow, start);
	for (int i = 0; i < 150000; i++) {
		uint32_t r = random_u64();
		uint32_t seq;

		if (r % 1024 == 0) /* a jump beyond the window */
			seq = m.highest + len + r / 1024 % (2 * len);
		else if (r % 4 == 0)
			seq = m.highest + 1;
		else
			seq = m.highest + 40 - r / 4 % (len + 120);
		if (seq - m.start >= STRETCH)
			break;
		enum assent_reason reason = replay_accepts(flow, seq);
		bool expected = model_accepts(&m, seq);

		CLAIM(reason == (expected ? ASSENT_ADMITTED : ASSENT_DROP_REPLAY));
		CLAIM(flow->rx_highest == m.highest);
		admitted += expected;
	}
	CLAIM(admitted > 1000);
}

static void test_replay_is_the_model(void)
{
	static const uint32_t starts[] = {100000, 0x7fffff00, 0xffffff80, 0xfffff000, 0x7ffff000};
	static const struct {
		uint32_t len, chunks;
	} rings[] = {{1, 1},    {32, 1},   {1024, 1}, {2017, 1},
		     {2018, 2}, {2048, 2}, {4065, 2}, {8192, 8}};

	for (size_t i = 0; i < sizeof(starts) / sizeof(*starts); i++)
		for (size_t j = 0; j < sizeof(rings) / sizeof(*rings); j++)
			replay_against_model(starts[i], rings[j].len, rings[j].chunks);
}

static void test_replay_from_a_fresh_ring(void)
{
	struct assent_flow *flow = &host.flows[0];

	reset();
	CLAIM(replay_accepts(flow, 0) == ASSENT_DROP_REPLAY);
	for (uint32_t seq = 1; seq < 10000; seq++) {
		CLAIM(replay_accepts(flow, seq) == ASSENT_ADMITTED);
		CLAIM(replay_accepts(flow, seq) == ASSENT_DROP_REPLAY);
	}
}

/* -- credit.h
 * -------------------------------------------------------------------------------------- */

static void test_credit_edges(void)
{
	static const __u64 bases[] = {0, 1000, 0xffffffff, 1ULL << 61};

	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		struct assent_flow flow = {.rx_spent = bases[i], .rx_granted = bases[i] + 23};

		CLAIM(assent_credit_check(&flow, 24) == ASSENT_DROP_NO_CREDIT);
		CLAIM(assent_credit_charge(&flow, 24) == ASSENT_DROP_NO_CREDIT);
		CLAIM(flow.rx_spent == bases[i]);
		CLAIM(assent_credit_check(&flow, 23) == ASSENT_ADMITTED);
		CLAIM(assent_credit_charge(&flow, 23) == ASSENT_ADMITTED);
		CLAIM(assent_credit_check(&flow, 1) == ASSENT_DROP_NO_CREDIT);
		assent_credit_refund(&flow, 23);
		CLAIM(flow.rx_spent == bases[i]);
		flow.rx_granted =
		    bases[i] ? bases[i] - 1 : 0; /* granted below spent: never credit */
		CLAIM(assent_credit_check(&flow, 1) == ASSENT_DROP_NO_CREDIT);
		CLAIM(assent_credit_charge(&flow, 1) == ASSENT_DROP_NO_CREDIT);
	}
}

static void test_grant_field_exhaustively(void)
{
	static const __u64 units[] = {0,      1,       0x7fff,     0x8000,
				      0xffff, 0x10000, 0x12345678, 1ULL << 40};
	static const uint8_t shifts[] = {0, 1, 6, 16};

	for (size_t i = 0; i < sizeof(units) / sizeof(*units); i++) {
		for (size_t j = 0; j < sizeof(shifts); j++) {
			uint8_t shift = shifts[j];
			__u64 known = units[i] << shift | ((1ULL << shift) - 1);

			for (uint32_t field = 0; field < 0x10000; field++) {
				__u64 read = assent_grant_read(known, field, shift);
				uint16_t ahead = field - units[i];

				CLAIM(read >= known);
				if (ahead == 0 || ahead >= 0x8000) {
					CLAIM(read == known);
				} else {
					CLAIM(read == (units[i] + ahead) << shift);
					CLAIM(assent_grant_field(read, shift) == field);
				}
			}
		}
	}
}

static void test_counter_only_rises(void)
{
	__u64 counter = 5;

	assent_counter_raise(&counter, 4);
	CLAIM(counter == 5);
	assent_counter_raise(&counter, 1ULL << 63);
	CLAIM(counter == 1ULL << 63);
}

static void test_frame_cost_exhaustively(void)
{
	for (uint32_t len = 0; len < 0x10000; len++) {
		CLAIM(assent_frame_cost(len) == 1 + (len + 63) / 64);
		CLAIM(assent_padded_len(len) % 64 == 0 && assent_padded_len(len) - len < 64);
	}
}

/* Two CPUs, the same numbers, less credit than numbers: each number once, never past the grant. */
#define RACE_NUMBERS 200000
#define RACE_COST 3

struct racer {
	pthread_t thread;
	uint32_t first;
	__u64 contended;
	uint8_t accepted[RACE_NUMBERS + 1];
};

static void *race(void *argument)
{
	struct racer *racer = argument;
	struct assent_flow *flow = &host.flows[0];

	for (uint32_t seq = 1; seq <= RACE_NUMBERS; seq++) {
		__u64 *slot =
		    assent_replay_word(&host.chunks[assent_replay_chunk_index(flow, seq)], seq);
		__u64 word = ASSENT_READ_ONCE(*slot);
		enum assent_reason reason;

		if (seq % 16 ==
		    0) /* the endpoint consumes, and grants more: 15 of 16 frames' worth */
			assent_atomic_add(&flow->rx_granted, 15 * RACE_COST / 2);
		if (assent_replay_check(flow, word, seq) || assent_credit_check(flow, RACE_COST))
			continue;
		reason = assent_credit_charge(flow, RACE_COST);
		if (!reason) {
			reason = assent_replay_commit(flow, slot, word, seq);
			if (reason)
				assent_credit_refund(flow, RACE_COST);
			else
				racer->accepted[seq] = 1;
		}
		racer->contended += reason == ASSENT_DROP_CONTENDED;
	}
	return NULL;
}

static void test_racing_cpus(void)
{
	static struct racer racers[2];
	struct assent_flow *flow = &host.flows[0];
	__u64 accepted = 0;

	reset();
	flow->replay_len = 8192;
	flow->replay_base = 0;
	flow->replay_mask = CHUNKS - 1;
	flow->rx_granted = 100;
	for (int i = 0; i < 2; i++)
		CLAIM(!pthread_create(&racers[i].thread, NULL, race, &racers[i]));
	for (;;) { /* a third party looks on: at no moment is more spent than granted */
		__u64 spent = ASSENT_READ_ONCE(flow->rx_spent);
		__u64 granted = ASSENT_READ_ONCE(flow->rx_granted);

		CLAIM(spent <= granted);
		if (ASSENT_READ_ONCE(flow->rx_highest) > RACE_NUMBERS - 100 ||
		    granted > 100 + (2 * (RACE_NUMBERS / 16) - 4) * (15 * RACE_COST / 2))
			break;
	}
	for (int i = 0; i < 2; i++)
		CLAIM(!pthread_join(racers[i].thread, NULL));
	for (uint32_t seq = 1; seq <= RACE_NUMBERS; seq++) {
		CLAIM(racers[0].accepted[seq] + racers[1].accepted[seq] <= 1);
		accepted += racers[0].accepted[seq] + racers[1].accepted[seq];
	}
	CLAIM(flow->rx_spent == accepted * RACE_COST);
	CLAIM(flow->rx_spent <= flow->rx_granted);
	CLAIM(accepted > 0);
}

/* A word that changes under every try: refused, and what was charged is given back. */
static void test_lost_races(void)
{
	struct assent_flow flow = {.rx_granted = 1ULL << 40};
	struct assent_header h;
	__u64 due = 0, before;

	races_to_lose = ASSENT_CREDIT_TRIES - 1;
	CLAIM(assent_credit_charge(&flow, 1) == ASSENT_ADMITTED);
	before = flow.rx_spent;
	races_to_lose = ASSENT_CREDIT_TRIES;
	CLAIM(assent_credit_charge(&flow, 1) == ASSENT_DROP_CONTENDED);
	CLAIM(flow.rx_spent == before);

	races_to_lose = ASSENT_RATE_TRIES;
	CLAIM(assent_rate_charge(&due, 1, 1, 1ULL << 40) == ASSENT_DROP_CONTENDED);
	CLAIM(due == 0);

	/* The charge succeeds, then the number's word is never still: the charge is taken back. */
	reset();
	h = header_of(7, ASSENT_FLAG_DATA, 1);
	h.grant = assent_be16(100);
	sign(&h, header_key);
	races_to_win = 1;
	races_to_lose = ASSENT_REPLAY_TRIES;
	CLAIM(verdict(&h) == ASSENT_DROP_CONTENDED);
	CLAIM(host.flows[1].rx_spent == 0);
	CLAIM(host.flows[1].rx_highest == 0);
	CLAIM(host.flows[1].tx_granted == 0);
	CLAIM(host.chunks[1].word[0] == 1);
	CLAIM(verdict(&h) == ASSENT_ADMITTED);
	CLAIM(host.flows[1].rx_spent == 1 && host.flows[1].tx_granted == 100);

	/* A handshake frame that loses to another one is refused: it may be the older one. */
	h = header_of(0, ASSENT_FLAG_SYN, 0);
	h.timestamp = assent_be64(77);
	sign(&h, admission_key);
	races_to_win = 1;
	races_to_lose = 1;
	CLAIM(verdict(&h) == ASSENT_DROP_CONTENDED);
	CLAIM(!races_to_win && !races_to_lose);
}

/* -- rate.h
 * ---------------------------------------------------------------------------------------- */

static void test_rate(void)
{
	__u64 due = 0;

	for (int i = 0; i < 3; i++) /* a burst of 40 ns at 20 ns each: three at one moment */
		CLAIM(assent_rate_charge(&due, 1000, 20, 40) == ASSENT_ADMITTED);
	CLAIM(assent_rate_charge(&due, 1000, 20, 40) == ASSENT_DROP_RATE_LIMITED);
	CLAIM(assent_rate_charge(&due, 1019, 20, 40) == ASSENT_DROP_RATE_LIMITED);
	CLAIM(due == 1060);
	CLAIM(assent_rate_charge(&due, 1020, 20, 40) == ASSENT_ADMITTED);
	CLAIM(assent_rate_charge(&due, 1020, 20, 40) == ASSENT_DROP_RATE_LIMITED);
	/* Idle time earns the burst back, and no more. */
	for (int i = 0; i < 3; i++)
		CLAIM(assent_rate_charge(&due, 1000000, 20, 40) == ASSENT_ADMITTED);
	CLAIM(assent_rate_charge(&due, 1000000, 20, 40) == ASSENT_DROP_RATE_LIMITED);
}

/* However frames fall: in any time t at most (t + burst) / interval + 1 are admitted. */
static void test_rate_is_never_exceeded(void)
{
	__u64 due = 0, now = 5000, admitted = 0;

	for (int i = 0; i < 1000000; i++) {
		now += random_u64() % 16;
		admitted += assent_rate_charge(&due, now, 100, 1500) == ASSENT_ADMITTED;
		CLAIM(admitted <= (now - 5000 + 1500) / 100 + 1);
	}
	CLAIM(admitted >= (now - 5000) / 100 - 1);
}

/* -- verdict.h
 * ------------------------------------------------------------------------------------- */

static void test_skew_to_the_nanosecond(void)
{
	static const int64_t offsets[] = {0, 5, -5, 1700000000LL * (int64_t)SEC,
					  -900LL * (int64_t)SEC};

	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		uint32_t seq = 1;

		reset();
		host.session.clock_offset = offsets[i];
		host.session.skew_limit = 30 * 1000;
		__u64 level = host.now + offsets[i];
		const struct {
			__u64 timestamp;
			enum assent_reason reason;
		} cases[] = {
		    {level, ASSENT_ADMITTED},
		    {level + 30 * SEC, ASSENT_ADMITTED},
		    {level - 30 * SEC, ASSENT_ADMITTED},
		    {level + 30 * SEC + 1, ASSENT_DROP_CLOCK_SKEW},
		    {level - 30 * SEC - 1, ASSENT_DROP_CLOCK_SKEW},
		    {level + (1ULL << 63), ASSENT_DROP_CLOCK_SKEW},
		};

		for (size_t j = 0; j < sizeof(cases) / sizeof(*cases); j++) {
			struct assent_header h = header_of(seq++, ASSENT_FLAG_DATA, 1);

			h.timestamp = assent_be64(cases[j].timestamp);
			sign(&h, header_key);
			CLAIM(verdict(&h) == cases[j].reason);
		}
	}
}

/* All 65,536 flag words: what is refused for its flags, and what counts as a handshake. That BLOCK
 * is set is asked before. */
static void test_flags_exhaustively(void)
{
	for (uint32_t flags = 0; flags < 0x10000; flags++) {
		enum assent_reason reason = assent_check_flags(flags);
		uint32_t kind = flags & 0x7fff;

		CLAIM(reason == (flags & ~0x811fu ? ASSENT_DROP_MALFORMED_FLAGS : ASSENT_ADMITTED));
		CLAIM(!!assent_is_handshake(0, flags) == (kind == 1 || kind == 2 || kind == 3));
		CLAIM(!assent_is_handshake(1, flags));
	}
}

static void test_handshake_by_timestamp(void)
{
	struct assent_header h;

	reset();
	h = header_of(0, ASSENT_FLAG_SYN, 0);
	h.timestamp = assent_be64(77);
	sign(&h, admission_key);
	CLAIM(verdict(&h) == ASSENT_ADMITTED);
	CLAIM(verdict(&h) == ASSENT_DROP_REPLAY);
	h.timestamp = assent_be64(78);
	CLAIM(verdict(&h) == ASSENT_DROP_BAD_TAG);
	sign(&h, admission_key);
	CLAIM(verdict(&h) == ASSENT_ADMITTED);
	h.timestamp = assent_be64(76);
	sign(&h, admission_key);
	CLAIM(verdict(&h) == ASSENT_DROP_REPLAY);
	CLAIM(host.session.handshake_newest == 78);
}

/* A table that has nothing always refuses. */
static void test_nothing_refuses(void)
{
	struct assent_header h;

	reset();
	host.has_config = false;
	h = header_of(1, ASSENT_FLAG_DATA, 1);
	sign(&h, header_key);
	CLAIM(verdict(&h) == ASSENT_DROP_UNKNOWN_DESTINATION);
	host.has_config = true;
	host.config.home_count = 0;
	CLAIM(verdict(&h) == ASSENT_DROP_UNKNOWN_DESTINATION);
	host.config.home_count = ASSENT_HOMES + 1; /* many: the table is asked, and has none */
	CLAIM(verdict(&h) == ASSENT_DROP_UNKNOWN_DESTINATION);
	host.tabled_cell = host.pair.dst;
	CLAIM(verdict(&h) == ASSENT_ADMITTED);
	reset();
	host.bloom_words = 0;
	CLAIM(verdict(&h) == ASSENT_DROP_UNKNOWN_SOURCE);
	host.bloom_words = 1;
	host.bloom[0] = 0;
	CLAIM(verdict(&h) == ASSENT_DROP_UNKNOWN_SOURCE);
	reset();
	h = header_of(1, ASSENT_FLAG_DATA, 1);
	sign(&h, header_key);
	host.session.flow_base = FLOWS;
	CLAIM(verdict(&h) == ASSENT_DROP_UNKNOWN_FLOW);
	host.session.flow_base = 0;
	host.flows[1].replay_base = CHUNKS;
	CLAIM(verdict(&h) == ASSENT_DROP_UNKNOWN_FLOW);
	host.flows[1].replay_base = 1;
	CLAIM(verdict(&h) == ASSENT_ADMITTED);
}

static enum assent_reason fits(const __u64 *due, __u64 now, __u32 cost, __u64 interval, __u64 burst)
{
	return assent_blocks_check(due, now, cost, interval, burst, ASSENT_DROP_NO_LAMP);
}

static enum assent_reason charge(__u64 *due, __u64 now, __u32 cost, __u64 interval, __u64 burst)
{
	return assent_blocks_charge(due, now, cost, interval, burst, ASSENT_DROP_NO_LAMP);
}

/* A frame must fit into the allowance as a whole; time fills it again, and no further. */
static void test_allowance_of_blocks(void)
{
	__u64 due = 0, admitted = 0, now = 1000;

	CLAIM(charge(&due, now, 4, 10, 30) == ASSENT_DROP_NO_LAMP);
	CLAIM(due == 0);
	CLAIM(fits(&due, now, 3, 10, 30) == ASSENT_ADMITTED);
	CLAIM(charge(&due, now, 3, 10, 30) == ASSENT_ADMITTED);
	CLAIM(fits(&due, now + 9, 1, 10, 30) == ASSENT_DROP_NO_LAMP);
	CLAIM(charge(&due, now + 9, 1, 10, 30) == ASSENT_DROP_NO_LAMP);
	CLAIM(fits(&due, now + 10, 1, 10, 30) == ASSENT_ADMITTED);
	CLAIM(charge(&due, now + 10, 1, 10, 30) == ASSENT_ADMITTED);
	due = 0;
	for (int i = 0; i < 1000000; i++) {
		__u32 cost = 1 + (__u32)(random_u64() % 24);

		now += random_u64() % 64;
		if (charge(&due, now, cost, 100, 6400) == ASSENT_ADMITTED)
			admitted += cost;
		CLAIM(admitted <= (now - 1000 + 6400) / 100);
	}
	CLAIM(admitted > (now - 1000) / 200);
}

static void test_lamp_and_credit_are_apart(void)
{
	struct assent_header h;

	reset();
	host.flows[1].rx_granted = 0;
	h = header_of(1, ASSENT_FLAG_DATA | ASSENT_FLAG_LAMP, 1);
	h.grant = assent_be16(9);
	sign(&h, header_key);
	CLAIM(verdict(&h) == ASSENT_ADMITTED);
	CLAIM(host.flows[1].rx_spent == 0);
	CLAIM(host.flows[1].tx_granted == 9); /* it funds the reply */
	CLAIM(host.session.lamp_due == host.now + 10);
	h = header_of(2, ASSENT_FLAG_DATA, 1);
	sign(&h, header_key);
	CLAIM(verdict(&h) == ASSENT_DROP_NO_CREDIT);
}

/* A data flow's line says where its frames go; control is the kernel's stack's alone. */
static void test_delivery_by_the_line(void)
{
	struct assent_found found;
	struct assent_header h;

	reset();
	for (__u32 open = 0; open <= 3; open++) {
		host.flows[0].rx_open = host.flows[1].rx_open = (__u16)open;
		found = (struct assent_found){0};
		h = header_of(open + 1, ASSENT_FLAG_DATA, 1);
		sign(&h, header_key);
		if (open == ASSENT_SHUT) {
			CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_DROP_NO_ENDPOINT);
			CLAIM(host.flows[1].rx_spent == 0 && host.flows[1].rx_highest == 0);
		} else {
			CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_ADMITTED);
		}
		CLAIM(found.bound == (open == ASSENT_TO_RING));
		found = (struct assent_found){0};
		host.now += 100; /* control is bounded in rate */
		h = header_of(open + 1, 0, 0);
		sign(&h, header_key);
		CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_ADMITTED);
		CLAIM(!found.bound);
	}
}

/* A frame that comes to an interface where its endpoint is not can come again where it is. */
static void test_delivery_where_the_endpoint_is(void)
{
	struct assent_found found = {.ifindex = 8};
	struct assent_header h;

	reset();
	host.flows[1].rx_open = assent_open_at(ASSENT_TO_RING, 7);
	h = header_of(1, ASSENT_FLAG_DATA, 1);
	sign(&h, header_key);
	CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_DROP_NO_ENDPOINT);
	CLAIM(host.flows[1].rx_spent == 0 && host.flows[1].rx_highest == 0 && !found.bound);
	found = (struct assent_found){.ifindex = 7};
	CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_ADMITTED);
	CLAIM(found.bound);
	CLAIM(assent_is_open(assent_open_at(ASSENT_TO_STACK, 7), ASSENT_OPEN_PLACES + 7));
	CLAIM(assent_is_open(ASSENT_TO_STACK, 7) && !assent_is_open(ASSENT_SHUT, 7));
	CLAIM(!assent_is_open(assent_open_at(ASSENT_SHUT, 7), 7));
}

static void test_socket_slots(void)
{
	static __u8 taken[ASSENT_SOCKET_INTERFACES * ASSENT_SOCKET_QUEUES];

	for (__u32 ifindex = 1; ifindex <= ASSENT_SOCKET_INTERFACES; ifindex++) {
		for (__u32 queue = 0; queue < ASSENT_SOCKET_QUEUES; queue++) {
			__u32 slot = assent_socket_slot(ifindex, queue);

			CLAIM(slot < sizeof(taken) && !taken[slot]);
			taken[slot] = 1;
		}
	}
	for (__u32 i = 0; i < 1000; i++)
		CLAIM(assent_socket_slot((__u32)random_u64(), (__u32)random_u64()) < sizeof(taken));
}

/* What is observed: noted once, for the first rule that was broken, and never for what is forged.
 */
static void test_observed(void)
{
	struct assent_found found = {0};
	struct assent_header h;

	reset();
	host.session.flags = ASSENT_SESSION_ESTABLISHED | ASSENT_SESSION_OBSERVED;
	host.session.payload_max = 1;
	host.flows[1].rx_granted = 0;
	h = header_of(1, ASSENT_FLAG_DATA, 1);
	CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_DROP_BAD_TAG);
	sign(&h, header_key);
	found = (struct assent_found){0};
	CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_ADMITTED);
	CLAIM(found.observed == ASSENT_DROP_NO_COVENANT);
	CLAIM(found.session == &host.session && found.flow == 1 && found.bound);
	CLAIM(host.flows[1].rx_spent == 0 && host.flows[1].rx_highest == 1);
	CLAIM(verdict(&h) == ASSENT_DROP_REPLAY);
	host.session.flags |= ASSENT_SESSION_QUARANTINED;
	h = header_of(2, ASSENT_FLAG_DATA, 1);
	sign(&h, header_key);
	CLAIM(verdict(&h) == ASSENT_DROP_QUARANTINED);
}

/* -- covenants */

/* A frame that nothing is wrong with but what consent and its terms say. */
static struct assent_header data_frame(uint32_t seq, uint32_t payload_len)
{
	struct assent_header h = header_of(seq, ASSENT_FLAG_DATA, 1);

	h.payload_len = assent_be16(payload_len);
	sign(&h, header_key);
	return h;
}

static enum assent_reason verdict_on_data(uint32_t seq, uint32_t payload_len)
{
	struct assent_header h = data_frame(seq, payload_len);
	struct assent_found found = {0};

	return assent_verdict(&h, sizeof(h) + assent_padded_len(payload_len), &found);
}

static enum assent_reason verdict_on_control(uint32_t seq)
{
	struct assent_header h = header_of(seq, ASSENT_FLAG_DATA, 0);

	sign(&h, header_key);
	return verdict(&h);
}

static enum assent_reason verdict_on_handshake(uint64_t timestamp)
{
	struct assent_header h = header_of(0, ASSENT_FLAG_SYN, 0);

	h.timestamp = assent_be64(timestamp);
	sign(&h, admission_key);
	return verdict(&h);
}

/* What consent and its terms should say, in as few words as there can be. */
static enum assent_reason consent_model(__u32 flags, bool control, bool open, bool alive,
					enum assent_reason *observed)
{
	enum assent_reason reason = ASSENT_ADMITTED;

	*observed = ASSENT_ADMITTED;
	if (control && flags & ASSENT_SESSION_CONTROL)
		return ASSENT_ADMITTED;
	if (!(flags & ASSENT_SESSION_COVENANTED))
		reason = ASSENT_DROP_NO_COVENANT;
	else if (!control && !(flags & ASSENT_SESSION_QUARANTINED)) {
		if (flags & ASSENT_SESSION_TERMS && !open)
			reason = ASSENT_DROP_OUTSIDE_WINDOW;
		else if (flags & ASSENT_SESSION_LEASED && !alive)
			reason = ASSENT_DROP_LEASE_EXPIRED;
	}
	if (flags & ASSENT_SESSION_OBSERVED) {
		*observed = reason;
		reason = ASSENT_ADMITTED;
	}
	if (!reason && flags & ASSENT_SESSION_QUARANTINED)
		return ASSENT_DROP_QUARANTINED;
	if (!*observed && flags & ASSENT_SESSION_OBSERVED && !control) {
		if (flags & ASSENT_SESSION_TERMS && !open)
			*observed = ASSENT_DROP_OUTSIDE_WINDOW;
		else if (flags & ASSENT_SESSION_LEASED && !alive)
			*observed = ASSENT_DROP_LEASE_EXPIRED;
	}
	return reason;
}

/* Every combination of flags, for each kind of frame, with the window open or not and the lease
 * running or not. */
static void test_consent_exhaustively(void)
{
	static const __u32 bits[] = {
	    ASSENT_SESSION_COVENANTED, ASSENT_SESSION_QUARANTINED, ASSENT_SESSION_OBSERVED,
	    ASSENT_SESSION_CONTROL,    ASSENT_SESSION_TERMS,       ASSENT_SESSION_LEASED,
	};
	enum { DATA, CONTROL, HANDSHAKE, KINDS };

	for (int set = 0; set < 1 << 6; set++) {
		for (int at = 0; at < KINDS * 4; at++) {
			bool open = at & 1, alive = at & 2, control = at / 4 != DATA;
			enum assent_reason expected, observed;
			struct assent_found found = {0};
			struct assent_session before;
			struct assent_header h;

			reset();
			host.session.flags = ASSENT_SESSION_ESTABLISHED;
			for (int bit = 0; bit < 6; bit++) {
				if (set & 1 << bit)
					host.session.flags |= bits[bit];
			}
			host.session.open_from = open ? 0 : host.now + 1;
			host.config.lease_until = alive ? host.now + 1 : host.now;
			h = at / 4 == DATA
				? data_frame(1, 0)
				: header_of(
				      1, at / 4 == CONTROL ? ASSENT_FLAG_DATA : ASSENT_FLAG_SYN, 0);
			h.timestamp = assent_be64(1);
			sign(&h, at / 4 == HANDSHAKE ? admission_key : header_key);
			before = host.session;
			expected =
			    consent_model(host.session.flags, control, open, alive, &observed);
			CLAIM(assent_verdict(&h, sizeof(h), &found) == expected);
			CLAIM(expected || found.observed == observed);
			if (expected) {
				CLAIM(!memcmp(&before, &host.session, sizeof(before)));
				CLAIM(!host.flows[0].rx_highest && !host.flows[1].rx_spent);
			}
		}
	}
}

static void test_window_to_the_nanosecond(void)
{
	reset();
	host.session.flags |= ASSENT_SESSION_TERMS;
	host.session.open_from = host.now;
	host.session.open_until = host.now + 10;
	CLAIM(verdict_on_data(1, 0) == ASSENT_ADMITTED);
	host.now += 9;
	CLAIM(verdict_on_data(2, 0) == ASSENT_ADMITTED);
	host.now++;
	CLAIM(verdict_on_data(3, 0) == ASSENT_DROP_OUTSIDE_WINDOW);
	host.session.open_until = 0;
	CLAIM(verdict_on_data(3, 0) == ASSENT_ADMITTED);
	host.session.open_from = host.now + 1;
	CLAIM(verdict_on_data(4, 0) == ASSENT_DROP_OUTSIDE_WINDOW);
	CLAIM(verdict_on_control(4) == ASSENT_ADMITTED);
	CLAIM(verdict_on_handshake(4) == ASSENT_ADMITTED);
	/* One that ends before it begins is never open. */
	host.session.open_until = host.now - 1;
	for (int i = 0; i < 4; i++, host.now++)
		CLAIM(verdict_on_data(4, 0) == ASSENT_DROP_OUTSIDE_WINDOW);
	CLAIM(host.flows[1].rx_highest == 3 && host.flows[1].rx_spent == 3);
	/* Without TERMS nothing of that is read. */
	host.session.flags &= ~(__u32)ASSENT_SESSION_TERMS;
	CLAIM(verdict_on_data(4, 0) == ASSENT_ADMITTED);
}

static void test_lease_to_the_nanosecond(void)
{
	reset();
	host.session.flags |= ASSENT_SESSION_LEASED;
	CLAIM(verdict_on_data(1, 0) == ASSENT_DROP_LEASE_EXPIRED); /* nobody has ever given one */
	host.config.lease_until = host.now + 1;
	CLAIM(verdict_on_data(1, 0) == ASSENT_ADMITTED);
	host.now++;
	CLAIM(verdict_on_data(2, 0) == ASSENT_DROP_LEASE_EXPIRED);
	CLAIM(verdict_on_control(2) == ASSENT_ADMITTED);
	CLAIM(verdict_on_handshake(2) == ASSENT_ADMITTED);
	CLAIM(host.flows[1].rx_highest == 1);
	/* What needs no lease goes on without. */
	host.session.flags &= ~(__u32)ASSENT_SESSION_LEASED;
	CLAIM(verdict_on_data(2, 0) == ASSENT_ADMITTED);
}

static void test_payload_limit_to_the_byte(void)
{
	reset();
	host.session.flags |= ASSENT_SESSION_TERMS;
	host.session.payload_limit = 100;
	CLAIM(verdict_on_data(1, 100) == ASSENT_ADMITTED);
	CLAIM(verdict_on_data(2, 101) == ASSENT_DROP_OVERSIZE);
	host.session.payload_max = 50; /* the stricter of the two */
	CLAIM(verdict_on_data(2, 51) == ASSENT_DROP_OVERSIZE);
	host.session.payload_max = 0;
	host.session.payload_limit = 1U << 31; /* more than a frame can have */
	CLAIM(verdict_on_data(2, 1400) == ASSENT_ADMITTED);
	host.session.payload_limit = 0;
	CLAIM(verdict_on_data(3, 1400) == ASSENT_ADMITTED);
}

/* The rate in the terms counts by blocks, LAMP or not, and control not at all. */
static void test_rate_of_terms(void)
{
	struct assent_header h;

	reset();
	host.session.flags |= ASSENT_SESSION_TERMS;
	host.session.data_interval = 10;
	host.session.data_burst = 30;
	CLAIM(verdict_on_data(1, 129) == ASSENT_DROP_OVER_RATE); /* four blocks never fit */
	CLAIM(verdict_on_data(1, 64) == ASSENT_ADMITTED);
	CLAIM(host.session.data_due == host.now + 20);
	CLAIM(verdict_on_data(2, 64) == ASSENT_DROP_OVER_RATE);
	CLAIM(verdict_on_data(2, 0) == ASSENT_ADMITTED);
	CLAIM(verdict_on_data(3, 0) == ASSENT_DROP_OVER_RATE);
	CLAIM(verdict_on_control(1) == ASSENT_ADMITTED);
	CLAIM(host.session.data_due == host.now + 30 && host.flows[1].rx_spent == 3);
	host.now += 9;
	CLAIM(verdict_on_data(3, 0) == ASSENT_DROP_OVER_RATE);
	host.now++;
	h = header_of(3, ASSENT_FLAG_DATA | ASSENT_FLAG_LAMP, 1);
	sign(&h, header_key);
	CLAIM(verdict(&h) == ASSENT_ADMITTED);
	CLAIM(host.session.data_due == host.now + 30 && host.session.lamp_due == host.now + 10);
	CLAIM(host.flows[1].rx_spent == 3);
	h = header_of(4, ASSENT_FLAG_DATA | ASSENT_FLAG_LAMP, 1);
	sign(&h, header_key);
	CLAIM(verdict(&h) == ASSENT_DROP_OVER_RATE);
	CLAIM(host.session.lamp_due == host.now + 10);
	/* No rate is any rate. */
	host.session.data_interval = 0;
	CLAIM(verdict_on_data(4, 1400) == ASSENT_ADMITTED);
	CLAIM(host.session.data_due == host.now + 30);
}

/* What is refused for any reason is not charged to the rate. */
static void test_rate_of_terms_is_charged_last(void)
{
	struct assent_header h;

	reset();
	host.session.flags |= ASSENT_SESSION_TERMS;
	host.session.data_interval = 10;
	host.session.data_burst = 100;
	h = data_frame(1, 0);
	h.tag ^= 1;
	CLAIM(verdict(&h) == ASSENT_DROP_BAD_TAG);
	CLAIM(verdict_on_data(0, 0) == ASSENT_DROP_REPLAY);
	host.flows[1].rx_granted = 0;
	CLAIM(verdict_on_data(1, 0) == ASSENT_DROP_NO_CREDIT);
	host.config.lamp_burst = 0;
	h = header_of(1, ASSENT_FLAG_DATA | ASSENT_FLAG_LAMP, 1);
	sign(&h, header_key);
	CLAIM(verdict(&h) == ASSENT_DROP_NO_LAMP);
	CLAIM(host.session.data_due == 0);
	/* Where neither rate nor credit is left, it is the rate that says so. */
	host.session.data_burst = 9;
	CLAIM(verdict_on_data(1, 0) == ASSENT_DROP_OVER_RATE);
	/* A word that changes under every try. */
	host.session.data_burst = 100;
	host.flows[1].rx_granted = 1000;
	races_to_lose = ASSENT_RATE_TRIES;
	CLAIM(verdict_on_data(1, 0) == ASSENT_DROP_CONTENDED);
	CLAIM(host.session.data_due == 0 && host.flows[1].rx_spent == 0);
	CLAIM(verdict_on_data(1, 0) == ASSENT_ADMITTED);
}

/* The first rule that was broken is noted, and what there is no room for is not charged. */
static void test_observed_terms(void)
{
	struct assent_found found = {0};
	struct assent_header h;

	reset();
	host.session.flags |=
	    ASSENT_SESSION_TERMS | ASSENT_SESSION_LEASED | ASSENT_SESSION_OBSERVED;
	host.session.data_interval = 10;
	h = data_frame(1, 0);
	CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_ADMITTED);
	CLAIM(found.observed == ASSENT_DROP_LEASE_EXPIRED);
	CLAIM(host.session.data_due == 0 && host.flows[1].rx_spent == 1);
	host.config.lease_until = host.now + 1;
	h = data_frame(2, 0);
	found = (struct assent_found){0};
	CLAIM(assent_verdict(&h, sizeof(h), &found) == ASSENT_ADMITTED);
	CLAIM(found.observed == ASSENT_DROP_OVER_RATE);
	CLAIM(host.session.data_due == 0 && host.flows[1].rx_spent == 2);
	CLAIM(verdict(&h) == ASSENT_DROP_REPLAY);
}

/* A bare frame is data, with or without CONTROL. It proves nothing, so it uses up no rate. */
static void test_bare_frames_under_terms(void)
{
	uint8_t frame[64] __attribute__((aligned(8))) = {0};
	struct assent_bare *bare = (struct assent_bare *)frame;
	struct assent_found found = {0};

	reset();
	host.session.flags |= ASSENT_SESSION_BARE | ASSENT_SESSION_CONTROL | ASSENT_SESSION_TERMS |
			      ASSENT_SESSION_LEASED;
	host.session.open_from = host.now + 1;
	host.session.payload_limit = 9;
	host.session.data_interval = 10;
	bare->pair = host.pair;
	bare->seq = assent_be32(3);
	bare->payload_len = assent_be16(10);
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_DROP_OUTSIDE_WINDOW);
	host.now++;
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_DROP_LEASE_EXPIRED);
	host.config.lease_until = host.now + 1;
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_DROP_OVERSIZE);
	CLAIM(!host.session.bare_seen && !host.session.bare_due);
	host.session.payload_limit = 10;
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_ADMITTED);
	CLAIM(host.session.data_due == 0);
	host.session.flags &= ~(__u32)ASSENT_SESSION_COVENANTED;
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_DROP_NO_COVENANT);
}

static void test_bare_frames(void)
{
	uint8_t frame[64] __attribute__((aligned(8))) = {0};
	struct assent_bare *bare = (struct assent_bare *)frame;
	struct assent_found found = {0};

	reset();
	bare->pair = host.pair;
	bare->flags = assent_be16(ASSENT_FLAG_DATA);
	bare->seq = assent_be32(3);
	bare->payload_len = assent_be16(10);
	CLAIM(assent_judge(frame, frame + 39, &found) == ASSENT_DROP_MALFORMED_LENGTH);
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_DROP_BARE_FRAME);
	host.session.flags |= ASSENT_SESSION_BARE;
	for (int len = 40; len < 64; len++) {
		if (len != 50)
			CLAIM(assent_judge(frame, frame + len, &found) ==
			      ASSENT_DROP_MALFORMED_LENGTH);
	}
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_ADMITTED);
	CLAIM(!found.bound && found.session == &host.session);
	CLAIM(assent_judge(frame, frame + 50, &found) == ASSENT_DROP_REPLAY);
	bare->payload_len = 0;
	bare->seq = assent_be32(4);
	CLAIM(assent_judge(frame, frame + 46, &found) == ASSENT_ADMITTED); /* Ethernet's padding */
	CLAIM(host.flows[0].rx_highest == 0 && host.flows[1].rx_highest == 0);
}

/* A filter never denies what it holds, and turns most of the rest away: as many as bloom.h says. */
static void test_bloom(void)
{
	enum { WORDS = 512, PAIRS = WORDS * 64 / ASSENT_BLOOM_BITS_A_PAIR, STRANGERS = 200000 };
	static __u64 words[2 * WORDS];
	static struct assent_pair known[PAIRS];
	const __u64 seed[2] = {random_u64(), random_u64()};
	__u64 descriptor = assent_bloom_descriptor(WORDS, WORDS - 1);
	unsigned int passed = 0;

	for (int i = 0; i < PAIRS; i++) {
		for (int j = 0; j < 2; j++)
			((__u64 *)&known[i].src)[j] = random_u64();
		__u64 hash = assent_bloom_hash(&known[i], seed);

		CLAIM(assent_bloom_index(descriptor, hash) >= WORDS);
		CLAIM(assent_bloom_index(descriptor, hash) < 2 * WORDS);
		words[assent_bloom_index(descriptor, hash)] |= assent_bloom_bits(hash);
	}
	for (int i = 0; i < PAIRS; i++) {
		__u64 hash = assent_bloom_hash(&known[i], seed), bits = assent_bloom_bits(hash);

		CLAIM((words[assent_bloom_index(descriptor, hash)] & bits) == bits);
	}
	for (int i = 0; i < STRANGERS; i++) {
		struct assent_pair pair = {0};

		((__u64 *)&pair.src)[0] = random_u64();
		((__u64 *)&pair.src)[1] = random_u64();
		__u64 hash = assent_bloom_hash(&pair, seed), bits = assent_bloom_bits(hash);

		passed += (words[assent_bloom_index(descriptor, hash)] & bits) == bits;
	}
	CLAIM(passed > STRANGERS / 1000 && passed < STRANGERS / 100);
}

static const struct host_case cases[] = {
    CASE(siphash_vectors),
    CASE(tag_covers_every_bit),
    CASE(replay_is_the_model),
    CASE(replay_from_a_fresh_ring),
    CASE(credit_edges),
    CASE(grant_field_exhaustively),
    CASE(counter_only_rises),
    CASE(frame_cost_exhaustively),
    CASE(racing_cpus),
    CASE(lost_races),
    CASE(rate),
    CASE(rate_is_never_exceeded),
    CASE(skew_to_the_nanosecond),
    CASE(flags_exhaustively),
    CASE(handshake_by_timestamp),
    CASE(nothing_refuses),
    CASE(allowance_of_blocks),
    CASE(lamp_and_credit_are_apart),
    CASE(delivery_by_the_line),
    CASE(delivery_where_the_endpoint_is),
    CASE(socket_slots),
    CASE(observed),
    CASE(consent_exhaustively),
    CASE(window_to_the_nanosecond),
    CASE(lease_to_the_nanosecond),
    CASE(payload_limit_to_the_byte),
    CASE(rate_of_terms),
    CASE(rate_of_terms_is_charged_last),
    CASE(observed_terms),
    CASE(bare_frames_under_terms),
    CASE(bare_frames),
    CASE(bloom),
};

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(*cases), argc, argv);
}
