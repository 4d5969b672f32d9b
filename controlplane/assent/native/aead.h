/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ChaCha20-Poly1305 (RFC 8439) from libcrypto, with the fabric's nonce and associated data.
 *
 * libcrypto's contexts are large, and a key is scheduled in little time; so one context each way
 * serves all flows (struct an_cipher), and a flow keeps its keys alone (struct an_aead). A key is
 * scheduled where the context has another one.
 */
#ifndef AN_AEAD_H
#define AN_AEAD_H

#include <openssl/evp.h>
#include <stdint.h>

#include "assent/wire.h"

#define AN_AEAD_AAD_LEN 38 /* src, dst, seq, flow */

struct an_aead {
	uint8_t key[32];
	uint8_t aad[AN_AEAD_AAD_LEN];
	uint8_t nonce[12]; /* 2 zero bytes, epoch, flow, seq */
};

struct an_cipher_way {
	EVP_CIPHER_CTX *ctx;
	uint8_t key[32]; /* that it has; with keyed */
	int keyed;
};

struct an_cipher {
	struct an_cipher_way seal;
	struct an_cipher_way open;
};

/* 0, or -ENOMEM. */
int an_cipher_init(struct an_cipher *cipher);
void an_cipher_free(struct an_cipher *cipher);

/* `pair`: sender, then receiver. */
void an_aead_init(struct an_aead *aead, const uint8_t key[32], const struct assent_pair *pair,
		  uint32_t epoch, uint16_t flow);

/* `out` takes len + 16 bytes, and may be `plain`. Returns 0 or -EIO. */
int an_aead_seal(struct an_cipher *cipher, struct an_aead *aead, uint32_t seq, const uint8_t *plain,
		 uint32_t len, uint8_t *out);
/* `len` counts the tag; `out` takes len - 16 bytes, may be `sealed`, and is undefined when this
 * fails. Returns 0 or -EBADMSG. */
int an_aead_open(struct an_cipher *cipher, struct an_aead *aead, uint32_t seq,
		 const uint8_t *sealed, uint32_t len, uint8_t *out);

#endif /* AN_AEAD_H */
