/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The fabric frame (EtherType 0x88B5): layout, flags and limits. docs/wire-fabric.md is the prose.
 *
 * A header is one 64-byte cache line. Its first 40 bytes are the UTCP header, the other 24 belong
 * to Tether. Every integer is big-endian but for `tag`, which is the little-endian output of
 * SipHash. The payload follows, padded with zeros to whole 64-byte blocks.
 */
#ifndef ASSENT_WIRE_H
#define ASSENT_WIRE_H

#include "types.h"

#define ASSENT_ETHERTYPE 0x88B5
#define ASSENT_LWF_ETHERTYPE 0x4C57
#define ASSENT_VLAN_ETHERTYPE 0x8100   /* IEEE 802.1Q */
#define ASSENT_S_VLAN_ETHERTYPE 0x88A8 /* IEEE 802.1ad */
#define ASSENT_ETH_LEN 14
#define ASSENT_VLAN_LEN 4
#define ASSENT_BLOCK_LEN 64
#define ASSENT_CELLID_LEN 16
#define ASSENT_HEADER_LEN 64
#define ASSENT_BARE_LEN 40
#define ASSENT_SIGNED_LEN 56 /* header bytes under the tag */
#define ASSENT_AEAD_TAG_LEN 16

enum assent_flag {
	/* UTCP, low byte */
	ASSENT_FLAG_SYN = 0x0001,
	ASSENT_FLAG_ACK = 0x0002,
	ASSENT_FLAG_FIN = 0x0004,
	ASSENT_FLAG_DATA = 0x0008,
	ASSENT_FLAG_NACK = 0x0010,
	/* Tether, high byte */
	ASSENT_FLAG_LAMP = 0x0100,
	ASSENT_FLAG_BLOCK = 0x8000,
};

#define ASSENT_FLAGS_KNOWN                                                                         \
	(ASSENT_FLAG_SYN | ASSENT_FLAG_ACK | ASSENT_FLAG_FIN | ASSENT_FLAG_DATA |                  \
	 ASSENT_FLAG_NACK | ASSENT_FLAG_LAMP | ASSENT_FLAG_BLOCK)

struct assent_cellid {
	__u8 bytes[ASSENT_CELLID_LEN];
};

/* Who speaks to whom: the first 32 bytes of every header, and the key of the session table. */
struct assent_pair {
	struct assent_cellid src;
	struct assent_cellid dst;
};

struct assent_header {
	struct assent_pair pair;
	__u32 seq;         /* per (src, dst, flow), from 1 */
	__u16 flags;       /* enum assent_flag */
	__u16 payload_len; /* bytes after the header, AEAD tag included, padding not */
	__u16 flow;        /* 0 = control */
	__u16 grant;       /* cumulative, modulo 2^16, in units of 64 << grant_shift bytes */
	__u32 nack_slot;   /* missing in the other direction; with NACK */
	__u64 timestamp;   /* sender's clock, nanoseconds */
	__u64 tag;         /* SipHash-2-4 over bytes 0..55, little-endian */
};

/*
 * The frame of a host that speaks UTCP alone: the same first 40 bytes, BLOCK not set, then the
 * payload, padded to Ethernet's least frame and no further. Nothing in it is proof of its sender.
 */
struct assent_bare {
	struct assent_pair pair;
	__u32 seq;
	__u16 flags;
	__u16 payload_len;
};

#define ASSENT_BARE_FLAGS                                                                          \
	(ASSENT_FLAG_SYN | ASSENT_FLAG_ACK | ASSENT_FLAG_FIN | ASSENT_FLAG_DATA | ASSENT_FLAG_NACK)
#define ASSENT_ETH_LEAST_PAYLOAD 46

_Static_assert(sizeof(struct assent_bare) == ASSENT_BARE_LEN, "the header's UTCP part");
_Static_assert(sizeof(struct assent_header) == ASSENT_HEADER_LEN, "header is one block");
_Static_assert(__builtin_offsetof(struct assent_header, seq) == 32, "seq");
_Static_assert(__builtin_offsetof(struct assent_header, flags) == 36, "flags");
_Static_assert(__builtin_offsetof(struct assent_header, payload_len) == 38, "payload_len");
_Static_assert(__builtin_offsetof(struct assent_header, flow) == 40, "flow");
_Static_assert(__builtin_offsetof(struct assent_header, grant) == 42, "grant");
_Static_assert(__builtin_offsetof(struct assent_header, nack_slot) == 44, "nack_slot");
_Static_assert(__builtin_offsetof(struct assent_header, timestamp) == 48, "timestamp");
_Static_assert(__builtin_offsetof(struct assent_header, tag) == ASSENT_SIGNED_LEN, "tag");

/* Bytes that a payload of `payload_len` occupies on the wire. */
static __always_inline __u32 assent_padded_len(__u32 payload_len)
{
	return (payload_len + (ASSENT_BLOCK_LEN - 1)) & ~(__u32)(ASSENT_BLOCK_LEN - 1);
}

/* Credit that a frame costs, in blocks: its header and every block of payload begun. */
static __always_inline __u32 assent_frame_cost(__u32 payload_len)
{
	return 1 + assent_padded_len(payload_len) / ASSENT_BLOCK_LEN;
}

/*
 * Handshake frames (SYN, SYN-ACK, and the ACK that completes it) travel before session keys exist,
 * so their tag is made under the admission key. They are the flow-0 frames with one of exactly
 * these three flag sets; FIN's answer is FIN|ACK and so is never mistaken for one.
 */
static __always_inline int assent_is_handshake(__u32 flow, __u32 flags)
{
	__u32 kind = flags & ~(__u32)ASSENT_FLAG_BLOCK;

	return flow == 0 && (kind == ASSENT_FLAG_SYN || kind == ASSENT_FLAG_ACK ||
			     kind == (ASSENT_FLAG_SYN | ASSENT_FLAG_ACK));
}

#endif /* ASSENT_WIRE_H */
