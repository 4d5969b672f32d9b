// SPDX-License-Identifier: Apache-2.0
/* Cells and sessions by the thousand: their names, their keys, their entries in the gate's maps. */
#include <bpf/bpf.h>
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

#include "assent/tables.h"
#include "assent/tag.h"
#include "native.h"

#define CELL_LEN 16
#define PAIR_LEN 32
#define KEY_LEN 16
#define PSK_LEN 32

/* SipHash-2-4 with 128 bits of output, of 32 bytes, under the key "assent-cellid-v1". */
void an_cell_ids(const uint8_t *public_keys, size_t count, uint8_t *ids)
{
	static const char name[] = "assent-cellid-v1";
	__u64 key[2];

	memcpy(key, name, sizeof(key));
	for (size_t i = 0; i < count; i++) {
		struct assent_sip s;
		__u64 words[4], half[2];

		memcpy(words, public_keys + i * sizeof(words), sizeof(words));
		assent_sip_init(&s, assent_le64(key[0]), assent_le64(key[1]));
		s.v1 ^= 0xee;
		for (int word = 0; word < 4; word++)
			assent_sip_absorb(&s, assent_le64(words[word]));
		assent_sip_absorb(&s, (__u64)sizeof(words) << 56);
		s.v2 ^= 0xee;
		for (int at = 0; at < 2; at++) {
			for (int round = 0; round < 4; round++)
				assent_sip_round(&s);
			half[at] = assent_le64(s.v0 ^ s.v1 ^ s.v2 ^ s.v3);
			s.v1 ^= 0xdd;
		}
		memcpy(ids + i * sizeof(half), half, sizeof(half));
	}
}

/* HKDF with SHA-256 (RFC 5869): the salt is a constant, the info is the pair. */
int an_admission_keys(const uint8_t *psks, const uint8_t *pairs, size_t count, uint8_t *keys)
{
	static char digest[] = "SHA256", salt[] = "assent-admission-v1";
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
	EVP_KDF_CTX *context = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	int rc = context ? 0 : -ENOMEM;

	for (size_t i = 0; i < count && !rc; i++) {
		OSSL_PARAM params[] = {
		    OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
		    OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, sizeof(salt) - 1),
		    OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
						      (void *)(psks + i * PSK_LEN), PSK_LEN),
		    OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO,
						      (void *)(pairs + i * PAIR_LEN), PAIR_LEN),
		    OSSL_PARAM_construct_end(),
		};

		EVP_KDF_CTX_reset(context);
		if (EVP_KDF_derive(context, keys + i * KEY_LEN, KEY_LEN, params) != 1)
			rc = -EINVAL;
	}
	EVP_KDF_CTX_free(context);
	EVP_KDF_free(kdf);
	return rc;
}

int an_map_lookup(int fd, const uint8_t *keys, size_t key_size, size_t count, uint8_t *values,
		  size_t value_size, uint8_t *found)
{
	for (size_t i = 0; i < count; i++) {
		if (!found[i] ||
		    !bpf_map_lookup_elem(fd, keys + i * key_size, values + i * value_size))
			continue;
		if (errno != ENOENT)
			return -errno;
		found[i] = 0;
	}
	return 0;
}

/* The state after a pair, or after the pair the other way round. */
static struct assent_sip state_of(const uint8_t *key, const uint8_t *pair, int departing)
{
	struct assent_header h = {0};
	struct assent_sip state;
	uint64_t half[2];

	memcpy(half, key, sizeof(half));
	memcpy(&h.pair, pair + (departing ? CELL_LEN : 0), CELL_LEN);
	memcpy((uint8_t *)&h.pair + CELL_LEN, pair + (departing ? 0 : CELL_LEN), CELL_LEN);
	state = assent_pair_state(assent_le64(half[0]), assent_le64(half[1]), &h);
	OPENSSL_cleanse(half, sizeof(half));
	return state;
}

static struct assent_sip departing_state(const uint8_t *keys, const uint8_t *has,
					 const uint8_t *pairs, size_t i)
{
	struct assent_sip none = {0};

	return has[i] ? state_of(keys + i * KEY_LEN, pairs + i * PAIR_LEN, 1) : none;
}

/* Entries lie in byte arrays of any alignment, and are moved in and out. */
static struct assent_session entry_at(const uint8_t *entries, size_t i)
{
	struct assent_session entry;

	memcpy(&entry, entries + i * sizeof(entry), sizeof(entry));
	return entry;
}

static void put_entry(uint8_t *entries, size_t i, const struct assent_session *entry)
{
	memcpy(entries + i * sizeof(*entry), entry, sizeof(*entry));
}

/* What the gate has written of a rate goes on under other limits. */
static void set_limits(struct assent_session *e, const struct an_pair_columns *c, size_t i)
{
	e->data_interval = c->data_interval[i];
	e->data_burst = c->data_burst[i];
	e->open_from = c->open_from[i];
	e->open_until = c->open_until[i];
	e->payload_limit = c->payload_limit[i];
}

static int has_limits(const struct assent_session *e, const struct an_pair_columns *c, size_t i)
{
	return e->data_interval == c->data_interval[i] && e->data_burst == c->data_burst[i] &&
	       e->open_from == c->open_from[i] && e->open_until == c->open_until[i] &&
	       e->payload_limit == c->payload_limit[i];
}

void an_pack_pairs(uint8_t *entries, const struct an_pair_columns *c, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct assent_session e = entry_at(entries, i);

		e.admission = state_of(c->admission + i * KEY_LEN, c->pairs + i * PAIR_LEN, 0);
		e.departing_admission =
		    departing_state(c->departing, c->has_departing, c->pairs, i);
		e.flags = (e.flags & ~c->policy_mask) | c->policy[i];
		set_limits(&e, c, i);
		put_entry(entries, i, &e);
	}
}

void an_pack_sessions(uint8_t *entries, const struct an_session_columns *c, size_t count)
{
	const struct assent_sip none = {0};

	for (size_t i = 0; i < count; i++) {
		struct assent_session e = entry_at(entries, c->rows[i]);

		e.current = state_of(c->arriving + i * KEY_LEN, c->pairs + i * PAIR_LEN, 0);
		e.flags = (e.flags & c->policy_mask) | ASSENT_SESSION_ESTABLISHED;
		e.flow_base = c->flow_base[i];
		e.flow_count = c->flow_count[i];
		e.payload_max = c->payload_max[i];
		e.session_id = c->session_id[i];
		e.clock_offset = c->clock_offset[i];
		e.skew_limit = c->skew_limit[i];
		e.alternate = none;
		e.departing = departing_state(c->departing, c->has_departing, c->pairs, i);
		put_entry(entries, c->rows[i], &e);
	}
}

void an_set_tallies(uint8_t *entries, const uint32_t *rows, const uint32_t *tallies, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct assent_session e = entry_at(entries, rows[i]);

		e.tally = tallies[i];
		put_entry(entries, rows[i], &e);
	}
}

void an_pack_flows(uint8_t *lines, const uint8_t *alike, size_t flows, const uint32_t *bases,
		   size_t count)
{
	for (size_t i = 0; i < count; i++) {
		for (size_t f = 0; f < flows; f++) {
			struct assent_flow line;

			memcpy(&line, alike + f * sizeof(line), sizeof(line));
			if (line.replay_len)
				line.replay_base = bases[f * count + i];
			memcpy(lines + (i * flows + f) * sizeof(line), &line, sizeof(line));
		}
	}
}

void an_compare_pairs(const uint8_t *entries, const uint8_t *found, const struct an_pair_columns *c,
		      size_t count, uint8_t *differences)
{
	for (size_t i = 0; i < count; i++) {
		struct assent_session e = entry_at(entries, i);
		struct assent_sip arriving =
		    state_of(c->admission + i * KEY_LEN, c->pairs + i * PAIR_LEN, 0);
		struct assent_sip departing =
		    departing_state(c->departing, c->has_departing, c->pairs, i);

		if (!found[i])
			differences[i] = AN_ABSENT;
		else if (memcmp(&e.admission, &arriving, sizeof(arriving)) ||
			 memcmp(&e.departing_admission, &departing, sizeof(departing)))
			differences[i] = AN_ADMISSION;
		else if ((e.flags & c->policy_mask) != c->policy[i] || !has_limits(&e, c, i))
			differences[i] = AN_POLICY;
		else
			differences[i] = AN_SAME;
	}
}

void an_compare_sessions(const uint8_t *entries, const uint8_t *found, const uint32_t *session_ids,
			 size_t count, uint8_t *alive)
{
	for (size_t i = 0; i < count; i++) {
		struct assent_session e = entry_at(entries, i);

		alive[i] = found[i] && (e.flags & ASSENT_SESSION_ESTABLISHED) &&
			   e.session_id == session_ids[i];
	}
}
