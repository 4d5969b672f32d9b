/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The verdict on one departing fabric frame, and what is stamped on it.
 *
 * A frame without a tag (0) asks to be stamped: whoever sent it through the kernel's stack knows
 * whom it speaks to, and the books are kept here. A frame with a tag was made, and charged, by the
 * endpoint library or the daemon, which share the books; it is held to its tag and left as it is.
 *
 * What one may not hear now, one does not answer: consent, the window in its terms and its lease
 * hold for what leaves too, and CONTROL lets flow 0 go. Payload limit and rate bound what the peer
 * sends, and are asked of that alone.
 *
 * As in verdict.h, assent_departure_check() only looks and assent_departure_commit() only follows
 * it: nothing is written, neither in the books nor in the frame, before every check has passed. In
 * an observed session policy is noted and goes on. The includer supplies what verdict.h asks for,
 * and
 *
 *   __u64 assent_wall_clock(void);     ns of TAI, where the host keeps it
 */
#ifndef ASSENT_DEPARTURE_H
#define ASSENT_DEPARTURE_H

#include "verdict.h"

#define ASSENT_DEPARTURE_TRIES 8
/* What a stamp may change lies in one piece at the end of the header. */
#define ASSENT_STAMP_OFFSET 36
#define ASSENT_STAMP_LEN (ASSENT_HEADER_LEN - ASSENT_STAMP_OFFSET)

static __always_inline __u64 assent_wall_clock(void);

/* What the checks found, for the commit. What a frame was refused before is NULL. */
struct assent_departing {
	const struct assent_config *config;
	struct assent_session *session;
	struct assent_flow *flow; /* NULL for all but frames to be stamped on an open flow */
	__u32 cost;               /* blocks */
	struct assent_found note;
	int handshake;
	int unstamped; /* it asks for a stamp */
};

/* Whose frame is it, and is its receiver known? The entry is that of the other direction. */
static __always_inline enum assent_reason assent_departure_pair(const struct assent_pair *pair,
								struct assent_departing *found)
{
	struct assent_pair key = {.src = pair->dst, .dst = pair->src};

	found->config = assent_get_config();
	if (!found->config || !assent_is_local(found->config, &key.dst))
		return ASSENT_DROP_NOT_LOCAL;
	found->session = assent_find_session(&key);
	return found->session ? ASSENT_ADMITTED : ASSENT_DROP_NO_SESSION;
}

/* No hash has an all-zero state after a key: this is an entry that was given none. */
static __always_inline int assent_has_key(const struct assent_sip *state)
{
	return (state->v0 | state->v1 | state->v2 | state->v3) != 0;
}

/* The key under which a frame leaves; NULL where there is none yet. */
static __always_inline const struct assent_sip *
assent_departure_key(const struct assent_departing *found)
{
	const struct assent_session *session = found->session;
	const struct assent_sip *state = &session->departing;

	if (found->handshake)
		state = &session->departing_admission;
	else if (!(session->flags & ASSENT_SESSION_ESTABLISHED))
		return 0;
	return assent_has_key(state) ? state : 0;
}

/* Is there room at the receiver? Writes nothing. */
static __always_inline enum assent_reason assent_departure_afford(const struct assent_flow *flow,
								  __u32 cost)
{
	__u64 spent = ASSENT_READ_ONCE(flow->tx_spent);
	__u64 granted = ASSENT_READ_ONCE(flow->tx_granted);

	return granted > spent && granted - spent >= cost ? ASSENT_ADMITTED : ASSENT_DROP_NO_CREDIT;
}

/* A sequence number that was sent before has been paid for. */
static __always_inline int assent_departure_is_first(const struct assent_flow *flow, __u32 seq)
{
	return (__s32)(seq - ASSENT_READ_ONCE(flow->tx_seq)) > 0;
}

/* Control frames cost nothing, and lamps are charged to the sender's allowance at the receiver. */
static __always_inline int assent_departure_is_charged(const struct assent_header *h)
{
	return h->flow != 0 && !assent_is_lamp(h);
}

/* Every check but that of credit, which the commit asks as it charges. Writes only `found`. */
static __always_inline enum assent_reason
assent_departure_check(const struct assent_header *h, __u32 len, struct assent_departing *found)
{
	__u32 flags = assent_be16(h->flags);
	__u32 number = assent_be16(h->flow);
	const struct assent_sip *key;
	enum assent_reason reason;

	__builtin_memset(found, 0, sizeof(*found));
	reason = assent_check_length(h, len);
	if (reason)
		return reason;
	reason = assent_departure_pair(&h->pair, found);
	if (reason)
		return reason;
	reason = assent_check_flags(flags);
	if (reason)
		return reason;
	reason = assent_check_consent(found->session, found->config, &found->note, number == 0, 0);
	if (reason)
		return reason;
	found->handshake = assent_is_handshake(number, flags);
	key = assent_departure_key(found);
	if (!key)
		return ASSENT_DROP_NO_SESSION;
	if (assent_likely(h->tag))
		return assent_tag_matches(key, h) ? ASSENT_ADMITTED : ASSENT_DROP_BAD_TAG;
	found->unstamped = 1;
	if (found->handshake)
		return ASSENT_ADMITTED;
	found->cost = assent_frame_cost(assent_be16(h->payload_len));
	found->flow = assent_open_flow(found->session, number);
	return assent_policy(found->flow ? ASSENT_ADMITTED : ASSENT_DROP_UNKNOWN_FLOW,
			     found->session, &found->note);
}

/* Spend it. tx_spent never passes tx_granted, however many CPUs charge at once. */
static __always_inline enum assent_reason assent_departure_charge(struct assent_flow *flow,
								  __u32 cost)
{
	__u64 spent = ASSENT_READ_ONCE(flow->tx_spent);

	for (int i = 0; i < ASSENT_DEPARTURE_TRIES; i++) {
		__u64 granted = ASSENT_READ_ONCE(flow->tx_granted);
		__u64 found;

		if (granted < spent || granted - spent < cost)
			return ASSENT_DROP_NO_CREDIT;
		found = assent_cmpxchg(&flow->tx_spent, spent, spent + cost);
		if (assent_likely(found == spent))
			return ASSENT_ADMITTED;
		spent = found;
	}
	return ASSENT_DROP_CONTENDED;
}

enum assent_advance {
	ASSENT_ADVANCED,       /* this frame is the first one of its number */
	ASSENT_OVERTAKEN,      /* as far as one can see, it is: a later number went first */
	ASSENT_SENT_MEANWHILE, /* another CPU sent the same number */
	ASSENT_ADVANCE_CONTENDED,
};

/* tx_seq only ever rises. */
static __always_inline enum assent_advance assent_departure_advance(struct assent_flow *flow,
								    __u32 seq)
{
	__u32 last = ASSENT_READ_ONCE(flow->tx_seq);

	for (int i = 0; i < ASSENT_DEPARTURE_TRIES; i++) {
		__u32 found;

		if (last == seq)
			return ASSENT_SENT_MEANWHILE;
		if ((__s32)(seq - last) < 0)
			return ASSENT_OVERTAKEN;
		found = assent_cmpxchg(&flow->tx_seq, last, seq);
		if (assent_likely(found == last))
			return ASSENT_ADVANCED;
		last = found;
	}
	return ASSENT_ADVANCE_CONTENDED;
}

/* The books of a frame to be stamped: credit is charged once per sequence number. */
static __always_inline enum assent_reason assent_departure_book(const struct assent_header *h,
								struct assent_departing *found)
{
	struct assent_flow *flow = found->flow;
	__u32 seq = assent_be32(h->seq);
	enum assent_advance advance;
	enum assent_reason reason;
	int charged = 0;

	if (!assent_departure_is_first(flow, seq))
		return ASSENT_ADMITTED;
	if (assent_departure_is_charged(h)) {
		reason = assent_departure_charge(flow, found->cost);
		charged = !reason;
		reason = assent_policy(reason, found->session, &found->note);
		if (reason)
			return reason;
	}
	advance = assent_departure_advance(flow, seq);
	if (charged && advance >= ASSENT_SENT_MEANWHILE)
		assent_atomic_add(&flow->tx_spent, (__u64)0 - found->cost);
	return advance == ASSENT_ADVANCE_CONTENDED ? ASSENT_DROP_CONTENDED : ASSENT_ADMITTED;
}

/* A sequence number of the other direction that its endpoint waits for, and that others have
 * overtaken; 0 where there is none. */
static __always_inline __u32 assent_departure_missing(const struct assent_flow *flow)
{
	__u32 next = ASSENT_READ_ONCE(flow->rx_next);
	struct assent_replay_chunk *chunk;
	__u64 word;

	if (!next || (__s32)(ASSENT_READ_ONCE(flow->rx_highest) - next) < 0)
		return 0;
	chunk = assent_replay_chunk_at(assent_replay_chunk_index(flow, next));
	if (!chunk)
		return 0;
	word = ASSENT_READ_ONCE(*assent_replay_word(chunk, next));
	return assent_replay_mark(word, next) != word ? next : 0;
}

/* What the kernel says on a sender's behalf; `out` is a copy of the header. The tag comes last. */
static __always_inline void assent_departure_stamp(struct assent_header *out,
						   const struct assent_departing *found)
{
	const struct assent_flow *flow = found->flow;
	const struct assent_sip *key =
	    found->handshake ? &found->session->departing_admission : &found->session->departing;
	__u32 missing = 0;

	out->grant = 0;
	if (flow) {
		missing = assent_departure_missing(flow);
		out->grant = assent_be16(
		    assent_grant_field(ASSENT_READ_ONCE(flow->rx_granted), flow->grant_shift));
	}
	out->flags &= assent_be16((__u16)~ASSENT_FLAG_NACK);
	if (missing)
		out->flags |= assent_be16(ASSENT_FLAG_NACK);
	out->nack_slot = assent_be32(missing);
	out->timestamp = assent_be64(assent_wall_clock());
	out->tag = assent_le64(assent_header_tag(key, out));
}

/*
 * The checks are done: charge the frame, and stamp the copy of its header where it asks for that.
 * Only after assent_departure_check() has admitted the same frame.
 */
static __always_inline enum assent_reason assent_departure_commit(struct assent_header *out,
								  struct assent_departing *found)
{
	enum assent_reason reason;

	if (!found->unstamped)
		return ASSENT_ADMITTED;
	if (found->flow) {
		reason = assent_departure_book(out, found);
		if (reason)
			return reason;
	}
	assent_departure_stamp(out, found);
	return ASSENT_ADMITTED;
}

/* A frame without BLOCK: it carries no tag and costs nothing; it leaves where bare frames are
 * spoken. */
static __always_inline enum assent_reason
assent_departure_check_bare(const struct assent_bare *bare, __u32 len,
			    struct assent_departing *found)
{
	enum assent_reason reason;

	__builtin_memset(found, 0, sizeof(*found));
	reason = assent_departure_pair(&bare->pair, found);
	if (reason)
		return reason;
	if (!(found->session->flags & ASSENT_SESSION_BARE))
		return ASSENT_DROP_BARE_FRAME;
	reason = assent_check_bare_form(bare, len);
	if (reason)
		return reason;
	return assent_check_consent(found->session, found->config, &found->note, 0, 0);
}

#endif /* ASSENT_DEPARTURE_H */
