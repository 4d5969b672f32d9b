/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The Libertaria Wire Frame (EtherType 0x4C57): what a relay reads of it, and what it keeps.
 * docs/lwf-relay.md is the prose.
 *
 * A frame is a header of 88 bytes, a payload, and a trailer of 68 or 36 bytes. Every integer is
 * big-endian. A relay reads the header alone, and changes nothing in it.
 */
#ifndef ASSENT_LWF_H
#define ASSENT_LWF_H

#include "reason.h"
#include "siphash.h"
#include "types.h"

#define ASSENT_LWF_MAGIC 0x4C574600 /* "LWF\0" */
#define ASSENT_LWF_HINT_LEN 24
#define ASSENT_LWF_HEADER_LEN 88
#define ASSENT_LWF_TRAILER_LEN 68       /* an Ed25519 signature, then a CRC-32C */
#define ASSENT_LWF_SHORT_TRAILER_LEN 36 /* of the other generation; a relay takes either */

enum assent_lwf_version {
	ASSENT_LWF_VERSION_1 = 1,
	ASSENT_LWF_VERSION_2 = 2,
};

/* Version 2. Version 1 knows but one flag: 0x01 says that the frame is not signed. */
enum assent_lwf_flag {
	ASSENT_LWF_ENCRYPTED = 0x01,
	ASSENT_LWF_SIGNED = 0x02,
	ASSENT_LWF_RELAYABLE = 0x04,
	ASSENT_LWF_HAS_ENTROPY = 0x08,
	ASSENT_LWF_FRAGMENTED = 0x10,
	ASSENT_LWF_PRIORITY = 0x20,
};

/* How long a frame may be. */
enum assent_lwf_class {
	ASSENT_LWF_MICRO = 0,
	ASSENT_LWF_MINI = 1,
	ASSENT_LWF_STANDARD = 2,
	ASSENT_LWF_BIG = 3,
	ASSENT_LWF_JUMBO = 4,
	ASSENT_LWF_VARIABLE = 255,
};

/* The one service that a relay tells from the others. */
enum assent_lwf_service {
	ASSENT_LWF_RELAY_FORWARD = 0x0005,
};

/* The first 24 bytes of the BLAKE3 of somebody's public key. */
struct assent_lwf_hint {
	__u8 bytes[ASSENT_LWF_HINT_LEN];
};

struct assent_lwf_header {
	__u32 magic;
	struct assent_lwf_hint dest;
	struct assent_lwf_hint source;
	__u8 session[16];
	__u32 sequence;
	__u16 service_type;
	__u16 payload_len;
	__u8 frame_class; /* enum assent_lwf_class */
	__u8 version;     /* enum assent_lwf_version */
	__u8 flags;       /* enum assent_lwf_flag */
	__u8 entropy_difficulty;
	__u64 timestamp; /* ns */
};

_Static_assert(sizeof(struct assent_lwf_hint) == ASSENT_LWF_HINT_LEN, "24 bytes");
_Static_assert(sizeof(struct assent_lwf_header) == ASSENT_LWF_HEADER_LEN, "88 bytes");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, dest) == 4, "dest");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, source) == 28, "source");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, session) == 52, "session");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, sequence) == 68, "sequence");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, service_type) == 72, "service_type");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, payload_len) == 74, "payload_len");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, frame_class) == 76, "frame_class");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, version) == 77, "version");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, flags) == 78, "flags");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, entropy_difficulty) == 79, "entropy");
_Static_assert(__builtin_offsetof(struct assent_lwf_header, timestamp) == 80, "timestamp");

enum assent_lwf_route_flag {
	ASSENT_LWF_ROUTE_LOCAL = 0x1,      /* to this host's own stack; no port, no addresses */
	ASSENT_LWF_ROUTE_REGISTERED = 0x2, /* by the destination itself, not by an operator */
};

/*
 * lwf_routes[hint]: where a destination is next to be found. Control plane writes. A CPU that still
 * reads a route which was deleted, and whose place another one has taken, sends one frame the other
 * one's way: its receiver sees that it is not its own.
 */
struct assent_lwf_route {
	__u64 expires; /* monotonic ns; 0 = never */
	__u32 port;    /* in `lwf_ports` */
	__u32 flags;   /* enum assent_lwf_route_flag */
	__u8 dst[6];   /* the next hop's address */
	__u8 src[6];   /* that of the interface behind the port */
	__u8 reserved[4];
};

/* lwf_sources[hint]: who may register a way to itself. Control plane adds and removes. */
struct assent_lwf_source {
	__u64 due; /* theoretical arrival time of its rate limit, see rate.h; gate */
	__u64 reserved;
};

/* lwf_config[0]. Control plane writes. */
struct assent_lwf_config {
	struct assent_sip fingerprint; /* the hash's state under a secret of this gate's own */
	__u64 register_interval;       /* ns that a RELAY_FORWARD frame costs its source */
	__u64 register_burst;          /* ns that a source may run ahead */
};

_Static_assert(sizeof(struct assent_lwf_route) == 32, "no implicit padding");
_Static_assert(sizeof(struct assent_lwf_source) == 16, "no implicit padding");
_Static_assert(sizeof(struct assent_lwf_config) == 48, "no implicit padding");

/* The longest frame of a class; 0 = there is no such class. */
static __always_inline __u32 assent_lwf_class_len(__u32 frame_class)
{
	if (frame_class == ASSENT_LWF_MICRO)
		return 128;
	if (frame_class == ASSENT_LWF_MINI)
		return 512;
	if (frame_class == ASSENT_LWF_STANDARD)
		return 1350;
	if (frame_class == ASSENT_LWF_BIG)
		return 4096;
	if (frame_class == ASSENT_LWF_JUMBO)
		return 9000;
	return frame_class == ASSENT_LWF_VARIABLE ? ~0U : 0;
}

/*
 * Is this all of a frame? What follows the payload is one of the two trailers and no more; or it
 * fills the frame up to its class, and has room for the shorter one.
 */
static __always_inline int assent_lwf_is_whole(__u32 payload_len, __u32 frame_class, __u32 len)
{
	__u32 unsealed = ASSENT_LWF_HEADER_LEN + payload_len;
	__u32 longest = assent_lwf_class_len(frame_class);

	if (len < unsealed + ASSENT_LWF_SHORT_TRAILER_LEN || len > longest)
		return 0;
	return len == unsealed + ASSENT_LWF_SHORT_TRAILER_LEN ||
	       len == unsealed + ASSENT_LWF_TRAILER_LEN || len == longest;
}

/* `len` counts from the header's first byte; the caller has made sure that 88 bytes are there. */
static __always_inline enum assent_reason assent_lwf_check(const struct assent_lwf_header *h,
							   __u32 len)
{
	if (h->magic != assent_be32(ASSENT_LWF_MAGIC))
		return ASSENT_DROP_LWF_MALFORMED;
	if (h->version != ASSENT_LWF_VERSION_1 && h->version != ASSENT_LWF_VERSION_2)
		return ASSENT_DROP_LWF_MALFORMED;
	return assent_lwf_is_whole(assent_be16(h->payload_len), h->frame_class, len)
		   ? ASSENT_ADMITTED
		   : ASSENT_DROP_LWF_MALFORMED;
}

/* Version 1 has no flag to say so, and its frames are relayed. */
static __always_inline int assent_lwf_is_relayable(const struct assent_lwf_header *h)
{
	return h->version == ASSENT_LWF_VERSION_1 || h->flags & ASSENT_LWF_RELAYABLE;
}

static __always_inline int assent_lwf_is_registration(const struct assent_lwf_header *h)
{
	return h->service_type == assent_be16(ASSENT_LWF_RELAY_FORWARD);
}

/* To whichever relay hears it. */
static __always_inline int assent_lwf_is_nobody(const struct assent_lwf_hint *hint)
{
	const __u32 *words = (const __u32 *)hint;

	return !(words[0] | words[1] | words[2] | words[3] | words[4] | words[5]);
}

/*
 * What a frame is remembered by: SipHash-2-4 of its header, which is eleven words. The signature is
 * outside it, for nobody checks that here; the key is secret, so nobody can make a frame that is
 * taken for another one. `h` must be 8-byte aligned but for BPF on a packet.
 */
static __always_inline __u64 assent_lwf_fingerprint(const struct assent_sip *key,
						    const struct assent_lwf_header *h)
{
	struct assent_sip s = *key;

	for (int i = 0; i < ASSENT_LWF_HEADER_LEN / 8; i++)
		assent_sip_absorb(&s, assent_le64(((const __u64 *)h)[i]));
	return assent_sip_finish(&s, (__u64)ASSENT_LWF_HEADER_LEN << 56);
}

#endif /* ASSENT_LWF_H */
