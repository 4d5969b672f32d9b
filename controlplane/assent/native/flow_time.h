/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The round trip as one end sees it, and the intervals that follow from it. Times are in ns.
 *
 * What is measured is answered at once: asking for a number, until it comes, and a probe, until its
 * receipt. A receipt of data may wait for its reader, so it is believed only where it is shorter
 * than what was known. A sample may be too long, for something was lost in between, but never too
 * short; so a shorter one counts for more.
 */
#ifndef AN_FLOW_TIME_H
#define AN_FLOW_TIME_H

#include <stdint.h>

#define AN_MICROSECOND 1000ULL
#define AN_MILLISECOND 1000000ULL
#define AN_SECOND 1000000000ULL
#define AN_RTT_UNKNOWN AN_MILLISECOND       /* until it is measured */
#define AN_RTT_LEAST AN_MICROSECOND         /* shorter ones are the clock's grain */
#define AN_ASK_LEAST (100 * AN_MICROSECOND) /* between two asks */
#define AN_ASK_COPIES 3
#define AN_ASK_SLOWER 2 /* rounds of asks with no answer after which they are half as many */
#define AN_PROBE_LEAST (2 * AN_MILLISECOND)
#define AN_RECOVERY_LEAST (20 * AN_MILLISECOND)
#define AN_SILENCE_LIMIT (30 * AN_SECOND)      /* the seed's */
#define AN_PACE_INTERVAL (10 * AN_MILLISECOND) /* between two grants to one held to a rate */
#define AN_PACE_INTERVAL_MAX AN_SECOND  /* the same, of a rate so low that little comes together */
#define AN_PATIENCE_MAX (4 * AN_SECOND) /* that a slow peer may take, and is not asked */
#define AN_IDLE AN_SECOND               /* after which slots are given back */

struct an_rtt {
	uint64_t smooth;
	uint64_t deviation;
	uint64_t least;   /* recent */
	uint32_t samples; /* saturates */
};

static inline uint64_t an_least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t an_most(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline void an_rtt_init(struct an_rtt *rtt, uint64_t hint)
{
	rtt->smooth = hint ? hint : AN_RTT_UNKNOWN;
	rtt->deviation = rtt->smooth / 4;
	rtt->least = hint ? hint : AN_ASK_LEAST;
	rtt->samples = hint != 0;
}

/* Something took so long at the most. */
static inline void an_rtt_at_most(struct an_rtt *rtt, uint64_t sample)
{
	sample = an_most(sample, AN_RTT_LEAST);
	if (sample < rtt->least)
		rtt->least = sample;
	if (sample < rtt->smooth)
		rtt->smooth -= (rtt->smooth - sample) / 4;
}

/* As RFC 6298 does, but faster downwards. */
static inline void an_rtt_sample(struct an_rtt *rtt, uint64_t sample)
{
	uint64_t off;

	sample = an_most(sample, AN_RTT_LEAST);
	if (!rtt->samples) {
		rtt->smooth = rtt->least = sample;
		rtt->deviation = sample / 4;
		rtt->samples = 1;
		return;
	}
	rtt->samples += rtt->samples != UINT32_MAX;
	/* More than twice as long, it was something else that took time. */
	sample = an_least(sample, 2 * rtt->smooth);
	off = sample > rtt->smooth ? sample - rtt->smooth : rtt->smooth - sample;
	rtt->deviation = rtt->deviation - rtt->deviation / 4 + off / 4;
	if (sample > rtt->smooth) {
		rtt->smooth += off / 8;
		rtt->least += (sample - rtt->least) / 128;
	}
	an_rtt_at_most(rtt, sample);
}

/* Within which the answer to something should be here. */
static inline uint64_t an_rtt_patient(const struct an_rtt *rtt)
{
	return rtt->smooth + an_most(rtt->smooth / 4, 2 * rtt->deviation);
}

/* Between an ask and its next copy: a little at first, for either may be lost. */
static inline uint64_t an_copy_interval(const struct an_rtt *rtt, uint32_t copies)
{
	return an_most((rtt->smooth / 32) << 2 * copies, AN_ASK_LEAST);
}

/* Between two rounds of asks, where there are new gaps. */
static inline uint64_t an_ask_interval(const struct an_rtt *rtt)
{
	return an_most(rtt->smooth / 8, AN_ASK_LEAST);
}

/* After which what was asked for should be here, and is asked for anew. */
static inline uint64_t an_ask_anew(const struct an_rtt *rtt, uint32_t unanswered)
{
	uint32_t slower = unanswered / AN_ASK_SLOWER;

	return an_most(rtt->smooth + rtt->smooth / 4, 2 * AN_ASK_LEAST)
	       << (slower < 6 ? slower : 6);
}

/* Within which what asks for a number that was just sent again cannot know that yet. */
static inline uint64_t an_echo_interval(const struct an_rtt *rtt)
{
	return an_most(rtt->least, rtt->smooth - rtt->smooth / 16);
}

static inline uint64_t an_probe_first(const struct an_rtt *rtt)
{
	return an_most(rtt->smooth / 4, AN_PROBE_LEAST);
}

static inline uint64_t an_recovery_first(const struct an_rtt *rtt)
{
	return an_most(an_rtt_patient(rtt), AN_RECOVERY_LEAST);
}

static inline uint64_t an_recovery_max(const struct an_rtt *rtt)
{
	return an_most(4 * rtt->smooth, AN_SECOND);
}

static inline uint64_t an_patience_max(const struct an_rtt *rtt)
{
	return an_most(2 * rtt->smooth, AN_PATIENCE_MAX);
}

static inline uint64_t an_silence_limit(const struct an_rtt *rtt)
{
	return an_most(4 * rtt->smooth, AN_SILENCE_LIMIT);
}

/* Between two probes; more where they are answered and that does not help, or cannot be. */
static inline uint64_t an_probe_max(const struct an_rtt *rtt, int useless)
{
	return useless ? an_silence_limit(rtt) / 4 : an_most(rtt->smooth, AN_SECOND);
}

#endif /* AN_FLOW_TIME_H */
