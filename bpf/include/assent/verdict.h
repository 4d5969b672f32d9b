/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The verdict on one arriving fabric frame.
 *
 * Stages run cheapest first, and nothing is written before every check has passed; then the frame
 * is charged and marked, and only then delivered. A stage returns ASSENT_ADMITTED to go on, or the
 * reason why the frame is refused. assent_check() only looks, assent_commit() only follows it, and
 * assent_verdict() is the one after the other.
 *
 * The includer supplies the tables and the clock, each a static inline function:
 *
 *   const struct assent_local *assent_find_local(const struct assent_cellid *cell);
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

#include "credit.h"
#include "rate.h"
#include "reason.h"
#include "replay.h"
#include "tables.h"
#include "tag.h"
#include "wire.h"

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell);
static __always_inline struct assent_session *assent_find_session(const struct assent_pair *pair);
static __always_inline struct assent_flow *assent_flow_at(__u32 slot);
static __always_inline struct assent_replay_chunk *assent_replay_chunk_at(__u32 index);
static __always_inline const struct assent_config *assent_get_config(void);
static __always_inline __u64 assent_now(void);

/* What a verdict found on its way, for events and delivery. */
struct assent_found {
	__u32 session_id;
	__u32 flow;
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
	if (!(flags & ASSENT_FLAG_BLOCK))
		return ASSENT_DROP_BARE_FRAME;
	return flags & ~(__u32)ASSENT_FLAGS_KNOWN ? ASSENT_DROP_MALFORMED_FLAGS : ASSENT_ADMITTED;
}

/* Has the destination agreed to hear from this sender, and not suspended that? */
static __always_inline enum assent_reason assent_check_consent(__u32 session_flags)
{
	if (!(session_flags & ASSENT_SESSION_COVENANTED))
		return ASSENT_DROP_NO_COVENANT;
	if (session_flags & ASSENT_SESSION_QUARANTINED)
		return ASSENT_DROP_QUARANTINED;
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
	__u64 ahead = assent_be64(h->timestamp) - expected + session->skew_limit;

	if (!session->skew_limit || ahead <= 2 * session->skew_limit)
		return ASSENT_ADMITTED;
	return ASSENT_DROP_CLOCK_SKEW;
}

/*
 * What the checks found, for the commit. Filled as far as they got: what a frame was refused before
 * is NULL. `local`, `chunk` and `word` serve explanations too; where nobody reads a field, the
 * compiler leaves it out, so the gate does not pay for it.
 */
struct assent_checked {
	const struct assent_local *local;
	struct assent_session *session;
	struct assent_flow *flow; /* NULL for handshake frames */
	struct assent_replay_chunk *chunk;
	__u64 *slot;  /* of the replay word in `chunk` */
	__u64 word;   /* as it was */
	__u64 newest; /* of the session's handshake frames, as it was */
	__u64 now;    /* 0 where no check has needed the time */
	__u32 cost;   /* blocks */
	int handshake;
};

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

static __always_inline enum assent_reason
assent_check_in_session(const struct assent_header *h, __u32 number, struct assent_checked *found)
{
	struct assent_session *session = found->session;
	__u32 seq = assent_be32(h->seq);
	struct assent_replay_chunk *chunk;
	struct assent_flow *flow;
	enum assent_reason reason;

	found->cost = assent_frame_cost(assent_be16(h->payload_len));
	if (!(session->flags & ASSENT_SESSION_ESTABLISHED))
		return ASSENT_DROP_NO_SESSION;
	if (number >= session->flow_count)
		return ASSENT_DROP_UNKNOWN_FLOW;
	flow = assent_flow_at(session->flow_base + number);
	if (!flow || !flow->replay_len)
		return ASSENT_DROP_UNKNOWN_FLOW;
	found->flow = flow;

	reason = assent_check_tag(session, h);
	if (reason)
		return reason;

	if (session->skew_limit || number == 0)
		found->now = assent_now();
	reason = assent_check_skew(session, h, found->now);
	if (reason)
		return reason;

	chunk = assent_replay_chunk_at(assent_replay_chunk_index(flow, seq));
	if (!chunk)
		return ASSENT_DROP_UNKNOWN_FLOW;
	found->chunk = chunk;
	found->slot = assent_replay_word(chunk, seq);
	found->word = ASSENT_READ_ONCE(*found->slot);
	reason = assent_replay_check(flow, found->word, seq);
	if (reason)
		return reason;
	/* Control frames go to the control plane, which reads or loses them as it can. */
	if (number && !ASSENT_READ_ONCE(flow->rx_open))
		return ASSENT_DROP_NO_ENDPOINT;
	return ASSENT_ADMITTED;
}

/*
 * Every check but that of rate and credit, which the commit asks as it charges them. Writes nothing
 * but `found`.
 */
static __always_inline enum assent_reason assent_check(const struct assent_header *h, __u32 len,
						       struct assent_checked *found)
{
	__u32 flags = assent_be16(h->flags);
	__u32 number = assent_be16(h->flow);
	enum assent_reason reason;

	__builtin_memset(found, 0, sizeof(*found));
	reason = assent_check_length(h, len);
	if (reason)
		return reason;
	found->local = assent_find_local(&h->pair.dst);
	if (!found->local)
		return ASSENT_DROP_UNKNOWN_DESTINATION;
	found->session = assent_find_session(&h->pair);
	if (!found->session)
		return ASSENT_DROP_UNKNOWN_SOURCE;
	reason = assent_check_flags(flags);
	if (reason)
		return reason;
	reason = assent_check_consent(found->session->flags);
	if (reason)
		return reason;
	if (assent_is_handshake(number, flags))
		return assent_check_handshake(h, found);
	return assent_check_in_session(h, number, found);
}

/*
 * What the commit would say of rate and credit if it came now. For those who must not charge: the
 * gate itself goes from the checks to the commit, whose answer is the one that counts.
 */
static __always_inline enum assent_reason assent_afford(const struct assent_header *h,
							const struct assent_checked *found)
{
	const struct assent_config *config;

	/* Asked by the pointer, which a handshake leaves empty: the verifier of 6.1 follows no
	 * other way. */
	if (found->flow && assent_be16(h->flow) != 0)
		return assent_credit_check(found->flow, found->cost);
	config = assent_get_config();
	if (!config)
		return ASSENT_DROP_RATE_LIMITED;
	if (found->handshake)
		return assent_rate_check(&found->session->handshake_due, assent_now(),
					 config->handshake_burst);
	return assent_rate_check(&found->session->control_due, found->now, config->control_burst);
}

static __always_inline enum assent_reason
assent_commit_handshake(const struct assent_header *h, const struct assent_checked *found)
{
	const struct assent_config *config = assent_get_config();
	struct assent_session *session = found->session;
	enum assent_reason reason;

	if (!config)
		return ASSENT_DROP_RATE_LIMITED;
	reason = assent_rate_charge(&session->handshake_due, assent_now(),
				    config->handshake_interval, config->handshake_burst);
	if (reason)
		return reason;
	if (assent_cmpxchg(&session->handshake_newest, found->newest, assent_be64(h->timestamp)) !=
	    found->newest)
		return ASSENT_DROP_CONTENDED;
	return ASSENT_ADMITTED;
}

static __always_inline enum assent_reason assent_commit_control(const struct assent_header *h,
								const struct assent_checked *found)
{
	const struct assent_config *config = assent_get_config();
	enum assent_reason reason;

	if (!config)
		return ASSENT_DROP_RATE_LIMITED;
	reason = assent_rate_charge(&found->session->control_due, found->now,
				    config->control_interval, config->control_burst);
	if (reason)
		return reason;
	return assent_replay_commit(found->flow, found->slot, found->word, assent_be32(h->seq));
}

static __always_inline enum assent_reason assent_commit_data(const struct assent_header *h,
							     const struct assent_checked *found)
{
	struct assent_flow *flow = found->flow;
	enum assent_reason reason;
	__u64 granted;

	reason = assent_credit_charge(flow, found->cost);
	if (reason)
		return reason;
	reason = assent_replay_commit(flow, found->slot, found->word, assent_be32(h->seq));
	if (assent_unlikely(reason)) {
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
							const struct assent_checked *found)
{
	if (found->handshake)
		return assent_commit_handshake(h, found);
	if (assent_be16(h->flow) == 0)
		return assent_commit_control(h, found);
	return assent_commit_data(h, found);
}

static __always_inline enum assent_reason assent_verdict(const struct assent_header *h, __u32 len,
							 struct assent_found *found)
{
	struct assent_checked checked;
	enum assent_reason reason;

	reason = assent_check(h, len, &checked);
	found->session_id = checked.session ? checked.session->session_id : 0;
	found->flow = assent_be16(h->flow);
	return reason ? reason : assent_commit(h, &checked);
}

#endif /* ASSENT_VERDICT_H */
