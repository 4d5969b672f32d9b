/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Every verdict there is. This enum is the only list: the API, the CLI, events and docs take names
 * and numbers from it through BTF. A number, once released, keeps its meaning: add at the end.
 *
 * What is not called DROP is let through. REPLAY says both "seen before" and "older than the
 * window": in either case the receiver cannot know that it has not seen the frame.
 */
#ifndef ASSENT_REASON_H
#define ASSENT_REASON_H

enum assent_reason {
	ASSENT_ADMITTED = 0,
	ASSENT_DROP_MALFORMED_LENGTH,    /* shorter or longer than its header says */
	ASSENT_DROP_UNKNOWN_DESTINATION, /* not a cell of this host */
	ASSENT_DROP_UNKNOWN_SOURCE,      /* the destination does not know this sender */
	ASSENT_DROP_BARE_FRAME,          /* a 40-byte UTCP frame, which carries no tag */
	ASSENT_DROP_MALFORMED_FLAGS,     /* flag bits or combinations that mean nothing */
	ASSENT_DROP_NO_SESSION,          /* a known sender, but no handshake has been completed */
	ASSENT_DROP_NO_COVENANT,   /* a known sender that the destination has not agreed to hear */
	ASSENT_DROP_QUARANTINED,   /* a sender whose consent is suspended */
	ASSENT_DROP_UNKNOWN_FLOW,  /* a flow that was never opened */
	ASSENT_DROP_BAD_TAG,       /* not made by the holder of the header key */
	ASSENT_DROP_CLOCK_SKEW,    /* its timestamp is too far from the sender's known clock */
	ASSENT_DROP_REPLAY,        /* seen before, or older than the replay window */
	ASSENT_DROP_NO_ENDPOINT,   /* nobody has the flow open: what is admitted must be taken */
	ASSENT_DROP_RATE_LIMITED,  /* too many control frames in too little time */
	ASSENT_DROP_NO_CREDIT,     /* more than the destination has reserved room for */
	ASSENT_DROP_CONTENDED,     /* lost a race too often to be sure: refused, nothing changed */
	ASSENT_DROP_OVERSIZE,      /* a larger payload than the destination agreed to */
	ASSENT_DROP_NO_LAMP,       /* more unpaid frames than the sender's lamp allowance */
	ASSENT_DROP_STACKED_VLAN,  /* a fabric frame under more than one VLAN tag */
	ASSENT_DROP_NOT_LOCAL,     /* leaving: its source is not a cell of this host */
	ASSENT_RELAYED,            /* an LWF frame, sent on to its next hop */
	ASSENT_DROP_LWF_MALFORMED, /* not an LWF frame, or not of a version that is known */
	ASSENT_DROP_LWF_UNKNOWN_HINT,  /* no next hop for its destination */
	ASSENT_DROP_LWF_NOT_RELAYABLE, /* its sender does not want it relayed */
	ASSENT_DROP_LWF_LOOP,          /* came by here before */
	ASSENT_DROP_LWF_UNAUTHORIZED,  /* would register a source that nobody has allowed to */
	ASSENT_DROP_OVER_RATE, /* more data in too little time than its covenant's terms allow */
	ASSENT_DROP_OUTSIDE_WINDOW, /* data at a time that its covenant's terms leave out */
	ASSENT_DROP_LEASE_EXPIRED,  /* data under a covenant that nobody has kept alive */
	ASSENT_REASON_COUNT,
};

#endif /* ASSENT_REASON_H */
