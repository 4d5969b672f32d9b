// SPDX-License-Identifier: Apache-2.0
/*
 * departure.h on the host, under ASan and UBSan: what single frames cannot bring about. Lost races,
 * threads that send at once, and tables that have nothing.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/types.h"

/*
 * Compare-and-swap that can be told to lose: the word has changed under the caller's hands, to
 * `rival`, or each time to the other of two values, the second of which is the one it began with.
 */
static __thread int races_to_win, races_to_lose;
static __thread __u64 rival;

static int loses_race(void)
{
	if (races_to_win) {
		races_to_win--;
		return 0;
	}
	return races_to_lose ? races_to_lose-- : 0;
}

#define WRITE_RIVAL(p) (rival ? (*(p) = (__typeof__(*(p)))rival) : (*(p) ^= 1))

#undef assent_cmpxchg
#define assent_cmpxchg(p, old, new)                                                                \
	(loses_race() ? WRITE_RIVAL(p) : __sync_val_compare_and_swap((p), (old), (new)))

#include "assent/departure.h"
#include "cases.h"

static struct {
	struct assent_local local;
	struct assent_cellid here;
	struct assent_pair key;
	struct assent_session session;
	struct assent_flow flow;
	struct assent_replay_chunk chunk;
	struct assent_config config;
	bool has_config, has_chunk, has_local;
	__u64 now;
} host;

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell)
{
	return host.has_local && !memcmp(cell, &host.here, sizeof(*cell)) ? &host.local : NULL;
}

static __always_inline const __u64 *assent_bloom_word(__u32 index)
{
	return NULL; /* nobody asks it about what leaves */
}

static __always_inline struct assent_session *assent_find_session(const struct assent_pair *pair)
{
	return memcmp(pair, &host.key, sizeof(*pair)) ? NULL : &host.session;
}

static __always_inline struct assent_flow *assent_flow_at(__u32 slot)
{
	return slot == 1 ? &host.flow : NULL;
}

static __always_inline struct assent_replay_chunk *assent_replay_chunk_at(__u32 index)
{
	return host.has_chunk && index == 0 ? &host.chunk : NULL;
}

static __always_inline const struct assent_config *assent_get_config(void)
{
	return host.has_config ? &host.config : NULL;
}

static __always_inline __u64 assent_now(void)
{
	return host.now;
}

static __always_inline __u64 assent_wall_clock(void)
{
	return 1700000000ULL * 1000000000;
}

static void reset(void)
{
	memset(&host, 0, sizeof(host));
	races_to_win = races_to_lose = 0;
	rival = 0;
	memset(&host.here, 0x10, sizeof(host.here));
	memset(&host.key.src, 0x20, sizeof(host.key.src));
	host.key.dst = host.here;
	host.session.departing = (struct assent_sip){1, 2, 3, 4};
	host.session.departing_admission = (struct assent_sip){5, 6, 7, 8};
	host.session.flags = ASSENT_SESSION_ESTABLISHED | ASSENT_SESSION_COVENANTED;
	host.session.flow_count = 2;
	host.flow.replay_len = 1024;
	host.flow.tx_granted = 100;
	host.flow.rx_granted = 7;
	host.config.home_count = 1;
	host.config.home[0] = host.here;
	host.has_config = host.has_chunk = host.has_local = true;
}

static struct assent_header frame(uint32_t seq, uint16_t flags, uint16_t flow)
{
	struct assent_header h = {.pair = {.src = host.here, .dst = host.key.src}};

	h.seq = assent_be32(seq);
	h.flags = assent_be16(flags | ASSENT_FLAG_BLOCK);
	h.flow = assent_be16(flow);
	return h;
}

/* As the program does it: check, then commit on a copy. */
static enum assent_reason leave(struct assent_header *h)
{
	struct assent_departing found;
	enum assent_reason reason = assent_departure_check(h, sizeof(*h), &found);

	return reason ? reason : assent_departure_commit(h, &found);
}

static enum assent_reason leave_fresh(uint32_t seq)
{
	struct assent_header h = frame(seq, ASSENT_FLAG_DATA, 1);

	return leave(&h);
}

/* -- cases --------------------------------------------------------------------------------------
 */

static void test_a_stamp_is_the_plain_algorithm(void)
{
	struct assent_header h;

	reset();
	h = frame(1, ASSENT_FLAG_DATA | ASSENT_FLAG_NACK, 1);
	CLAIM(leave(&h) == ASSENT_ADMITTED);
	CLAIM(assent_tag_matches(&host.session.departing, &h));
	CLAIM(assent_be64(h.timestamp) == assent_wall_clock());
	CLAIM(assent_be16(h.grant) == 7);
	CLAIM(h.flags == assent_be16(ASSENT_FLAG_DATA | ASSENT_FLAG_BLOCK) && !h.nack_slot);
	/* What has its stamp keeps it. */
	CLAIM(leave(&h) == ASSENT_ADMITTED);
	CLAIM(host.flow.tx_spent == 1 && host.flow.tx_seq == 1);
}

static void test_nothing_refuses(void)
{
	struct assent_header h;

	reset();
	h = frame(1, ASSENT_FLAG_DATA, 1);
	host.has_config = false;
	CLAIM(leave(&h) == ASSENT_DROP_NOT_LOCAL);
	host.has_config = true;
	host.config.home_count = 0;
	CLAIM(leave(&h) == ASSENT_DROP_NOT_LOCAL);
	host.config.home_count = ASSENT_HOMES + 1;
	host.has_local = false;
	CLAIM(leave(&h) == ASSENT_DROP_NOT_LOCAL);
	host.has_local = true;
	host.key.src.bytes[0] ^= 1;
	CLAIM(leave(&h) == ASSENT_DROP_NO_SESSION);
	host.key.src.bytes[0] ^= 1;
	host.session.flow_base = 7;
	CLAIM(leave(&h) == ASSENT_DROP_UNKNOWN_FLOW);
	host.session.flow_base = 0;
	host.flow.replay_len = 0;
	CLAIM(leave(&h) == ASSENT_DROP_UNKNOWN_FLOW);
	CLAIM(!h.tag && !host.flow.tx_spent && !host.flow.tx_seq);
	host.flow.replay_len = 1024;
	/* Where nobody can say what is missing, nothing is said to be. */
	host.has_chunk = false;
	host.flow.rx_next = 2;
	host.flow.rx_highest = 5;
	CLAIM(leave(&h) == ASSENT_ADMITTED && !h.nack_slot);
}

static void test_a_zero_state_is_no_key(void)
{
	struct assent_header h;

	for (int given = 0; given < 2; given++) {
		for (int flow = 0; flow < 2; flow++) {
			reset();
			memset(&host.session.departing, 0, sizeof(struct assent_sip));
			memset(&host.session.departing_admission, 0, sizeof(struct assent_sip));
			h = frame(1, flow ? ASSENT_FLAG_DATA : ASSENT_FLAG_SYN, flow);
			if (given)
				h.tag = assent_le64(assent_header_tag(&host.session.departing, &h));
			CLAIM(leave(&h) == ASSENT_DROP_NO_SESSION);
		}
	}
}

static void test_a_number_that_another_cpu_sent_is_not_charged_twice(void)
{
	struct assent_header h;
	struct assent_departing found;

	reset();
	h = frame(9, ASSENT_FLAG_DATA, 1);
	CLAIM(!assent_departure_check(&h, sizeof(h), &found));
	/* The charge goes through; then the number turns out to be taken. */
	races_to_win = 1;
	races_to_lose = 1;
	rival = 9;
	CLAIM(assent_departure_commit(&h, &found) == ASSENT_ADMITTED);
	CLAIM(host.flow.tx_spent == 0 && host.flow.tx_seq == 9);
	CLAIM(assent_tag_matches(&host.session.departing, &h));
}

static void test_a_number_that_was_overtaken_is_charged(void)
{
	struct assent_header h;
	struct assent_departing found;

	reset();
	h = frame(9, ASSENT_FLAG_DATA, 1);
	CLAIM(!assent_departure_check(&h, sizeof(h), &found));
	races_to_win = 1;
	races_to_lose = 1;
	rival = 12;
	CLAIM(assent_departure_commit(&h, &found) == ASSENT_ADMITTED);
	CLAIM(host.flow.tx_spent == 1 && host.flow.tx_seq == 12);
}

static void test_lost_races_change_nothing(void)
{
	reset();
	races_to_lose = ASSENT_DEPARTURE_TRIES;
	CLAIM(leave_fresh(100) == ASSENT_DROP_CONTENDED);
	CLAIM(!races_to_lose && host.flow.tx_spent == 0 && host.flow.tx_seq == 0);
	/* Charged, then never at the number's turn: the charge is taken back. */
	races_to_win = 1;
	races_to_lose = ASSENT_DEPARTURE_TRIES;
	CLAIM(leave_fresh(100) == ASSENT_DROP_CONTENDED);
	CLAIM(!races_to_lose && host.flow.tx_spent == 0 && host.flow.tx_seq == 0);
	CLAIM(leave_fresh(100) == ASSENT_ADMITTED);
	CLAIM(host.flow.tx_spent == 1 && host.flow.tx_seq == 100);
}

static void test_credit_edges(void)
{
	reset();
	host.flow.tx_spent = 100;
	CLAIM(leave_fresh(1) == ASSENT_DROP_NO_CREDIT);
	host.flow.tx_spent = 99;
	CLAIM(leave_fresh(1) == ASSENT_ADMITTED);
	CLAIM(leave_fresh(2) == ASSENT_DROP_NO_CREDIT);
	CLAIM(leave_fresh(1) == ASSENT_ADMITTED);
	host.flow.tx_spent = ~0ULL;
	CLAIM(leave_fresh(2) == ASSENT_DROP_NO_CREDIT);
	CLAIM(host.flow.tx_seq == 1);
}

static enum assent_reason leave_as(uint16_t flags, uint16_t flow)
{
	struct assent_header h = frame(1, flags, flow);

	return leave(&h);
}

/* What leaves needs consent, an open window and a lease too: what a pair may not hear, it does not
 * answer. Size and rate are held to where they arrive. */
static void test_data_leaves_under_terms(void)
{
	reset();
	host.now = 1000;
	host.session.flags |= ASSENT_SESSION_TERMS | ASSENT_SESSION_LEASED;
	host.session.open_from = 1001;
	host.session.open_until = 1003;
	host.session.data_interval = ~0U;
	host.session.payload_limit = 1;
	host.config.lease_until = 1002;
	CLAIM(leave_fresh(1) == ASSENT_DROP_OUTSIDE_WINDOW);
	host.now = 1001;
	CLAIM(leave_fresh(1) == ASSENT_ADMITTED);
	host.now = 1002;
	CLAIM(leave_fresh(2) == ASSENT_DROP_LEASE_EXPIRED);
	host.config.lease_until = 1004;
	CLAIM(leave_fresh(2) == ASSENT_ADMITTED);
	host.now = 1003;
	CLAIM(leave_fresh(3) == ASSENT_DROP_OUTSIDE_WINDOW);
	CLAIM(host.flow.tx_spent == 2 && host.flow.tx_seq == 2 && host.session.data_due == 0);
	CLAIM(leave_as(ASSENT_FLAG_SYN, 0) == ASSENT_ADMITTED);
}

/* CONTROL: covenants are negotiated without one, and ended in quarantine. */
static void test_control_leaves_always(void)
{
	static const __u32 consents[] = {
	    0,
	    ASSENT_SESSION_QUARANTINED,
	    ASSENT_SESSION_COVENANTED | ASSENT_SESSION_QUARANTINED,
	};

	for (unsigned int i = 0; i < sizeof(consents) / sizeof(*consents); i++) {
		enum assent_reason reason = consents[i] & ASSENT_SESSION_COVENANTED
						? ASSENT_DROP_QUARANTINED
						: ASSENT_DROP_NO_COVENANT;

		reset();
		host.session.flow_base = 1; /* so that flow 0 is open, and flow 1 is not */
		host.session.flags = ASSENT_SESSION_ESTABLISHED | consents[i];
		CLAIM(leave_as(ASSENT_FLAG_DATA, 0) == reason);
		CLAIM(leave_as(ASSENT_FLAG_SYN, 0) == reason);
		host.session.flags |= ASSENT_SESSION_CONTROL;
		CLAIM(leave_fresh(1) == reason);
		CLAIM(!host.flow.tx_spent && !host.flow.tx_seq);
		CLAIM(leave_as(ASSENT_FLAG_SYN, 0) == ASSENT_ADMITTED);
		CLAIM(leave_as(ASSENT_FLAG_DATA, 0) == ASSENT_ADMITTED);
	}
}

#define THREADS 4
#define NUMBERS 20000

static void *send_all(void *let_go)
{
	for (uint32_t seq = 1; seq <= NUMBERS; seq++) {
		if (leave_fresh(seq) == ASSENT_ADMITTED)
			++*(int *)let_go;
	}
	return NULL;
}

/* However the threads fall, credit is never overdrawn, and nothing is charged that was not let go.
 * A number that two of them send while a third goes on may be charged to both. */
static void test_racing_cpus(void)
{
	pthread_t threads[THREADS];
	int let_go[THREADS] = {0};

	reset();
	host.flow.tx_granted = NUMBERS / 2;
	for (int i = 0; i < THREADS; i++)
		CLAIM(!pthread_create(&threads[i], NULL, send_all, &let_go[i]));
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	CLAIM(host.flow.tx_spent <= host.flow.tx_granted);
	CLAIM(host.flow.tx_seq <= NUMBERS);
	CLAIM(let_go[0] + let_go[1] + let_go[2] + let_go[3] >= (int)host.flow.tx_spent);
}

static const struct host_case cases[] = {
    CASE(a_stamp_is_the_plain_algorithm),
    CASE(nothing_refuses),
    CASE(a_zero_state_is_no_key),
    CASE(a_number_that_another_cpu_sent_is_not_charged_twice),
    CASE(a_number_that_was_overtaken_is_charged),
    CASE(lost_races_change_nothing),
    CASE(credit_edges),
    CASE(data_leaves_under_terms),
    CASE(control_leaves_always),
    CASE(racing_cpus),
};

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(*cases), argc, argv);
}
