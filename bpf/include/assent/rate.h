/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Rate limit by theoretical arrival time (the virtual scheduling form of GCRA, ITU-T I.371): one
 * 64-bit time instead of a bucket and the moment of its last refill. `due` is when the sender would
 * be level again; it may run `burst` ahead of now.
 */
#ifndef ASSENT_RATE_H
#define ASSENT_RATE_H

#include "reason.h"
#include "types.h"

#define ASSENT_RATE_TRIES 4

/* Would a frame be within the rate? Writes nothing. */
static __always_inline enum assent_reason assent_rate_check(const __u64 *due, __u64 now,
							    __u64 burst)
{
	__u64 known = ASSENT_READ_ONCE(*due);

	return known > now && known - now > burst ? ASSENT_DROP_RATE_LIMITED : ASSENT_ADMITTED;
}

static __always_inline enum assent_reason assent_rate_charge(__u64 *due, __u64 now, __u64 interval,
							     __u64 burst)
{
	__u64 known = ASSENT_READ_ONCE(*due);

	for (int i = 0; i < ASSENT_RATE_TRIES; i++) {
		__u64 base = known > now ? known : now;
		__u64 found;

		if (base - now > burst)
			return ASSENT_DROP_RATE_LIMITED;
		found = assent_cmpxchg(due, known, base + interval);
		if (assent_likely(found == known))
			return ASSENT_ADMITTED;
		known = found;
	}
	return ASSENT_DROP_CONTENDED;
}

/*
 * The same for data, where a frame counts by its blocks and must fit as a whole: the lamp
 * allowance, and the rate in a covenant's terms. `burst` is the whole allowance in ns; `refusal` is
 * what a frame is refused with that does not fit.
 */
static __always_inline enum assent_reason assent_blocks_check(const __u64 *due, __u64 now,
							      __u32 cost, __u64 interval,
							      __u64 burst,
							      enum assent_reason refusal)
{
	__u64 known = ASSENT_READ_ONCE(*due);
	__u64 ahead = known > now ? known - now : 0;

	return ahead + cost * interval > burst ? refusal : ASSENT_ADMITTED;
}

static __always_inline enum assent_reason assent_blocks_charge(__u64 *due, __u64 now, __u32 cost,
							       __u64 interval, __u64 burst,
							       enum assent_reason refusal)
{
	__u64 known = ASSENT_READ_ONCE(*due);

	for (int i = 0; i < ASSENT_RATE_TRIES; i++) {
		__u64 base = known > now ? known : now;
		__u64 found;

		if (base - now + cost * interval > burst)
			return refusal;
		found = assent_cmpxchg(due, known, base + cost * interval);
		if (assent_likely(found == known))
			return ASSENT_ADMITTED;
		known = found;
	}
	return ASSENT_DROP_CONTENDED;
}

#endif /* ASSENT_RATE_H */
