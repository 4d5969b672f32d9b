/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Replay window without a lock.
 *
 * A ring of 64-bit words; each covers 32 consecutive sequence numbers and names them: its high half
 * is their generation (seq >> 5), its low half one bit for each that was seen. Words need no
 * clearing as the window moves: one of an older generation is overwritten by the first frame of a
 * newer one. One compare-and-swap both tests and marks a sequence number, so of two CPUs that hold
 * the same frame exactly one is told that it is fresh.
 *
 * The ring holds at least replay_len + 31 sequence numbers, so that no word inside the window can
 * have been reused. A sequence number s is acceptable when s > highest - replay_len and its bit is
 * clear. Comparison is RFC 1982's: the numbers wrap, and an advance of 2^31 or more is taken for
 * age.
 *
 * Writers: gate, on any CPU. `rx_highest` is stored without a lock after the mark; a lost update
 * only leaves the lower edge behind for one frame, and the generation in each word still refuses
 * every sequence number that was ever accepted.
 */
#ifndef ASSENT_REPLAY_H
#define ASSENT_REPLAY_H

#include "reason.h"
#include "tables.h"

#define ASSENT_REPLAY_TRIES 8

static __always_inline __u32 assent_replay_chunk_index(const struct assent_flow *flow, __u32 seq)
{
	return flow->replay_base + ((seq / ASSENT_REPLAY_CHUNK_BITS) & flow->replay_mask);
}

static __always_inline __u64 *assent_replay_word(struct assent_replay_chunk *chunk, __u32 seq)
{
	return &chunk->word[(seq / ASSENT_REPLAY_WORD_BITS) & (ASSENT_REPLAY_WORDS - 1)];
}

static __always_inline int assent_replay_too_old(const struct assent_flow *flow, __u32 seq)
{
	__s32 age = (__s32)(ASSENT_READ_ONCE(flow->rx_highest) - seq);

	return age >= (__s32)flow->replay_len;
}

/*
 * The word after marking `seq`, or the same word where `seq` was seen or has been overtaken: a word
 * that does not change is the answer "not fresh".
 */
static __always_inline __u64 assent_replay_mark(__u64 word, __u32 seq)
{
	__u32 generation = seq / ASSENT_REPLAY_WORD_BITS;
	__u64 bit = 1ULL << (seq % ASSENT_REPLAY_WORD_BITS);
	__u32 found = (__u32)(word >> 32);

	if (found == generation)
		return word | bit;
	if ((__s32)((generation - found) * ASSENT_REPLAY_WORD_BITS) > 0)
		return (__u64)generation << 32 | bit;
	return word;
}

/* Would this sequence number be fresh? Writes nothing. */
static __always_inline enum assent_reason assent_replay_check(const struct assent_flow *flow,
							      __u64 word, __u32 seq)
{
	if (assent_replay_too_old(flow, seq) || assent_replay_mark(word, seq) == word)
		return ASSENT_DROP_REPLAY;
	return ASSENT_ADMITTED;
}

/* Mark it. Exactly one caller per sequence number gets ASSENT_ADMITTED. */
static __always_inline enum assent_reason assent_replay_commit(struct assent_flow *flow,
							       __u64 *slot, __u64 word, __u32 seq)
{
	for (int i = 0; i < ASSENT_REPLAY_TRIES; i++) {
		__u64 marked = assent_replay_mark(word, seq);
		__u64 found;

		if (marked == word)
			return ASSENT_DROP_REPLAY;
		found = assent_cmpxchg(slot, word, marked);
		if (assent_likely(found == word)) {
			if ((__s32)(seq - ASSENT_READ_ONCE(flow->rx_highest)) > 0)
				ASSENT_WRITE_ONCE(flow->rx_highest, seq);
			return ASSENT_ADMITTED;
		}
		word = found;
	}
	return ASSENT_DROP_CONTENDED;
}

#endif /* ASSENT_REPLAY_H */
