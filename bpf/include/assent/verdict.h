/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The verdict on one arriving fabric frame.
 *
 * Stages run cheapest first, and nothing is written before every check has passed; then the frame
 * is charged and marked, and only then delivered. A stage returns ASSENT_ADMITTED to go on, or the
 * reason why the frame is refused. assent_check() only looks, assent_commit() only follows it, and
 * assent_verdict() is the one after the other; the same for 40-byte frames under `bare`.
 *
 * Where a session is observed, what breaks policy (consent, its terms, flow, size, rate, credit) is
 * noted and goes on; what is not proven to be genuine and new is refused all the same.
 *
 * The includer supplies the tables and the clock, each a static inline function:
 *
 *   const struct assent_local *assent_find_local(const struct assent_cellid *cell);
 *   const __u64 *assent_bloom_word(__u32 index);
 *   struct assent_session *assent_find_session(const struct assent_pair *pair);
 *   struct assent_flow *assent_flow_at(__u32 slot);
 *   struct assent_replay_chunk *assent_replay_chunk_at(__u32 index);
 *   const struct assent_config *assent_get_config(void);
 *   __u64 assent_now(void);     monotonic ns; a few ms of granularity is enough
 *
 * Each returns NULL where there is nothing, and NULL always refuses.
 */
#ifndef ASSENT_VERDICT_H
#define ASSENT_VERDICT_H

#include "bloom.h"
#include "credit.h"
#include "rate.h"
#include "reason.h"
#include "replay.h"
#include "tables.h"
#include "tag.h"
#include "wire.h"

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell);
static __always_inline const __u64 *assent_bloom_word(__u32 index);
static __always_inline struct assent_session *assent_find_session(const struct assent_pair *pair);
static __always_inline struct assent_flow *assent_flow_at(__u32 slot);
static __always_inline struct assent_replay_chunk *assent_replay_chunk_at(__u32 index);
static __always_inline const struct assent_config *assent_get_config(void);
static __always_inline __u64 assent_now(void);

/*
 * What a verdict found on its way, for counts, events and delivery. The caller begins with zeros; a
 * member is written once, when it is known. It is better kept in memory than returned: merged over
 * all the ways out of a verdict, it would be written at every one of them.
 */
struct assent_found {
	const struct assent_config *config;
	const struct assent_session *session; /* the pair's entry */
	__u32 observed; /* enum assent_reason: why it would have been refused; 0 = it is not */
	__u16 flow;
	__u16 bound;   /* for the AF_XDP socket of an endpoint */
	__u32 ifindex; /* where it arrived, as the caller says; 0 = not known */
};

/*
 * What the checks found, for the commit. Filled as far as they got: what a frame was refused before
 * is NULL. `chunk`, `word` and `passed` serve explanations too; where nobody reads a field, the
 * compiler leaves it out, so the gate does not pay for it.
 */
struct assent_checked {
	const struct assent_config *config;
	struct assent_session *session;
	struct assent_flow
	    *flow; /* NULL for handshake and bare frames, and flows that are not open */
	struct assent_replay_chunk *chunk;
	__u64 *slot;  /* of the replay word in `chunk` */
	__u64 word;   /* as it was */
	__u64 newest; /* timestamp, where those must rise: of the newest frame so far */
	__u64 now;    /* 0 where no check has needed the time */
	__u32 cost;   /* blocks */
	struct assent_found *note;
	int local;  /* the destination is a cell of this host */
	int passed; /* the pair passed the bloom filter */
	int handshake;
};

/* `len` counts from the header's first byte; the caller has made sure that 64 bytes are there. */
static __always_inline enum assent_reason assent_check_length(const struct assent_header *h,
							      __u32 len)
{
	__u32 payload_len = assent_be16(h->payload_len);

	return len == ASSENT_HEADER_LEN + assent_padded_len(payload_len)
		   ? ASSENT_ADMITTED
		   : ASSENT_DROP_MALFORMED_LENGTH;
}

static __always_inline enum assent_reason assent_check_flags(__u32 flags)
{
	return flags & ~(__u32)ASSENT_FLAGS_KNOWN ? ASSENT_DROP_MALFORMED_FLAGS : ASSENT_ADMITTED;
}

static __always_inline int assent_same_cell(const struct assent_cellid *a,
					    const struct assent_cellid *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

/* Few cells are compared one by one, which is faster than a hash table. */
static __always_inline int assent_is_local(const struct assent_config *config,
					   const struct assent_cellid *cell)
{
	__u64 count = config->home_count;

	if (assent_unlikely(count > ASSENT_HOMES))
		return assent_find_local(cell) != 0;
	for (__u32 i = 0; i < ASSENT_HOMES; i++) {
		if (i < count && assent_same_cell(&config->home[i], cell))
			return 1;
	}
	return 0;
}

static __always_inline int assent_may_be_known(const struct assent_config *config,
					       const struct assent_pair *pair)
{
	__u64 hash = assent_bloom_hash(pair, config->bloom_seed);
	__u64 bits = assent_bloom_bits(hash);
	const __u64 *word =
	    assent_bloom_word(assent_bloom_index(ASSENT_READ_ONCE(config->bloom), hash));

	return word && (ASSENT_READ_ONCE(*word) & bits) == bits;
}

/* Who is spoken to, and who speaks? */
static __always_inline enum assent_reason assent_check_pair(const struct assent_pair *pair,
							    struct assent_checked *found)
{
	found->config = assent_get_config();
	found->note->config = found->config;
	if (!found->config || !assent_is_local(found->config, &pair->dst))
		return ASSENT_DROP_UNKNOWN_DESTINATION;
	found->local = 1;
	if (!assent_may_be_known(found->config, pair))
		return ASSENT_DROP_UNKNOWN_SOURCE;
	found->passed = 1;
	found->session = assent_find_session(pair);
	found->note->session = found->session;
	return found->session ? ASSENT_ADMITTED : ASSENT_DROP_UNKNOWN_SOURCE;
}

/* What policy says of a frame, or what becomes of that in an observed session: noted, and on. */
static __always_inline enum assent_reason assent_policy(enum assent_reason reason,
							const struct assent_session *session,
							struct assent_found *note)
{
	if (assent_likely(!reason) || !(session->flags & ASSENT_SESSION_OBSERVED))
		return reason;
	if (!note->observed)
		note->observed = reason;
	return ASSENT_ADMITTED;
}

/*
 * Has the destination agreed to hear from this sender, and nothing to add to that? So it is with
 * nearly every frame, and one comparison says it.
 */
static __always_inline int assent_is_agreed(const struct assent_session *session)
{
	__u32 asked = ASSENT_SESSION_COVENANTED | ASSENT_SESSION_QUARANTINED |
		      ASSENT_SESSION_TERMS | ASSENT_SESSION_LEASED;

	return assent_likely((session->flags & asked) == ASSENT_SESSION_COVENANTED);
}

/* Do the terms let such data in at this time, and does somebody keep the covenant alive? */
static __always_inline enum assent_reason assent_check_terms(const struct assent_session *session,
							     const struct assent_config *config,
							     __u64 now, __u32 payload_len)
{
	__u32 flags = session->flags;

	if (flags & ASSENT_SESSION_TERMS &&
	    (now < session->open_from || (session->open_until && now >= session->open_until)))
		return ASSENT_DROP_OUTSIDE_WINDOW;
	if (flags & ASSENT_SESSION_LEASED && now >= config->lease_until)
		return ASSENT_DROP_LEASE_EXPIRED;
	return flags & ASSENT_SESSION_TERMS && session->payload_limit &&
		       payload_len > session->payload_limit
		   ? ASSENT_DROP_OVERSIZE
		   : ASSENT_ADMITTED;
}

/* Beside a reason that assent_check_covenant() gives: the session is observed, so it is noted. */
#define ASSENT_NOTED 0x100

/*
 * Consent, where assent_is_agreed() does not say it all. Quarantine is no policy under trial: it
 * holds in observed sessions too.
 */
ASSENT_SLOW_PATH __u32 assent_check_covenant(const struct assent_session *session,
					     const struct assent_config *config, int control,
					     __u32 payload_len)
{
	enum assent_reason reason, noted = ASSENT_ADMITTED;
	__u32 flags;

	if (!session || !config)
		return ASSENT_DROP_NO_COVENANT;
	flags = session->flags;
	if (control && flags & ASSENT_SESSION_CONTROL)
		return ASSENT_ADMITTED;
	if (!(flags & ASSENT_SESSION_COVENANTED)) {
		if (!(flags & ASSENT_SESSION_OBSERVED))
			return ASSENT_DROP_NO_COVENANT;
		noted = ASSENT_DROP_NO_COVENANT;
	}
	if (flags & ASSENT_SESSION_QUARANTINED)
		return ASSENT_DROP_QUARANTINED;
	if (!control) {
		reason = assent_check_terms(session, config, assent_now(), payload_len);
		if (reason && !(flags & ASSENT_SESSION_OBSERVED))
			return reason;
		noted = noted ?: reason;
	}
	return noted ? noted | ASSENT_NOTED : ASSENT_ADMITTED;
}

/*
 * Has the destination agreed to hear this? `control`: the frame is of flow 0, as handshakes are.
 * There covenants are made, reviewed and ended, so CONTROL lets it through without one.
 */
static __always_inline enum assent_reason assent_check_consent(const struct assent_session *session,
							       const struct assent_config *config,
							       struct assent_found *note,
							       int control, __u32 payload_len)
{
	__u32 said;

	if (assent_is_agreed(session))
		return ASSENT_ADMITTED;
	said = assent_check_covenant(session, config, control, payload_len);
	if (!(said & ASSENT_NOTED))
		return said;
	note->observed = said & ~ASSENT_NOTED;
	return ASSENT_ADMITTED;
}

static __always_inline enum assent_reason assent_check_tag(const struct assent_session *session,
							   const struct assent_header *h)
{
	if (assent_likely(assent_tag_matches(&session->current, h)))
		return ASSENT_ADMITTED;
	if (session->flags & ASSENT_SESSION_ALTERNATE && assent_tag_matches(&session->alternate, h))
		return ASSENT_ADMITTED;
	return ASSENT_DROP_BAD_TAG;
}

static __always_inline enum assent_reason
assent_check_skew(const struct assent_session *session, const struct assent_header *h, __u64 now)
{
	__u64 expected = now + (__u64)session->clock_offset;
	__u64 limit = (__u64)session->skew_limit * 1000000;
	__u64 ahead = assent_be64(h->timestamp) - expected + limit;

	return !limit || ahead <= 2 * limit ? ASSENT_ADMITTED : ASSENT_DROP_CLOCK_SKEW;
}

/*
 * Handshake frames have no session key, clock or credit yet. Whoever knows the pre-shared key may
 * send them, each newer than the last one admitted (a captured SYN is of no use to anyone), at a
 * bounded rate.
 */
static __always_inline enum assent_reason assent_check_handshake(const struct assent_header *h,
								 struct assent_checked *found)
{
	struct assent_session *session = found->session;

	found->handshake = 1;
	found->newest = ASSENT_READ_ONCE(session->handshake_newest);
	if (!assent_tag_matches(&session->admission, h))
		return ASSENT_DROP_BAD_TAG;
	return assent_be64(h->timestamp) <= found->newest ? ASSENT_DROP_REPLAY : ASSENT_ADMITTED;
}

/* The flow that a frame names, where it is open. */
static __always_inline struct assent_flow *assent_open_flow(const struct assent_session *session,
							    __u32 number)
{
	struct assent_flow *flow;

	if (number >= session->flow_count)
		return 0;
	flow = assent_flow_at(session->flow_base + number);
	return flow && flow->replay_len ? flow : 0;
}

static __always_inline enum assent_reason assent_check_replay(const struct assent_header *h,
							      struct assent_checked *found)
{
	__u32 seq = assent_be32(h->seq);

	found->chunk = assent_replay_chunk_at(assent_replay_chunk_index(found->flow, seq));
	if (!found->chunk)
		return ASSENT_DROP_UNKNOWN_FLOW;
	found->slot = assent_replay_word(found->chunk, seq);
	found->word = ASSENT_READ_ONCE(*found->slot);
	return assent_replay_check(found->flow, found->word, seq);
}

/* A flow that is not open has no replay window: its frames are new if their timestamps rise. */
static __always_inline enum assent_reason assent_check_rising(const struct assent_header *h,
							      struct assent_checked *found)
{
	found->newest = ASSENT_READ_ONCE(found->session->observed_newest);
	return assent_be64(h->timestamp) <= found->newest ? ASSENT_DROP_REPLAY : ASSENT_ADMITTED;
}

static __always_inline enum assent_reason
assent_check_in_session(const struct assent_header *h, __u32 number, struct assent_checked *found)
{
	struct assent_session *session = found->session;
	__u32 payload_len = assent_be16(h->payload_len);
	enum assent_reason reason;

	found->cost = assent_frame_cost(payload_len);
	if (!(session->flags & ASSENT_SESSION_ESTABLISHED))
		return ASSENT_DROP_NO_SESSION;
	found->flow = assent_open_flow(session, number);
	reason = assent_policy(found->flow ? ASSENT_ADMITTED : ASSENT_DROP_UNKNOWN_FLOW, session,
			       found->note);
	if (reason)
		return reason;
	if (assent_unlikely(session->payload_max && number && payload_len > session->payload_max)) {
		reason = assent_policy(ASSENT_DROP_OVERSIZE, session, found->note);
		if (reason)
			return reason;
	}

	reason = assent_check_tag(session, h);
	if (reason)
		return reason;

	if (session->skew_limit || number == 0 || h->flags & assent_be16(ASSENT_FLAG_LAMP) ||
	    session->flags & ASSENT_SESSION_TERMS)
		found->now = assent_now();
	reason = assent_check_skew(session, h, found->now);
	if (reason)
		return reason;

	if (assent_unlikely(!found->flow))
		return assent_check_rising(h, found);
	reason = assent_check_replay(h, found);
	if (reason)
		return reason;
	/* Control frames go to the control plane, which reads or loses them as it can. */
	if (number && !assent_is_open(ASSENT_READ_ONCE(found->flow->rx_open), found->note->ifindex))
		return ASSENT_DROP_NO_ENDPOINT;
	return ASSENT_ADMITTED;
}

/*
 * Every check but that of rate and credit, which the commit asks as it charges them. Writes nothing
 * but `found`.
 */
static __always_inline enum assent_reason assent_check(const struct assent_header *h, __u32 len,
						       struct assent_checked *found,
						       struct assent_found *note)
{
	__u32 flags = assent_be16(h->flags);
	__u32 number = assent_be16(h->flow);
	enum assent_reason reason;

	__builtin_memset(found, 0, sizeof(*found));
	found->note = note;
	reason = assent_check_length(h, len);
	if (reason)
		return reason;
	reason = assent_check_pair(&h->pair, found);
	if (reason)
		return reason;
	reason = assent_check_flags(flags);
	if (reason)
		return reason;
	reason = assent_check_consent(found->session, found->config, found->note, number == 0,
				      assent_be16(h->payload_len));
	if (reason)
		return reason;
	if (assent_is_handshake(number, flags))
		return assent_check_handshake(h, found);
	return assent_check_in_session(h, number, found);
}

static __always_inline int assent_is_lamp(const struct assent_header *h)
{
	return (h->flags & assent_be16(ASSENT_FLAG_LAMP)) != 0;
}

/* Do the terms say how much data there may be in how much time? */
static __always_inline int assent_has_rate(const struct assent_session *session)
{
	return assent_unlikely(session->flags & ASSENT_SESSION_TERMS) &&
	       session->data_interval != 0;
}

static __always_inline enum assent_reason assent_check_rate(const struct assent_checked *found)
{
	const struct assent_session *session = found->session;

	return assent_blocks_check(&session->data_due, found->now, found->cost,
				   session->data_interval, session->data_burst,
				   ASSENT_DROP_OVER_RATE);
}

/* Is there room for a data frame: in the sender's lamp allowance under LAMP, else in its credit? */
static __always_inline enum assent_reason assent_check_room(const struct assent_header *h,
							    const struct assent_checked *found)
{
	const struct assent_config *config = found->config;

	if (assent_is_lamp(h))
		return assent_blocks_check(&found->session->lamp_due, found->now, found->cost,
					   config->lamp_interval, config->lamp_burst,
					   ASSENT_DROP_NO_LAMP);
	return assent_credit_check(found->flow, found->cost);
}

/*
 * What the commit would say of rate and credit if it came now. For those who must not charge: the
 * gate itself goes from the checks to the commit, whose answer is the one that counts.
 */
static __always_inline enum assent_reason assent_afford(const struct assent_header *h,
							struct assent_checked *found)
{
	const struct assent_config *config = found->config;
	struct assent_session *session = found->session;
	enum assent_reason reason = ASSENT_ADMITTED;

	if (!config || !session)
		return ASSENT_DROP_RATE_LIMITED;
	if (found->handshake)
		reason = assent_rate_check(&session->handshake_due, assent_now(),
					   config->handshake_burst);
	else if (!found->flow)
		reason = ASSENT_ADMITTED; /* noted as a flow that is not open */
	else if (assent_be16(h->flow) == 0)
		reason =
		    assent_rate_check(&session->control_due, found->now, config->control_burst);
	else
		reason = (assent_has_rate(session) ? assent_check_rate(found) : ASSENT_ADMITTED)
			     ?: assent_check_room(h, found);
	return assent_policy(reason, session, found->note);
}

/* Takes the place of the newest timestamp; of two frames that hold the same one, one does. */
static __always_inline enum assent_reason assent_commit_rising(const struct assent_header *h,
							       __u64 *newest, __u64 known)
{
	return assent_cmpxchg(newest, known, assent_be64(h->timestamp)) == known
		   ? ASSENT_ADMITTED
		   : ASSENT_DROP_CONTENDED;
}

static __always_inline enum assent_reason assent_commit_handshake(const struct assent_header *h,
								  struct assent_checked *found)
{
	const struct assent_config *config = found->config;
	struct assent_session *session = found->session;
	enum assent_reason reason;

	reason = assent_rate_charge(&session->handshake_due, assent_now(),
				    config->handshake_interval, config->handshake_burst);
	reason = assent_policy(reason, session, found->note);
	if (reason)
		return reason;
	return assent_commit_rising(h, &session->handshake_newest, found->newest);
}

static __always_inline enum assent_reason assent_commit_control(const struct assent_header *h,
								struct assent_checked *found)
{
	const struct assent_config *config = found->config;
	struct assent_session *session = found->session;
	enum assent_reason reason;

	reason = assent_rate_charge(&session->control_due, found->now, config->control_interval,
				    config->control_burst);
	reason = assent_policy(reason, session, found->note);
	if (reason)
		return reason;
	return assent_replay_commit(found->flow, found->slot, found->word, assent_be32(h->seq));
}

/*
 * The rate in the terms. What there is no room for is refused for that before it is charged: `room`
 * is what is said of it.
 */
ASSENT_SLOW_PATH enum assent_reason assent_charge_rate(struct assent_session *session, __u64 now,
						       __u32 cost, enum assent_reason room)
{
	enum assent_reason reason;

	if (!session)
		return ASSENT_DROP_OVER_RATE;
	reason = assent_blocks_check(&session->data_due, now, cost, session->data_interval,
				     session->data_burst, ASSENT_DROP_OVER_RATE);
	if (reason || room)
		return reason ?: room;
	return assent_blocks_charge(&session->data_due, now, cost, session->data_interval,
				    session->data_burst, ASSENT_DROP_OVER_RATE);
}

/* A data frame's room: from the sender's lamp allowance under LAMP, else from its credit. */
static __always_inline enum assent_reason assent_charge_room(const struct assent_header *h,
							     struct assent_checked *found)
{
	const struct assent_config *config = found->config;

	if (assent_unlikely(assent_is_lamp(h)))
		return assent_blocks_charge(&found->session->lamp_due, found->now, found->cost,
					    config->lamp_interval, config->lamp_burst,
					    ASSENT_DROP_NO_LAMP);
	return assent_credit_charge(found->flow, found->cost);
}

static __always_inline enum assent_reason assent_commit_data(const struct assent_header *h,
							     struct assent_checked *found)
{
	struct assent_flow *flow = found->flow;
	enum assent_reason charged, reason;
	__u64 granted;

	if (assent_has_rate(found->session)) {
		reason = assent_charge_rate(found->session, found->now, found->cost,
					    assent_check_room(h, found));
		reason = assent_policy(reason, found->session, found->note);
		if (reason)
			return reason;
	}
	charged = assent_charge_room(h, found);
	reason = assent_policy(charged, found->session, found->note);
	if (reason)
		return reason;
	reason = assent_replay_commit(flow, found->slot, found->word, assent_be32(h->seq));
	if (assent_unlikely(reason)) {
		/* A rate and a lamp's allowance come back by themselves. */
		if (!charged && !assent_is_lamp(h))
			assent_credit_refund(flow, found->cost);
		return reason;
	}
	granted = assent_grant_read(ASSENT_READ_ONCE(flow->tx_granted), assent_be16(h->grant),
				    flow->grant_shift);
	assent_counter_raise(&flow->tx_granted, granted);
	return ASSENT_ADMITTED;
}

/*
 * The checks are done: charge the frame, mark its number, take in the grant that it carries. Only
 * after assent_check() has admitted the same frame.
 */
static __always_inline enum assent_reason assent_commit(const struct assent_header *h,
							struct assent_checked *found)
{
	if (found->handshake)
		return assent_commit_handshake(h, found);
	if (assent_unlikely(!found->flow))
		return assent_commit_rising(h, &found->session->observed_newest, found->newest);
	if (assent_be16(h->flow) == 0)
		return assent_commit_control(h, found);
	return assent_commit_data(h, found);
}

static __always_inline enum assent_reason assent_verdict(const struct assent_header *h, __u32 len,
							 struct assent_found *note)
{
	struct assent_checked found;
	enum assent_reason reason;

	reason = assent_check(h, len, &found, note);
	if (reason)
		return reason;
	reason = assent_commit(h, &found);
	if (reason)
		return reason;
	note->flow = assent_be16(h->flow);
	note->bound = note->flow && found.flow &&
		      assent_open_kind(ASSENT_READ_ONCE(found.flow->rx_open)) == ASSENT_TO_RING;
	return ASSENT_ADMITTED;
}

static __always_inline enum assent_reason assent_check_bare_form(const struct assent_bare *bare,
								 __u32 len)
{
	__u32 needed = ASSENT_BARE_LEN + assent_be16(bare->payload_len);

	if (len != needed && !(len == ASSENT_ETH_LEAST_PAYLOAD && needed < len))
		return ASSENT_DROP_MALFORMED_LENGTH;
	return assent_be16(bare->flags) & ~(__u32)ASSENT_BARE_FLAGS ? ASSENT_DROP_MALFORMED_FLAGS
								    : ASSENT_ADMITTED;
}

/*
 * A frame without BLOCK. Where its sender's entry does not allow it, that is all there is to say;
 * where it does, the frame is bounded in rate and admitted once, as far as a number that anybody
 * could write says so. It never touches a session's own books.
 */
static __always_inline enum assent_reason assent_check_bare(const struct assent_bare *bare,
							    __u32 len, struct assent_checked *found,
							    struct assent_found *note)
{
	__u32 seq = assent_be32(bare->seq);
	enum assent_reason reason;

	__builtin_memset(found, 0, sizeof(*found));
	found->note = note;
	reason = assent_check_pair(&bare->pair, found);
	if (reason)
		return reason;
	if (!(found->session->flags & ASSENT_SESSION_BARE))
		return ASSENT_DROP_BARE_FRAME;
	reason = assent_check_bare_form(bare, len);
	if (reason)
		return reason;
	reason = assent_check_consent(found->session, found->config, found->note, 0,
				      assent_be16(bare->payload_len));
	if (reason)
		return reason;
	found->now = assent_now();
	found->word = ASSENT_READ_ONCE(found->session->bare_seen);
	return assent_replay_mark(found->word, seq) == found->word ? ASSENT_DROP_REPLAY
								   : ASSENT_ADMITTED;
}

static __always_inline enum assent_reason assent_commit_bare(const struct assent_bare *bare,
							     struct assent_checked *found)
{
	const struct assent_config *config = found->config;
	struct assent_session *session = found->session;
	__u64 marked = assent_replay_mark(found->word, assent_be32(bare->seq));
	enum assent_reason reason;

	reason = assent_rate_charge(&session->bare_due, found->now, config->control_interval,
				    config->control_burst);
	reason = assent_policy(reason, session, found->note);
	if (reason)
		return reason;
	return assent_cmpxchg(&session->bare_seen, found->word, marked) == found->word
		   ? ASSENT_ADMITTED
		   : ASSENT_DROP_CONTENDED;
}

static __always_inline enum assent_reason assent_verdict_bare(const struct assent_bare *bare,
							      __u32 len, struct assent_found *note)
{
	struct assent_checked found;
	enum assent_reason reason;

	reason = assent_check_bare(bare, len, &found, note);
	return reason ? reason : assent_commit_bare(bare, &found);
}

/* The header at `start`, whichever of the two it is. */
static __always_inline enum assent_reason assent_judge(const void *start, const void *end,
						       struct assent_found *note)
{
	const struct assent_bare *bare = start;
	const struct assent_header *h = start;

	if ((const void *)(bare + 1) > end)
		return ASSENT_DROP_MALFORMED_LENGTH;
	if (assent_unlikely(!(bare->flags & assent_be16(ASSENT_FLAG_BLOCK))))
		return assent_verdict_bare(bare, (__u32)(end - start), note);
	if ((const void *)(h + 1) > end)
		return ASSENT_DROP_MALFORMED_LENGTH;
	return assent_verdict(h, (__u32)(end - start), note);
}

#endif /* ASSENT_VERDICT_H */
