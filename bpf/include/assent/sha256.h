/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * SHA-256 (FIPS 180-4) by blocks, and HMAC (RFC 2104) from kept states.
 *
 * The first block of either hash of an HMAC is the key alone. Whoever checks many short messages
 * under one key therefore keeps the two states after it, not the key, and spends two blocks where
 * the plain algorithm spends four. The result is exactly the algorithm's.
 *
 * Messages are given as words, for those that are hashed here consist of whole ones.
 */
#ifndef ASSENT_SHA256_H
#define ASSENT_SHA256_H

#include "types.h"

#define ASSENT_SHA256_WORDS 8        /* of a state */
#define ASSENT_SHA256_BLOCK_WORDS 16 /* of a block */

/* Host integers, all of them. */
struct assent_sha256 {
	__u32 h[ASSENT_SHA256_WORDS];
};

struct assent_sha256_block {
	__u32 w[ASSENT_SHA256_BLOCK_WORDS];
};

/* The states that HMAC starts from, after the key. */
struct assent_hmac {
	struct assent_sha256 inner;
	struct assent_sha256 outer;
};

/* All the way: the words and the state then stay where they are, and K becomes immediates. */
#ifdef __clang__
#define ASSENT_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ASSENT_UNROLL _Pragma("GCC unroll 64")
#endif

#ifdef __bpf__
/*
 * BPF has no rotation, and each written out is five instructions. Of a word that stands twice in 64
 * bits it is a shift, and the high half does not matter; clang 14 sees rotations in that, too, and
 * writes them out, unless it is kept from looking.
 */
typedef __u64 assent_twice;

static __always_inline assent_twice assent_sha256_twice(__u32 x)
{
	__u64 twice = (__u64)x << 32 | x;

	asm volatile("" : "+r"(twice));
	return twice;
}

#define ASSENT_ROTR32(x, b) ((x) >> (b))
#else
typedef __u32 assent_twice;

static __always_inline assent_twice assent_sha256_twice(__u32 x)
{
	return x;
}

#define ASSENT_ROTR32(x, b) (((x) >> (b)) | ((x) << (32 - (b))))
#endif

static const __u32 assent_sha256_k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static __always_inline void assent_sha256_init(struct assent_sha256 *state)
{
	*state = (struct assent_sha256){{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f,
					 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

/* The schedule's word of round `i`, from 16 on; it takes the place of the one 16 rounds before. */
static __always_inline __u32 assent_sha256_word(__u32 w[ASSENT_SHA256_BLOCK_WORDS], __u32 i)
{
	__u32 early = w[(i + 1) & 15], late = w[(i + 14) & 15];
	assent_twice x = assent_sha256_twice(early), y = assent_sha256_twice(late);

	w[i & 15] += (__u32)(ASSENT_ROTR32(x, 7) ^ ASSENT_ROTR32(x, 18)) ^ early >> 3;
	w[i & 15] += (__u32)(ASSENT_ROTR32(y, 17) ^ ASSENT_ROTR32(y, 19)) ^ late >> 10;
	w[i & 15] += w[(i + 9) & 15];
	return w[i & 15];
}

/* One round: s[0..7] are a..h, `word` is the schedule's. Choice and majority are those of the
 * standard in fewer steps. */
static __always_inline void assent_sha256_round(__u32 s[ASSENT_SHA256_WORDS], __u32 k, __u32 word)
{
	assent_twice a = assent_sha256_twice(s[0]), e = assent_sha256_twice(s[4]);
	__u32 choice = s[6] ^ (s[4] & (s[5] ^ s[6]));
	__u32 majority = s[1] ^ ((s[0] ^ s[1]) & (s[1] ^ s[2]));
	__u32 t = s[7] + k + word + choice +
		  (__u32)(ASSENT_ROTR32(e, 6) ^ ASSENT_ROTR32(e, 11) ^ ASSENT_ROTR32(e, 25));

	s[7] = s[6];
	s[6] = s[5];
	s[5] = s[4];
	s[4] = s[3] + t;
	s[3] = s[2];
	s[2] = s[1];
	s[1] = s[0];
	s[0] = t + majority +
	       (__u32)(ASSENT_ROTR32(a, 2) ^ ASSENT_ROTR32(a, 13) ^ ASSENT_ROTR32(a, 22));
}

/* Takes in one block, which is used up. 0; nothing else. */
ASSENT_SLOW_PATH int assent_sha256_absorb(struct assent_sha256 *state,
					  struct assent_sha256_block *block)
{
	__u32 s[ASSENT_SHA256_WORDS];

	if (!state || !block)
		return 0;
	ASSENT_UNROLL
	for (int i = 0; i < ASSENT_SHA256_WORDS; i++)
		s[i] = state->h[i];
	ASSENT_UNROLL
	for (__u32 i = 0; i < ASSENT_SHA256_BLOCK_WORDS; i++)
		assent_sha256_round(s, assent_sha256_k[i], block->w[i]);
	ASSENT_UNROLL
	for (__u32 i = ASSENT_SHA256_BLOCK_WORDS; i < 64; i++)
		assent_sha256_round(s, assent_sha256_k[i], assent_sha256_word(block->w, i));
	ASSENT_UNROLL
	for (int i = 0; i < ASSENT_SHA256_WORDS; i++)
		state->h[i] += s[i];
	return 0;
}

static __always_inline void assent_hmac_half(struct assent_sha256 *state,
					     const struct assent_sha256_block *key, __u32 pad)
{
	struct assent_sha256_block block;

	for (int i = 0; i < ASSENT_SHA256_BLOCK_WORDS; i++)
		block.w[i] = key->w[i] ^ pad;
	assent_sha256_init(state);
	assent_sha256_absorb(state, &block);
}

/* The states to keep of a key of at most 64 bytes, padded with zeros. */
static __always_inline void assent_hmac_init(struct assent_hmac *hmac,
					     const struct assent_sha256_block *key)
{
	assent_hmac_half(&hmac->inner, key, 0x36363636);
	assent_hmac_half(&hmac->outer, key, 0x5c5c5c5c);
}

#endif /* ASSENT_SHA256_H */
