/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Prepaid credit. Counters are cumulative blocks; what is left is granted - spent. A frame is
 * charged once per sequence number: the replay window lets each number arrive once, and only an
 * arrival is charged, so a retransmission costs the receiver's books nothing.
 */
#ifndef ASSENT_CREDIT_H
#define ASSENT_CREDIT_H

#include "reason.h"
#include "tables.h"

#define ASSENT_CREDIT_TRIES 8

/* Is there room? Writes nothing. */
static __always_inline enum assent_reason assent_credit_check(const struct assent_flow *flow,
							      __u32 cost)
{
	__u64 spent = ASSENT_READ_ONCE(flow->rx_spent);
	__u64 granted = ASSENT_READ_ONCE(flow->rx_granted);

	return granted - spent >= cost && granted > spent ? ASSENT_ADMITTED : ASSENT_DROP_NO_CREDIT;
}

/* Spend it. rx_spent never passes rx_granted, however many CPUs charge at once. */
static __always_inline enum assent_reason assent_credit_charge(struct assent_flow *flow, __u32 cost)
{
	__u64 spent = ASSENT_READ_ONCE(flow->rx_spent);

	for (int i = 0; i < ASSENT_CREDIT_TRIES; i++) {
		__u64 granted = ASSENT_READ_ONCE(flow->rx_granted);
		__u64 found;

		if (granted < spent || granted - spent < cost)
			return ASSENT_DROP_NO_CREDIT;
		found = assent_cmpxchg(&flow->rx_spent, spent, spent + cost);
		if (assent_likely(found == spent))
			return ASSENT_ADMITTED;
		spent = found;
	}
	return ASSENT_DROP_CONTENDED;
}

/* Take a charge back: the frame lost the race for its sequence number. */
static __always_inline void assent_credit_refund(struct assent_flow *flow, __u32 cost)
{
	assent_atomic_add(&flow->rx_spent, (__u64)0 - cost);
}

/*
 * The cumulative grant that a 16-bit field means, given what is known already: the smallest one not
 * behind it with those low bits, unless that is half the field's range ahead or more, which is how
 * an old, reordered field looks. Never less than `known`.
 */
static __always_inline __u64 assent_grant_read(__u64 known, __u16 field, __u8 shift)
{
	__u64 units = known >> shift;
	__u16 ahead = (__u16)(field - (__u16)units);

	return ahead != 0 && ahead < 0x8000 ? (units + ahead) << shift : known;
}

static __always_inline __u16 assent_grant_field(__u64 granted, __u8 shift)
{
	return (__u16)(granted >> shift);
}

/* Raise a cumulative counter to `value`, never lower it. One lost race is repaired by the next
 * frame. */
static __always_inline void assent_counter_raise(__u64 *counter, __u64 value)
{
	__u64 known = ASSENT_READ_ONCE(*counter);

	for (int i = 0; i < ASSENT_CREDIT_TRIES && known < value; i++) {
		__u64 found = assent_cmpxchg(counter, known, value);

		if (found == known)
			return;
		known = found;
	}
}

#endif /* ASSENT_CREDIT_H */
