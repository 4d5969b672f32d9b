/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Numiport's replay window: the newest W slots of one peer's stream, without a lock.
 *
 * Each slot has a bitmap of `seqs` sequence numbers, so within W slots no order of arrival makes a
 * packet look old. The bitmaps are a ring of 64-bit words; as in replay.h each word names what it
 * stands for: its high half is the slot (low 32 bits), its low half has a bit for each of 32
 * sequence numbers. So nothing is cleared when a slot begins: a word of an older slot is
 * overwritten by the first packet of a newer one that falls on it, and a packet that finds a newer
 * slot there is refused. One compare-and-swap tests and marks, so of two CPUs with the same packet
 * exactly one is told that it is new.
 *
 *   slot > latest               future    the caller's clock says what can be
 *   slot <= newest - W          stale     and stays so: `newest` only ever rises
 *   seq >= seqs                 replay    there is no memory of it, so it cannot be known to be new
 *   its bit is set              replay
 *
 * Beyond: a sender must not use sequence numbers from `seqs` on in one slot and stream. Both sides
 * know the number; 4,096 is the default, 65,536 the most (16-bit ranges of ACK_RLE name no more).
 * A peer that skips 2^31 slots and more finds its own words newer than its packets, and is refused.
 *
 * Writers: whoever receives, on any CPU. What a slot looked like is lost after R >= W slots, and
 * then the floor refuses it; where a CPU reads an old floor, the words do.
 */
#ifndef ASSENT_NUMI_REPLAY_H
#define ASSENT_NUMI_REPLAY_H

#include "numiport.h"

/* python: begin */
#define ASSENT_NUMI_REPLAY_SLOTS 4 /* W by default, and the least that W may be */
#define ASSENT_NUMI_REPLAY_SLOTS_MAX 64
#define ASSENT_NUMI_REPLAY_SEQS 4096 /* numbers a slot by default */
#define ASSENT_NUMI_REPLAY_SEQS_MAX 65536
/* python: end */

#define ASSENT_NUMI_REPLAY_WORD_BITS 32
#define ASSENT_NUMI_REPLAY_TRIES 8
#define ASSENT_NUMI_NO_CLOCK (~0ULL) /* as `latest`: no slot is in the future */

struct assent_numi_replay {
	__u64 newest;    /* newest slot that was heard (see begin); receiver, compare-and-swap */
	__u32 base;      /* its first word, where many windows share an array; control plane */
	__u32 seqs;      /* sequence numbers a slot: a power of two, 32 or more; control plane */
	__u16 slots;     /* W; control plane */
	__u16 ring_mask; /* slots in the ring less one: a power of two, no fewer than W; c. p. */
	__u32 reserved;
};

_Static_assert(sizeof(struct assent_numi_replay) == 24, "no padding that a map would leak");

/* The least ring for W slots. */
static __always_inline __u32 assent_numi_replay_ring(__u32 slots)
{
	__u32 ring = 1;

	while (ring < slots && ring < ASSENT_NUMI_REPLAY_SLOTS_MAX)
		ring <<= 1;
	return ring;
}

/* `newest` of a window that is to take `first` and later slots, and none before. */
static __always_inline __u64 assent_numi_replay_begin(__u64 first, __u32 slots)
{
	return first > ~0ULL - (slots - 1) ? ~0ULL : first + (slots - 1);
}

/* Words that the window takes; all zero at first. */
static __always_inline __u32 assent_numi_replay_words(const struct assent_numi_replay *window)
{
	return (window->ring_mask + 1U) * (window->seqs / ASSENT_NUMI_REPLAY_WORD_BITS);
}

/* The word of a packet, counted from the window's first. Within it for every seq and slot. */
static __always_inline __u32 assent_numi_replay_index(const struct assent_numi_replay *window,
						      __u64 slot, __u32 seq)
{
	__u32 row = (__u32)slot & window->ring_mask;
	__u32 column = (seq & (window->seqs - 1)) / ASSENT_NUMI_REPLAY_WORD_BITS;

	return row * (window->seqs / ASSENT_NUMI_REPLAY_WORD_BITS) + column;
}

/*
 * The word after marking `seq` of `slot`, or the same word where it was seen or has been overtaken:
 * a word that does not change is the answer "not new". Zero is a word that was never used.
 */
static __always_inline __u64 assent_numi_replay_mark(__u64 word, __u64 slot, __u32 seq)
{
	__u32 name = (__u32)slot;
	__u64 bit = 1ULL << (seq % ASSENT_NUMI_REPLAY_WORD_BITS);
	__u32 found = (__u32)(word >> 32);

	if (found == name)
		return word | bit;
	if (!word || (__s32)(name - found) > 0)
		return (__u64)name << 32 | bit;
	return word;
}

/* What needs no word. `latest`: the newest slot that can be, by the caller's clock. */
static __always_inline enum assent_numi_fault
assent_numi_replay_floor(const struct assent_numi_replay *window, __u64 slot, __u32 seq,
			 __u64 latest)
{
	__u64 newest = ASSENT_READ_ONCE(window->newest);

	if (slot > latest)
		return ASSENT_NUMI_FUTURE_SLOT;
	if (slot < newest && newest - slot >= window->slots)
		return ASSENT_NUMI_STALE_SLOT;
	if (seq >= window->seqs)
		return ASSENT_NUMI_REPLAY;
	return ASSENT_NUMI_TAKEN;
}

/* Would it be taken? Writes nothing. */
static __always_inline enum assent_numi_fault
assent_numi_replay_check(const struct assent_numi_replay *window, __u64 word, __u64 slot, __u32 seq,
			 __u64 latest)
{
	enum assent_numi_fault fault = assent_numi_replay_floor(window, slot, seq, latest);

	if (fault)
		return fault;
	return assent_numi_replay_mark(word, slot, seq) == word ? ASSENT_NUMI_REPLAY
								: ASSENT_NUMI_TAKEN;
}

/* `newest` never falls. A CPU that gives up leaves it lower than it might be: that refuses less. */
static __always_inline void assent_numi_replay_raise(struct assent_numi_replay *window, __u64 slot)
{
	__u64 newest = ASSENT_READ_ONCE(window->newest);

	for (int i = 0; i < ASSENT_NUMI_REPLAY_TRIES && slot > newest; i++) {
		__u64 found = assent_cmpxchg(&window->newest, newest, slot);

		if (found == newest)
			return;
		newest = found;
	}
}

/*
 * Mark it, after everything else about the packet has been verified and `check` has taken it.
 * Exactly one caller a packet gets ASSENT_NUMI_TAKEN. Who loses the word to others again and again
 * is refused: a packet too few is a loss as any other, a packet too many would be a replay.
 */
static __always_inline enum assent_numi_fault
assent_numi_replay_commit(struct assent_numi_replay *window, __u64 *place, __u64 slot, __u32 seq)
{
	__u64 word = ASSENT_READ_ONCE(*place);

	for (int i = 0; i < ASSENT_NUMI_REPLAY_TRIES; i++) {
		__u64 marked = assent_numi_replay_mark(word, slot, seq);
		__u64 found;

		if (marked == word)
			return ASSENT_NUMI_REPLAY;
		found = assent_cmpxchg(place, word, marked);
		if (assent_likely(found == word)) {
			assent_numi_replay_raise(window, slot);
			return ASSENT_NUMI_TAKEN;
		}
		word = found;
	}
	return ASSENT_NUMI_REPLAY;
}

#endif /* ASSENT_NUMI_REPLAY_H */
