/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * SipHash-2-4 (Aumasson and Bernstein), 64-bit output, split so that a state can be kept.
 *
 * src and dst are the first 32 of a header's 56 tagged bytes and never change within a session. A
 * session entry therefore keeps the state after those four words, not the key, and a verdict
 * absorbs three words where the plain algorithm absorbs seven. The result is exactly the
 * algorithm's.
 */
#ifndef ASSENT_SIPHASH_H
#define ASSENT_SIPHASH_H

#include "types.h"

struct assent_sip {
	__u64 v0;
	__u64 v1;
	__u64 v2;
	__u64 v3;
};

#define ASSENT_ROTL64(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static __always_inline void assent_sip_round(struct assent_sip *s)
{
	s->v0 += s->v1;
	s->v1 = ASSENT_ROTL64(s->v1, 13) ^ s->v0;
	s->v0 = ASSENT_ROTL64(s->v0, 32);
	s->v2 += s->v3;
	s->v3 = ASSENT_ROTL64(s->v3, 16) ^ s->v2;
	s->v0 += s->v3;
	s->v3 = ASSENT_ROTL64(s->v3, 21) ^ s->v0;
	s->v2 += s->v1;
	s->v1 = ASSENT_ROTL64(s->v1, 17) ^ s->v2;
	s->v2 = ASSENT_ROTL64(s->v2, 32);
}

/* k0, k1: the key's two halves, each read as a little-endian word. */
static __always_inline void assent_sip_init(struct assent_sip *s, __u64 k0, __u64 k1)
{
	s->v0 = k0 ^ 0x736f6d6570736575ULL;
	s->v1 = k1 ^ 0x646f72616e646f6dULL;
	s->v2 = k0 ^ 0x6c7967656e657261ULL;
	s->v3 = k1 ^ 0x7465646279746573ULL;
}

/* m: eight message bytes read as a little-endian word. */
static __always_inline void assent_sip_absorb(struct assent_sip *s, __u64 m)
{
	s->v3 ^= m;
	assent_sip_round(s);
	assent_sip_round(s);
	s->v0 ^= m;
}

/* last: the bytes after the last whole word, low end, with the length modulo 256 in the top byte.
 */
static __always_inline __u64 assent_sip_finish(struct assent_sip *s, __u64 last)
{
	assent_sip_absorb(s, last);
	s->v2 ^= 0xff;
	assent_sip_round(s);
	assent_sip_round(s);
	assent_sip_round(s);
	assent_sip_round(s);
	return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

#endif /* ASSENT_SIPHASH_H */
