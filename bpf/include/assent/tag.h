/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The header tag: SipHash-2-4 over header bytes 0..55, from a state that has taken in src and dst.
 */
#ifndef ASSENT_TAG_H
#define ASSENT_TAG_H

#include "siphash.h"
#include "wire.h"

/* The words of a header as the hash reads them. `h` must be 8-byte aligned but for BPF on a packet.
 */
static __always_inline __u64 assent_header_word(const struct assent_header *h, int index)
{
	return assent_le64(((const __u64 *)h)[index]);
}

/* The state to keep in a session entry: key, then src and dst. */
static __always_inline struct assent_sip assent_pair_state(__u64 k0, __u64 k1,
							   const struct assent_header *h)
{
	struct assent_sip s;

	assent_sip_init(&s, k0, k1);
	assent_sip_absorb(&s, assent_header_word(h, 0));
	assent_sip_absorb(&s, assent_header_word(h, 1));
	assent_sip_absorb(&s, assent_header_word(h, 2));
	assent_sip_absorb(&s, assent_header_word(h, 3));
	return s;
}

/* The tag, as a host integer; on the wire it is little-endian. */
static __always_inline __u64 assent_header_tag(const struct assent_sip *pair,
					       const struct assent_header *h)
{
	struct assent_sip s = *pair;

	assent_sip_absorb(&s, assent_header_word(h, 4));
	assent_sip_absorb(&s, assent_header_word(h, 5));
	assent_sip_absorb(&s, assent_header_word(h, 6));
	return assent_sip_finish(&s, (__u64)ASSENT_SIGNED_LEN << 56);
}

/*
 * Constant time by construction: one 64-bit exclusive-or against zero, whichever bits differ.
 * Returns nonzero when the tag is right.
 */
static __always_inline int assent_tag_matches(const struct assent_sip *pair,
					      const struct assent_header *h)
{
	return (assent_header_tag(pair, h) ^ assent_le64(h->tag)) == 0;
}

#endif /* ASSENT_TAG_H */
