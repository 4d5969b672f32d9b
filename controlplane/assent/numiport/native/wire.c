// SPDX-License-Identifier: Apache-2.0
#include "numi.h"

#include <string.h>

const char *numi_fault_name(uint32_t fault)
{
	static const char *const names[ASSENT_NUMI_FAULTS] = {
	    [ASSENT_NUMI_TAKEN] = "taken",
	    [ASSENT_NUMI_MALFORMED] = "malformed",
	    [ASSENT_NUMI_HDR_MAC_FAIL] = "hdr_mac_fail",
	    [ASSENT_NUMI_AEAD_FAIL] = "aead_fail",
	    [ASSENT_NUMI_REPLAY] = "replay",
	    [ASSENT_NUMI_STALE_SLOT] = "stale_slot",
	    [ASSENT_NUMI_FUTURE_SLOT] = "future_slot",
	    [ASSENT_NUMI_UNKNOWN_PEER] = "unknown_peer",
	    [ASSENT_NUMI_UNKNOWN_PSK] = "unknown_psk",
	    [ASSENT_NUMI_NO_COOKIE] = "no_cookie",
	    [ASSENT_NUMI_BAD_COOKIE] = "bad_cookie",
	    [ASSENT_NUMI_AMPLIFICATION] = "amplification",
	};

	return fault < ASSENT_NUMI_FAULTS ? names[fault] : 0;
}

static enum assent_numi_flaw parse(const uint8_t *packet, size_t len,
				   struct assent_numi_found *found)
{
	if (len > ASSENT_NUMI_PACKET_MAX)
		return ASSENT_NUMI_FLAW_LENGTH;
	return assent_numi_parse(packet, (uint32_t)len, found);
}

/* -- reading ----------------------------------------------------------------------------------- */

static void read_header(const uint8_t *packet, struct numi_head *head)
{
	const struct assent_numi_header *h = (const struct assent_numi_header *)packet;

	head->slot = assent_be64(h->slot);
	head->stream = assent_be32(h->stream);
	head->seq = assent_be32(h->seq);
	head->cls = (uint8_t)assent_numi_class(h);
	head->flags = (uint8_t)assent_numi_flags(h);
	head->fec_total = assent_be16(h->fec_total);
	head->shred_idx = assent_be16(h->shred_idx);
	head->plen = assent_be16(h->plen);
}

static void read_value(const uint8_t *value, uint32_t len, uint32_t type, struct numi_head *head)
{
	switch (type) {
	case ASSENT_NUMI_CAPS:
		head->caps = assent_numi_u32(value);
		head->caps_pmtu = (uint16_t)assent_numi_u16(value + 4);
		head->caps_ecn = value[6];
		head->psk_id_count = (uint8_t)((len - ASSENT_NUMI_CAPS_LEN) / 4);
		for (uint32_t i = 0; i < head->psk_id_count; i++)
			head->psk_ids[i] = assent_numi_u32(value + ASSENT_NUMI_CAPS_LEN + 4 * i);
		return;
	case ASSENT_NUMI_PSK_ID:
		head->psk_id = assent_numi_u32(value);
		return;
	case ASSENT_NUMI_ACK_RLE:
		head->range_count = (uint8_t)(len / 4);
		for (uint32_t i = 0; i < head->range_count; i++) {
			head->range_start[i] = (uint16_t)assent_numi_u16(value + 4 * i);
			head->range_run[i] = (uint16_t)assent_numi_u16(value + 4 * i + 2);
		}
		return;
	case ASSENT_NUMI_NACK_LIST:
		head->nack_count = (uint8_t)(len / 4);
		for (uint32_t i = 0; i < head->nack_count; i++)
			head->nacks[i] = assent_numi_u32(value + 4 * i);
		return;
	case ASSENT_NUMI_PMTU:
		head->pmtu = (uint16_t)assent_numi_u16(value);
		return;
	case ASSENT_NUMI_ECN_SUMMARY:
		head->ce_ratio = (uint16_t)assent_numi_u16(value);
		return;
	case ASSENT_NUMI_RETRY_COOKIE:
		head->cookie_len = (uint8_t)len;
		memcpy(head->cookie, value, len);
		return;
	case ASSENT_NUMI_HDR_MAC:
		memcpy(head->mac, value, len);
		return;
	case ASSENT_NUMI_SESSION_ID:
		memcpy(head->session, value, len);
		return;
	}
}

int numi_decode(const uint8_t *packet, size_t len, struct numi_head *head)
{
	struct assent_numi_found found;
	enum assent_numi_flaw flaw = parse(packet, len, &found);

	if (flaw)
		return flaw;
	memset(head, 0, sizeof(*head));
	read_header(packet, head);
	for (uint32_t type = ASSENT_NUMI_END + 1; type < ASSENT_NUMI_TLVS; type++) {
		if (!found.at[type])
			continue;
		head->present |= 1U << type;
		read_value(packet + found.at[type], found.len[type], type, head);
	}
	head->head_len = found.head_len;
	head->sealed = found.sealed;
	return ASSENT_NUMI_FINE;
}

/* -- writing ----------------------------------------------------------------------------------- */

static void put_u16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

static void put_u32(uint8_t *at, uint32_t value)
{
	put_u16(at, value >> 16);
	put_u16(at + 2, value);
}

static void write_header(const struct numi_head *head, uint8_t *out)
{
	struct assent_numi_header *h = (struct assent_numi_header *)out;

	memset(h, 0, sizeof(*h));
	h->ver = ASSENT_NUMI_VERSION;
	h->kind = (uint8_t)(head->flags << 2 | (head->cls & 3));
	h->slot = assent_be64(head->slot);
	h->stream = assent_be32(head->stream);
	h->seq = assent_be32(head->seq);
	h->fec_total = assent_be16(head->fec_total);
	h->shred_idx = assent_be16(head->shred_idx);
	h->plen = assent_be16(head->plen);
}

/* Returns the value's length. */
static uint32_t write_value(const struct numi_head *head, uint32_t type, uint8_t *value)
{
	switch (type) {
	case ASSENT_NUMI_CAPS:
		put_u32(value, head->caps);
		put_u16(value + 4, head->caps_pmtu);
		value[6] = head->caps_ecn;
		for (uint32_t i = 0; i < head->psk_id_count; i++)
			put_u32(value + ASSENT_NUMI_CAPS_LEN + 4 * i, head->psk_ids[i]);
		return ASSENT_NUMI_CAPS_LEN + 4U * head->psk_id_count;
	case ASSENT_NUMI_PSK_ID:
		put_u32(value, head->psk_id);
		return 4;
	case ASSENT_NUMI_ACK_RLE:
		for (uint32_t i = 0; i < head->range_count; i++) {
			put_u16(value + 4 * i, head->range_start[i]);
			put_u16(value + 4 * i + 2, head->range_run[i]);
		}
		return 4U * head->range_count;
	case ASSENT_NUMI_NACK_LIST:
		for (uint32_t i = 0; i < head->nack_count; i++)
			put_u32(value + 4 * i, head->nacks[i]);
		return 4U * head->nack_count;
	case ASSENT_NUMI_PMTU:
		put_u16(value, head->pmtu);
		return 2;
	case ASSENT_NUMI_ECN_SUMMARY:
		put_u16(value, head->ce_ratio);
		return 2;
	case ASSENT_NUMI_RETRY_COOKIE:
		memcpy(value, head->cookie, head->cookie_len);
		return head->cookie_len;
	case ASSENT_NUMI_HDR_MAC:
		memcpy(value, head->mac, ASSENT_NUMI_MAC_LEN);
		return ASSENT_NUMI_MAC_LEN;
	case ASSENT_NUMI_SESSION_ID:
		memcpy(value, head->session, ASSENT_NUMI_SESSION_LEN);
		return ASSENT_NUMI_SESSION_LEN;
	}
	return 0;
}

static int has_room(const struct numi_head *head)
{
	return head->psk_id_count <= ASSENT_NUMI_PSK_IDS_MAX &&
	       head->range_count <= ASSENT_NUMI_RANGES_MAX &&
	       head->nack_count <= ASSENT_NUMI_NACKS_MAX &&
	       head->cookie_len <= ASSENT_NUMI_COOKIE_MAX;
}

int numi_encode(const struct numi_head *head, uint8_t *out)
{
	struct assent_numi_found found;
	uint32_t at = ASSENT_NUMI_HEADER_LEN;
	uint32_t tag_len = head->sealed ? ASSENT_NUMI_TAG_LEN : 0;
	enum assent_numi_flaw flaw;

	if (!has_room(head))
		return -ASSENT_NUMI_FLAW_TLV_LENGTH;
	memset(out, 0, ASSENT_NUMI_HEAD_MAX);
	write_header(head, out);
	for (uint32_t type = ASSENT_NUMI_END + 1; type < ASSENT_NUMI_TLVS; type++) {
		uint32_t len;

		if (!(head->present & 1U << type))
			continue;
		len = write_value(head, type, out + at + 3);
		out[at] = (uint8_t)type;
		put_u16(out + at + 1, len);
		at += assent_numi_record_len(len);
	}
	at += assent_numi_record_len(0);
	flaw = parse(out, (size_t)at + head->plen + tag_len, &found);
	return flaw ? -(int)flaw : (int)at;
}

/* -- what is covered --------------------------------------------------------------------------- */

int numi_covered(const uint8_t *packet, size_t len, uint8_t *out)
{
	struct assent_numi_found found;
	struct assent_numi_work work;
	enum assent_numi_flaw flaw = parse(packet, len, &found);
	uint32_t count;

	if (flaw)
		return -(int)flaw;
	count = assent_numi_covered(packet, &found, &work);
	for (uint32_t i = 0; i < count; i++)
		put_u32(out + 4 * i, work.words[i]);
	return (int)(4 * count);
}

void numi_mac_init(struct numi_mac_key *key, const uint8_t secret[32])
{
	struct assent_sha256_block padded = {0};
	struct assent_hmac states;

	for (uint32_t i = 0; i < 8; i++)
		padded.w[i] = assent_numi_u32(secret + 4 * i);
	assent_hmac_init(&states, &padded);
	memcpy(key, &states, sizeof(states));
}

static struct assent_hmac states_of(const struct numi_mac_key *key)
{
	struct assent_hmac states;

	memcpy(&states, key, sizeof(states));
	return states;
}

int numi_mac(const struct numi_mac_key *key, const uint8_t *packet, size_t len, uint8_t mac[16])
{
	const struct assent_hmac states = states_of(key);
	struct assent_numi_found found;
	struct assent_numi_work work;
	uint32_t words[ASSENT_NUMI_MAC_LEN / 4];
	enum assent_numi_flaw flaw = parse(packet, len, &found);

	if (flaw)
		return -(int)flaw;
	assent_numi_mac(&states, packet, &found, &work, words);
	for (uint32_t i = 0; i < ASSENT_NUMI_MAC_LEN / 4; i++)
		put_u32(mac + 4 * i, words[i]);
	return 0;
}

int numi_mac_check(const struct numi_mac_key *key, const uint8_t *packet, size_t len)
{
	const struct assent_hmac states = states_of(key);
	struct assent_numi_found found;
	struct assent_numi_work work;
	enum assent_numi_flaw flaw = parse(packet, len, &found);

	if (flaw)
		return -(int)flaw;
	return assent_numi_mac_matches(&states, packet, &found, &work);
}
