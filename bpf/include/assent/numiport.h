/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Numiport on the wire: layout, limits, and what a packet must be. docs/numiport.md is the prose.
 *
 * A datagram is a header of 32 bytes, a section of TLVs that END closes, the payload, and a tag
 * where it is sealed. Every integer is big-endian. Header and TLVs are the packet's head: whole
 * 32-bit words, and at most 268 bytes, for a type may occur once and each has a greatest length.
 *
 * assent_numi_parse() reads the head and the datagram's length, never the payload, and nothing
 * beyond ASSENT_NUMI_HEAD_MAX; in BPF the head is best copied to a map's value first. It accepts
 * what is a packet to the bit, and says of anything else what is wrong with it. What it has
 * accepted may then be asked for its header MAC.
 */
#ifndef ASSENT_NUMIPORT_H
#define ASSENT_NUMIPORT_H

#include "sha256.h"
#include "types.h"

/* python: begin */

#define ASSENT_NUMI_VERSION 1
#define ASSENT_NUMI_HEADER_LEN 32
#define ASSENT_NUMI_HEAD_MAX 268    /* a head with every TLV at its longest */
#define ASSENT_NUMI_PACKET_MAX 8972 /* a datagram over IPv4 in a frame of 9,000 bytes */
#define ASSENT_NUMI_TAG_LEN 16      /* of a sealed payload */
#define ASSENT_NUMI_MAC_LEN 16
#define ASSENT_NUMI_COOKIE_MAX 32
#define ASSENT_NUMI_SESSION_LEN 16
#define ASSENT_NUMI_RANGES_MAX 16 /* 64 bytes of ACK_RLE */
#define ASSENT_NUMI_NACKS_MAX 8
#define ASSENT_NUMI_PSK_IDS_MAX 4 /* that CAPS tells of */
#define ASSENT_NUMI_CAPS_LEN 7    /* before those */
#define ASSENT_NUMI_CE_MAX 1000   /* a ratio in thousandths */

enum assent_numi_class {
	ASSENT_NUMI_P0 = 0, /* votes, control that the leader waits for */
	ASSENT_NUMI_P1 = 1, /* shreds */
	ASSENT_NUMI_P2 = 2, /* repair */
	ASSENT_NUMI_P3 = 3, /* background */
};

enum assent_numi_stream {
	ASSENT_NUMI_SHRED = 0,
	ASSENT_NUMI_VOTE = 1,
	ASSENT_NUMI_REPAIR = 2,
	ASSENT_NUMI_CTRL = 3,
};

/* Each says that something is there, and is set if and only if it is; all six bits are taken. */
enum assent_numi_flag {
	ASSENT_NUMI_FLAG_ACK_ONLY = 0x01, /* no payload, but ACK_RLE or NACK_LIST */
	ASSENT_NUMI_FLAG_NACK = 0x02,     /* NACK_LIST */
	ASSENT_NUMI_FLAG_FEC = 0x04,      /* fec_total and shred_idx */
	ASSENT_NUMI_FLAG_PSK_ID = 0x08,   /* PSK_ID */
	ASSENT_NUMI_FLAG_CTRL = 0x10,     /* it is of the stream ctrl */
	ASSENT_NUMI_FLAG_ECN = 0x20,      /* ECN_SUMMARY */
};

enum assent_numi_tlv {
	ASSENT_NUMI_END = 0,          /* nothing */
	ASSENT_NUMI_CAPS = 1,         /* u32 bitmap, u16 pmtu, u8 ecn, u32 psk_id * 0 to 4 */
	ASSENT_NUMI_PSK_ID = 2,       /* u32 */
	ASSENT_NUMI_ACK_RLE = 3,      /* (u16 start, u16 run_len) * 0 to 16 */
	ASSENT_NUMI_NACK_LIST = 4,    /* u32 seq * 0 to 8 */
	ASSENT_NUMI_PMTU = 5,         /* u16 */
	ASSENT_NUMI_ECN_SUMMARY = 6,  /* u16, thousandths */
	ASSENT_NUMI_RETRY_COOKIE = 7, /* 0 to 32 bytes */
	ASSENT_NUMI_HDR_MAC = 8,      /* 16 bytes */
	ASSENT_NUMI_SESSION_ID = 9,   /* 16 bytes: of the sender, what its nonces are made with */
	ASSENT_NUMI_TLVS,
};

/* What a host can do; of two hosts counts what both can. Bits that are not known are passed over.
 */
enum assent_numi_cap {
	ASSENT_NUMI_CAP_ETF = 0x01,
	ASSENT_NUMI_CAP_GSO = 0x02,
	ASSENT_NUMI_CAP_AF_XDP = 0x04,
	ASSENT_NUMI_CAP_IO_URING = 0x08,
	ASSENT_NUMI_CAP_ECN = 0x10,
	ASSENT_NUMI_CAP_PMTU = 0x20, /* the field `pmtu` says something */
	ASSENT_NUMI_CAP_ZEROCOPY = 0x40,
	ASSENT_NUMI_CAP_AES_GCM_SIV = 0x80, /* opens P0 that is sealed with it */
};

/* Why a datagram is refused; what is counted. A number, once released, keeps its meaning. */
enum assent_numi_fault {
	ASSENT_NUMI_TAKEN = 0,
	ASSENT_NUMI_MALFORMED,     /* not a packet to the bit: see enum assent_numi_flaw */
	ASSENT_NUMI_HDR_MAC_FAIL,  /* no header MAC where there must be one, or a wrong one */
	ASSENT_NUMI_AEAD_FAIL,     /* its payload cannot be opened */
	ASSENT_NUMI_REPLAY,        /* seen before */
	ASSENT_NUMI_STALE_SLOT,    /* of a slot that has left the replay window */
	ASSENT_NUMI_FUTURE_SLOT,   /* of a slot that is too far ahead */
	ASSENT_NUMI_UNKNOWN_PEER,  /* from nobody that is known, and no handshake */
	ASSENT_NUMI_UNKNOWN_PSK,   /* names a key that is not, or no longer, accepted */
	ASSENT_NUMI_NO_COOKIE,     /* must echo a cookie first */
	ASSENT_NUMI_BAD_COOKIE,    /* echoes one that was not given to it, or is too old */
	ASSENT_NUMI_AMPLIFICATION, /* an answer would be more than its asker has paid for */
	ASSENT_NUMI_FAULTS,
};

/* What is wrong with a malformed datagram. */
enum assent_numi_flaw {
	ASSENT_NUMI_FINE = 0,
	ASSENT_NUMI_FLAW_LENGTH,      /* shorter than any packet, or longer */
	ASSENT_NUMI_FLAW_VERSION,     /* another one */
	ASSENT_NUMI_FLAW_RESERVED,    /* reserved bytes that are not zero */
	ASSENT_NUMI_FLAW_STREAM,      /* there is no such stream */
	ASSENT_NUMI_FLAW_FEC,         /* shred_idx is not below fec_total */
	ASSENT_NUMI_FLAW_UNENDED,     /* the section of TLVs runs over the end */
	ASSENT_NUMI_FLAW_TLV_TYPE,    /* there is no such type */
	ASSENT_NUMI_FLAW_TLV_TWICE,   /* a type that was there before */
	ASSENT_NUMI_FLAW_TLV_LENGTH,  /* a length that its type cannot have */
	ASSENT_NUMI_FLAW_TLV_PADDING, /* padding that is not zero */
	ASSENT_NUMI_FLAW_TLV_VALUE,   /* a value that its type cannot have */
	ASSENT_NUMI_FLAW_FLAGS,       /* flags say one thing, and the packet another */
	ASSENT_NUMI_FLAW_NACK_CLASS,  /* NACK_LIST in P2 or P3 */
	ASSENT_NUMI_FLAW_PLEN,        /* plen and the datagram's length disagree */
	ASSENT_NUMI_FLAWS,
};

/* python: end */

#define ASSENT_NUMI_PACKET_MIN (ASSENT_NUMI_HEADER_LEN + 4)
#define ASSENT_NUMI_STREAMS (ASSENT_NUMI_CTRL + 1)
#define ASSENT_NUMI_WORK_WORDS 64 /* at most 53 are covered; four blocks of the hash */

/* At any alignment: `slot` would have to be at a multiple of eight, and is not. */
struct assent_numi_header {
	__u8 ver;
	__u8 kind; /* flags << 2 | class */
	__u64 slot;
	__u32 stream; /* enum assent_numi_stream */
	__u32 seq;    /* per peer, slot and stream; rises */
	__u16 fec_total;
	__u16 shred_idx;
	__u16 plen; /* bytes of payload, the tag not counted */
	__u16 reserved[4];
} __attribute__((packed));

_Static_assert(sizeof(struct assent_numi_header) == ASSENT_NUMI_HEADER_LEN, "32 bytes");
_Static_assert(__builtin_offsetof(struct assent_numi_header, slot) == 2, "slot");
_Static_assert(__builtin_offsetof(struct assent_numi_header, stream) == 10, "stream");
_Static_assert(__builtin_offsetof(struct assent_numi_header, seq) == 14, "seq");
_Static_assert(__builtin_offsetof(struct assent_numi_header, fec_total) == 18, "fec_total");
_Static_assert(__builtin_offsetof(struct assent_numi_header, shred_idx) == 20, "shred_idx");
_Static_assert(__builtin_offsetof(struct assent_numi_header, plen) == 22, "plen");
_Static_assert(__builtin_offsetof(struct assent_numi_header, reserved) == 24, "reserved");

/* Where the values lie, from the packet's first byte on. Filled by assent_numi_parse. */
struct assent_numi_found {
	__u16 at[ASSENT_NUMI_TLVS]; /* 0 = not there */
	__u16 head_len;             /* header and TLVs, END included; a multiple of 4 */
	__u8 len[ASSENT_NUMI_TLVS];
	__u8 sealed; /* a tag follows the payload */
	__u8 reserved;
};

_Static_assert(sizeof(struct assent_numi_found) == 34, "no implicit padding");

/* Too much for a stack in BPF: what is hashed. */
struct assent_numi_work {
	union {
		__u32 words[ASSENT_NUMI_WORK_WORDS];
		struct assent_sha256_block
		    blocks[ASSENT_NUMI_WORK_WORDS / ASSENT_SHA256_BLOCK_WORDS];
	};
};

static __always_inline __u32 assent_numi_class(const struct assent_numi_header *h)
{
	return h->kind & 3;
}

static __always_inline __u32 assent_numi_flags(const struct assent_numi_header *h)
{
	return h->kind >> 2;
}

static __always_inline __u32 assent_numi_u16(const __u8 *at)
{
	return (__u32)at[0] << 8 | at[1];
}

static __always_inline __u32 assent_numi_u32(const __u8 *at)
{
	return assent_numi_u16(at) << 16 | assent_numi_u16(at + 2);
}

/* A record's bytes on the wire, of a value of so many: its head of three, and padding. */
static __always_inline __u32 assent_numi_record_len(__u32 len)
{
	return (3 + len + 3) & ~3U;
}

/* What can be told of a header alone. */
static __always_inline enum assent_numi_flaw
assent_numi_check_header(const struct assent_numi_header *h)
{
	__u32 fec_total = assent_be16(h->fec_total);
	__u32 shred_idx = assent_be16(h->shred_idx);

	if (h->ver != ASSENT_NUMI_VERSION)
		return ASSENT_NUMI_FLAW_VERSION;
	if (h->reserved[0] | h->reserved[1] | h->reserved[2] | h->reserved[3])
		return ASSENT_NUMI_FLAW_RESERVED;
	if (assent_be32(h->stream) >= ASSENT_NUMI_STREAMS)
		return ASSENT_NUMI_FLAW_STREAM;
	if (fec_total ? shred_idx >= fec_total : shred_idx)
		return ASSENT_NUMI_FLAW_FEC;
	return ASSENT_NUMI_FINE;
}

static __always_inline int assent_numi_is_list(__u32 len, __u32 item, __u32 most)
{
	return len <= item * most && len % item == 0;
}

/* May a value of that type be so long? */
static __always_inline int assent_numi_may_have(__u32 type, __u32 len)
{
	switch (type) {
	case ASSENT_NUMI_END:
		return len == 0;
	case ASSENT_NUMI_CAPS:
		return len >= ASSENT_NUMI_CAPS_LEN &&
		       assent_numi_is_list(len - ASSENT_NUMI_CAPS_LEN, 4, ASSENT_NUMI_PSK_IDS_MAX);
	case ASSENT_NUMI_PSK_ID:
		return len == 4;
	case ASSENT_NUMI_ACK_RLE:
		return assent_numi_is_list(len, 4, ASSENT_NUMI_RANGES_MAX);
	case ASSENT_NUMI_NACK_LIST:
		return assent_numi_is_list(len, 4, ASSENT_NUMI_NACKS_MAX);
	case ASSENT_NUMI_PMTU:
	case ASSENT_NUMI_ECN_SUMMARY:
		return len == 2;
	case ASSENT_NUMI_RETRY_COOKIE:
		return len <= ASSENT_NUMI_COOKIE_MAX;
	case ASSENT_NUMI_HDR_MAC:
		return len == ASSENT_NUMI_MAC_LEN;
	case ASSENT_NUMI_SESSION_ID:
		return len == ASSENT_NUMI_SESSION_LEN;
	}
	return 0;
}

/*
 * One record, at `at`, a multiple of 4: where the next one begins, or minus its flaw. It is read by
 * its first word and its last, which may be the same.
 */
static __always_inline int assent_numi_record(const __u8 *packet, __u32 len, __u32 at,
					      struct assent_numi_found *found)
{
	__u32 type, value_len, last, padding;

	if (at > ASSENT_NUMI_HEAD_MAX - 4 || at + 4 > len)
		return -ASSENT_NUMI_FLAW_UNENDED;
	type = packet[at];
	value_len = assent_numi_u16(packet + at + 1);
	if (type >= ASSENT_NUMI_TLVS)
		return -ASSENT_NUMI_FLAW_TLV_TYPE;
	if (found->at[type])
		return -ASSENT_NUMI_FLAW_TLV_TWICE;
	if (!assent_numi_may_have(type, value_len))
		return -ASSENT_NUMI_FLAW_TLV_LENGTH;
	last = at + ((value_len + 2) & ~3U);
	if (last > ASSENT_NUMI_HEAD_MAX - 4 || last + 4 > len)
		return -ASSENT_NUMI_FLAW_UNENDED;
	padding = 3 - ((value_len + 2) & 3);
	if (assent_numi_u32(packet + last) & ((1U << 8 * padding) - 1))
		return -ASSENT_NUMI_FLAW_TLV_PADDING;
	found->at[type] = (__u16)(at + 3);
	found->len[type] = (__u8)value_len;
	return (int)(last + 4);
}

/* The section of TLVs. It ends after ten records at the latest, for no type is taken twice. */
static __always_inline enum assent_numi_flaw assent_numi_walk(const __u8 *packet, __u32 len,
							      struct assent_numi_found *found)
{
	__u32 at = ASSENT_NUMI_HEADER_LEN;

	__builtin_memset(found, 0, sizeof(*found));
	for (int i = 0; i < ASSENT_NUMI_TLVS; i++) {
		int next = assent_numi_record(packet, len, at, found);

		if (next < 0)
			return (enum assent_numi_flaw) - next;
		if (found->at[ASSENT_NUMI_END]) {
			found->head_len = (__u16)next;
			return ASSENT_NUMI_FINE;
		}
		at = (__u32)next;
	}
	return ASSENT_NUMI_FLAW_UNENDED;
}

/* Ranges rise and do not overlap; the numbers that they tell of have 16 bits. */
static __always_inline int assent_numi_are_ranges(const __u8 *packet, __u32 at, __u32 count)
{
	__u32 from = 0;

	for (__u32 i = 0; i < ASSENT_NUMI_RANGES_MAX; i++) {
		__u32 where = at + 4 * i, start, run;

		if (i >= count)
			break;
		if (where > ASSENT_NUMI_HEAD_MAX - 4)
			return 0;
		start = assent_numi_u16(packet + where);
		run = assent_numi_u16(packet + where + 2);
		if (start < from || !run || start + run > 0x10000)
			return 0;
		from = start + run;
	}
	return 1;
}

static __always_inline enum assent_numi_flaw
assent_numi_check_values(const __u8 *packet, const struct assent_numi_found *found)
{
	__u32 caps = found->at[ASSENT_NUMI_CAPS], ecn = found->at[ASSENT_NUMI_ECN_SUMMARY];

	if (caps > ASSENT_NUMI_HEAD_MAX - ASSENT_NUMI_CAPS_LEN || ecn > ASSENT_NUMI_HEAD_MAX - 2)
		return ASSENT_NUMI_FLAW_UNENDED;
	if (caps && packet[caps + 6] > 1)
		return ASSENT_NUMI_FLAW_TLV_VALUE;
	if (ecn && assent_numi_u16(packet + ecn) > ASSENT_NUMI_CE_MAX)
		return ASSENT_NUMI_FLAW_TLV_VALUE;
	if (!assent_numi_are_ranges(packet, found->at[ASSENT_NUMI_ACK_RLE],
				    found->len[ASSENT_NUMI_ACK_RLE] / 4))
		return ASSENT_NUMI_FLAW_TLV_VALUE;
	return ASSENT_NUMI_FINE;
}

/* The flags that are to be set, but for ACK_ONLY, whose absence says nothing. */
static __always_inline __u32 assent_numi_due_flags(const struct assent_numi_header *h,
						   const struct assent_numi_found *found)
{
	__u32 flags = 0;

	if (found->at[ASSENT_NUMI_NACK_LIST])
		flags |= ASSENT_NUMI_FLAG_NACK;
	if (h->fec_total)
		flags |= ASSENT_NUMI_FLAG_FEC;
	if (found->at[ASSENT_NUMI_PSK_ID])
		flags |= ASSENT_NUMI_FLAG_PSK_ID;
	if (h->stream == assent_be32(ASSENT_NUMI_CTRL))
		flags |= ASSENT_NUMI_FLAG_CTRL;
	if (found->at[ASSENT_NUMI_ECN_SUMMARY])
		flags |= ASSENT_NUMI_FLAG_ECN;
	return flags;
}

static __always_inline enum assent_numi_flaw
assent_numi_check_flags(const struct assent_numi_header *h, const struct assent_numi_found *found)
{
	__u32 flags = assent_numi_flags(h), only = flags & ASSENT_NUMI_FLAG_ACK_ONLY;

	if ((flags ^ only) != assent_numi_due_flags(h, found))
		return ASSENT_NUMI_FLAW_FLAGS;
	if (only &&
	    (h->plen || !(found->at[ASSENT_NUMI_ACK_RLE] | found->at[ASSENT_NUMI_NACK_LIST])))
		return ASSENT_NUMI_FLAW_FLAGS;
	if (found->at[ASSENT_NUMI_NACK_LIST] && assent_numi_class(h) > ASSENT_NUMI_P1)
		return ASSENT_NUMI_FLAW_NACK_CLASS;
	return ASSENT_NUMI_FINE;
}

/* What follows the head is the payload and no more, or the payload and a tag. */
static __always_inline enum assent_numi_flaw
assent_numi_check_plen(const struct assent_numi_header *h, __u32 len,
		       struct assent_numi_found *found)
{
	__u32 unsealed = found->head_len + assent_be16(h->plen);

	found->sealed = len == unsealed + ASSENT_NUMI_TAG_LEN;
	return found->sealed || len == unsealed ? ASSENT_NUMI_FINE : ASSENT_NUMI_FLAW_PLEN;
}

/*
 * Is this a packet? `len` is the datagram's; of its bytes there are as many at `packet`, or
 * ASSENT_NUMI_HEAD_MAX, whichever is fewer. Where it is none, `found` says nothing.
 */
static __always_inline enum assent_numi_flaw assent_numi_parse(const __u8 *packet, __u32 len,
							       struct assent_numi_found *found)
{
	const struct assent_numi_header *h = (const struct assent_numi_header *)packet;
	enum assent_numi_flaw flaw;

	if (len < ASSENT_NUMI_PACKET_MIN || len > ASSENT_NUMI_PACKET_MAX)
		return ASSENT_NUMI_FLAW_LENGTH;
	flaw = assent_numi_check_header(h);
	if (flaw)
		return flaw;
	flaw = assent_numi_walk(packet, len, found);
	if (flaw)
		return flaw;
	flaw = assent_numi_check_values(packet, found);
	if (flaw)
		return flaw;
	flaw = assent_numi_check_flags(h, found);
	if (flaw)
		return flaw;
	return assent_numi_check_plen(h, len, found);
}

/*
 * 1 where x < y, both below 2^31. No branch, for the verifier would go through a loop of these once
 * for each way that they can turn out; clang 14 sees a comparison and makes branches of it, unless
 * it is kept from looking.
 */
static __always_inline __u32 assent_numi_below(__u32 x, __u32 y)
{
	__u32 difference = x - y;

	asm volatile("" : "+r"(difference));
	return difference >> 31;
}

/* 1 where the byte at `at` is part of a record of that type. */
static __always_inline __u32 assent_numi_is_of(const struct assent_numi_found *found, __u32 type,
					       __u32 at)
{
	__u32 value = found->at[type];
	__u32 end = value - 3 + assent_numi_record_len(found->len[type]);

	return assent_numi_below(0, value) & assent_numi_below(value, at + 4) &
	       assent_numi_below(at, end);
}

/*
 * 1 where the word at `at` is under header MAC and seal: all of the head is, but for the records
 * HDR_MAC and RETRY_COOKIE. Records are whole words.
 */
static __always_inline __u32 assent_numi_is_covered(const struct assent_numi_found *found, __u32 at)
{
	return assent_numi_below(at, found->head_len) &
	       (1 ^ (assent_numi_is_of(found, ASSENT_NUMI_HDR_MAC, at) |
		     assent_numi_is_of(found, ASSENT_NUMI_RETRY_COOKIE, at)));
}

/* What is covered, as host integers. Returns how many words. */
static __always_inline __u32 assent_numi_covered(const __u8 *packet,
						 const struct assent_numi_found *found,
						 struct assent_numi_work *work)
{
	__u32 count = 0;

	__builtin_memset(work, 0, sizeof(*work));
	for (__u32 i = 0; i < ASSENT_NUMI_HEAD_MAX / 4; i++) {
		if (4 * i >= found->head_len)
			break;
		work->words[count & (ASSENT_NUMI_WORK_WORDS - 1)] = assent_numi_u32(packet + 4 * i);
		count += assent_numi_is_covered(found, 4 * i);
	}
	return count;
}

/* The header MAC of a packet that was parsed, as host integers: the first half of HMAC-SHA256. */
static __always_inline void assent_numi_mac(const struct assent_hmac *key, const __u8 *packet,
					    const struct assent_numi_found *found,
					    struct assent_numi_work *work,
					    __u32 mac[ASSENT_NUMI_MAC_LEN / 4])
{
	__u32 count = assent_numi_covered(packet, found, work);
	__u32 last = (count + 2) / ASSENT_SHA256_BLOCK_WORDS;
	struct assent_sha256 state = key->inner;

	work->words[count & (ASSENT_NUMI_WORK_WORDS - 1)] = 0x80000000;
	work->words[(16 * last + 15) & (ASSENT_NUMI_WORK_WORDS - 1)] = 32 * (count + 16);
	for (__u32 i = 0; i < ASSENT_NUMI_WORK_WORDS / ASSENT_SHA256_BLOCK_WORDS; i++) {
		if (i <= last)
			assent_sha256_absorb(&state, &work->blocks[i]);
	}
	for (int i = 0; i < ASSENT_SHA256_BLOCK_WORDS; i++)
		work->words[i] = i < ASSENT_SHA256_WORDS ? state.h[i] : 0;
	work->words[8] = 0x80000000;
	work->words[15] = 32 * (8 + 16);
	state = key->outer;
	assent_sha256_absorb(&state, &work->blocks[0]);
	for (int i = 0; i < ASSENT_NUMI_MAC_LEN / 4; i++)
		mac[i] = state.h[i];
}

/*
 * Is the packet's header MAC there, and right? It takes as long whatever the packet's MAC is: the
 * differences of all of its words are put together before any is looked at.
 */
static __always_inline int assent_numi_mac_matches(const struct assent_hmac *key,
						   const __u8 *packet,
						   const struct assent_numi_found *found,
						   struct assent_numi_work *work)
{
	__u32 at = found->at[ASSENT_NUMI_HDR_MAC], difference = 0;
	__u32 mac[ASSENT_NUMI_MAC_LEN / 4];

	if (!at || at > ASSENT_NUMI_HEAD_MAX - ASSENT_NUMI_MAC_LEN)
		return 0;
	assent_numi_mac(key, packet, found, work, mac);
	for (__u32 i = 0; i < ASSENT_NUMI_MAC_LEN / 4; i++)
		difference |= mac[i] ^ assent_numi_u32(packet + at + 4 * i);
	return difference == 0;
}

#endif /* ASSENT_NUMIPORT_H */
