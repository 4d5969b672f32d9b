/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native parts of Numiport as Python sees them: the codec and the header MAC here, and each
 * other part in a header of its own, whose lines between the two marks below Python sees as well.
 *
 * Nothing here allocates, and nothing is kept between calls.
 */
#ifndef NUMI_NUMI_H
#define NUMI_NUMI_H

#include <stddef.h>
#include <stdint.h>

#include "assent/numiport.h"

/* python: begin */

/* What the head of a packet says. A TLV's fields count where its bit is in `present`. */
struct numi_head {
	uint64_t slot;
	uint32_t stream; /* enum assent_numi_stream */
	uint32_t seq;
	uint8_t cls;   /* enum assent_numi_class */
	uint8_t flags; /* enum assent_numi_flag */
	uint16_t fec_total;
	uint16_t shred_idx;
	uint16_t plen;
	uint32_t present; /* 1 << enum assent_numi_tlv */
	uint32_t caps;    /* enum assent_numi_cap, and bits that are not known */
	uint32_t psk_ids[4];
	uint16_t caps_pmtu;
	uint8_t caps_ecn;
	uint8_t psk_id_count;
	uint8_t range_count;
	uint8_t nack_count;
	uint8_t cookie_len;
	uint8_t sealed;    /* a tag follows the payload */
	uint16_t head_len; /* bytes; decoded only */
	uint16_t pmtu;
	uint32_t psk_id;
	uint16_t range_start[16];
	uint16_t range_run[16];
	uint32_t nacks[8];
	uint16_t ce_ratio;
	uint8_t cookie[32];
	uint8_t mac[16];
	uint8_t session[16];
};

/* The states that a header MAC starts from (struct assent_hmac). */
struct numi_mac_key {
	uint32_t inner[8];
	uint32_t outer[8];
};

/* What a fault (enum assent_numi_fault) is counted as; NULL: there is none of that number. */
const char *numi_fault_name(uint32_t fault);

/* Reads a whole datagram; returns enum assent_numi_flaw. The payload begins at `head_len`. */
int numi_decode(const uint8_t *packet, size_t len, struct numi_head *head);
/* Writes a head, TLVs by their types' numbers and END at last; ASSENT_NUMI_HEAD_MAX bytes are there
 * for it. Returns its length, or minus the flaw for which it would be refused. */
int numi_encode(const struct numi_head *head, uint8_t *out);
/* What is under header MAC and seal, copied to `out`, where there are ASSENT_NUMI_HEAD_MAX bytes.
 * Returns its length, or minus the datagram's flaw. */
int numi_covered(const uint8_t *packet, size_t len, uint8_t *out);

void numi_mac_init(struct numi_mac_key *key, const uint8_t secret[32]);
/* The header MAC that a datagram must carry; whether it has room for one is not asked. Returns 0,
 * or minus its flaw. */
int numi_mac(const struct numi_mac_key *key, const uint8_t *packet, size_t len, uint8_t mac[16]);
/* 1: it carries the right one. 0: it carries another one, or none. Minus its flaw. */
int numi_mac_check(const struct numi_mac_key *key, const uint8_t *packet, size_t len);

/* python: end */

_Static_assert(sizeof(struct numi_mac_key) == sizeof(struct assent_hmac), "the same states");

#endif /* NUMI_NUMI_H */
