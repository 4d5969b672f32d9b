/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Bloom filter over the pairs that are provisioned: most strangers are turned away by one word.
 *
 * Blocked: all bits of a pair lie in one 64-bit word, so that a check touches one cache line and
 * adding is one store. With 16 bits a pair and 3 of them set, some 0.8 % of strangers get past it
 * (see docs/performance.md); those are told by the exact table, as are all in the filter's absence.
 * The hash is seeded, so that nobody outside can tell which strangers those are.
 *
 * A filter is `mask + 1` words (a power of two) from word `first` on. The two halves of the map
 * take turns: a new filter is built in the idle one, and one store of the descriptor swaps them.
 * Writer: control plane.
 */
#ifndef ASSENT_BLOOM_H
#define ASSENT_BLOOM_H

#include "wire.h"

#define ASSENT_BLOOM_LEAST_WORDS 512 /* 4 KiB, 2^15 bits */
#define ASSENT_BLOOM_BITS_A_PAIR 16

/* config.bloom: written and read as one. */
static __always_inline __u64 assent_bloom_descriptor(__u32 first, __u32 mask)
{
	return (__u64)first << 32 | mask;
}

static __always_inline __u64 assent_bloom_hash(const struct assent_pair *pair, const __u64 *seed)
{
	const __u64 *words = (const __u64 *)pair;
	__u64 h = (words[0] ^ words[3] ^ seed[0]) * 0x9E3779B97F4A7C15ULL;

	/* Bytes swapped: cells that differ in their last bytes alone are told apart as well. */
	return ((h ^ h >> 32) + assent_be64(words[1] ^ words[2] ^ seed[1])) * 0xD6E8FEB86659FD93ULL;
}

static __always_inline __u32 assent_bloom_index(__u64 descriptor, __u64 hash)
{
	return (__u32)(descriptor >> 32) + ((__u32)(hash >> 40) & (__u32)descriptor);
}

static __always_inline __u64 assent_bloom_bits(__u64 hash)
{
	return 1ULL << (hash >> 16 & 63) | 1ULL << (hash >> 22 & 63) | 1ULL << (hash >> 28 & 63);
}

#endif /* ASSENT_BLOOM_H */
