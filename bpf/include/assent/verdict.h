/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The verdict on one arriving fabric frame.
 *
 * Stages run cheapest first, and nothing is written before every check has passed; then the frame
 * is charged and marked, and only then delivered. A stage returns ASSENT_ADMITTED to go on, or the
 * reason why the frame is refused.
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
 * Handshake frames have no session key, clock or credit yet. Whoever knows the pre-shared key may
 * send them, each newer than the last one admitted (a captured SYN is of no use to anyone), at a
 * bounded rate.
 */
static __always_inline enum assent_reason assent_admit_handshake(struct assent_session *session,
								 const struct assent_header *h)
{
	const struct assent_config *config = assent_get_config();
	__u64 newest = ASSENT_READ_ONCE(session->handshake_newest);
	__u64 timestamp = assent_be64(h->timestamp);
	enum assent_reason reason;

	if (!assent_tag_matches(&session->admission, h))
		return ASSENT_DROP_BAD_TAG;
	if (timestamp <= newest)
		return ASSENT_DROP_REPLAY;
	if (!config)
		return ASSENT_DROP_RATE_LIMITED;
	reason = assent_rate_charge(&session->handshake_due, assent_now(),
				    config->handshake_interval, config->handshake_burst);
	if (reason)
		return reason;
	if (assent_cmpxchg(&session->handshake_newest, newest, timestamp) != newest)
		return ASSENT_DROP_CONTENDED;
	return ASSENT_ADMITTED;
}

/* The checks are done: charge the frame, mark its number, take in the grant that it carries. */
static __always_inline enum assent_reason assent_commit(struct assent_session *session,
							struct assent_flow *flow, __u64 *slot,
							__u64 word, const struct assent_header *h,
							__u32 number, __u32 cost, __u64 now)
{
	__u32 seq = assent_be32(h->seq);
	enum assent_reason reason;
	__u64 granted;

	if (number == 0) {
		const struct assent_config *config = assent_get_config();

		if (!config)
			return ASSENT_DROP_RATE_LIMITED;
		reason = assent_rate_charge(&session->control_due, now, config->control_interval,
					    config->control_burst);
		return reason ? reason : assent_replay_commit(flow, slot, word, seq);
	}

	reason = assent_credit_charge(flow, cost);
	if (reason)
		return reason;
	reason = assent_replay_commit(flow, slot, word, seq);
	if (assent_unlikely(reason)) {
		assent_credit_refund(flow, cost);
		return reason;
	}
	granted = assent_grant_read(ASSENT_READ_ONCE(flow->tx_granted), assent_be16(h->grant),
				    flow->grant_shift);
	assent_counter_raise(&flow->tx_granted, granted);
	return ASSENT_ADMITTED;
}

static __always_inline enum assent_reason
assent_admit_in_session(struct assent_session *session, const struct assent_header *h, __u32 number)
{
	__u32 seq = assent_be32(h->seq);
	__u32 cost = assent_frame_cost(assent_be16(h->payload_len));
	struct assent_replay_chunk *chunk;
	struct assent_flow *flow;
	enum assent_reason reason;
	__u64 now = 0;
	__u64 *slot;
	__u64 word;

	if (!(session->flags & ASSENT_SESSION_ESTABLISHED))
		return ASSENT_DROP_NO_SESSION;
	if (number >= session->flow_count)
		return ASSENT_DROP_UNKNOWN_FLOW;
	flow = assent_flow_at(session->flow_base + number);
	if (!flow || !flow->replay_len)
		return ASSENT_DROP_UNKNOWN_FLOW;

	reason = assent_check_tag(session, h);
	if (reason)
		return reason;

	if (session->skew_limit || number == 0)
		now = assent_now();
	reason = assent_check_skew(session, h, now);
	if (reason)
		return reason;

	chunk = assent_replay_chunk_at(assent_replay_chunk_index(flow, seq));
	if (!chunk)
		return ASSENT_DROP_UNKNOWN_FLOW;
	slot = assent_replay_word(chunk, seq);
	word = ASSENT_READ_ONCE(*slot);
	reason = assent_replay_check(flow, word, seq);
	if (reason)
		return reason;
	/* Control frames go to the control plane, which reads or loses them as it can. */
	if (number && !ASSENT_READ_ONCE(flow->rx_open))
		return ASSENT_DROP_NO_ENDPOINT;

	return assent_commit(session, flow, slot, word, h, number, cost, now);
}

static __always_inline enum assent_reason assent_verdict(const struct assent_header *h, __u32 len,
							 struct assent_found *found)
{
	__u32 flags = assent_be16(h->flags);
	struct assent_session *session;
	enum assent_reason reason;

	found->session_id = 0;
	found->flow = assent_be16(h->flow);

	reason = assent_check_length(h, len);
	if (reason)
		return reason;
	if (!assent_find_local(&h->pair.dst))
		return ASSENT_DROP_UNKNOWN_DESTINATION;
	session = assent_find_session(&h->pair);
	if (!session)
		return ASSENT_DROP_UNKNOWN_SOURCE;
	found->session_id = session->session_id;
	reason = assent_check_flags(flags);
	if (reason)
		return reason;
	reason = assent_check_consent(session->flags);
	if (reason)
		return reason;
	if (assent_is_handshake(found->flow, flags))
		return assent_admit_handshake(session, h);
	return assent_admit_in_session(session, h, found->flow);
}

#endif /* ASSENT_VERDICT_H */
