/* SPDX-License-Identifier: Apache-2.0 */
/* ChaCha20-Poly1305 (RFC 8439) from libcrypto, with the fabric's nonce and associated data. */
#ifndef AN_AEAD_H
#define AN_AEAD_H

#include <openssl/evp.h>
#include <stdint.h>

#include "assent/wire.h"

#define AN_AEAD_AAD_LEN 38 /* src, dst, seq, flow */

struct an_aead {
	EVP_CIPHER_CTX *ctx;
	uint8_t aad[AN_AEAD_AAD_LEN];
	uint8_t nonce[12]; /* 2 zero bytes, epoch, flow, seq */
};

/* `pair`: sender, then receiver. Returns 0 or a negative errno. */
int an_aead_init(struct an_aead *aead, int encrypt, const uint8_t key[32],
		 const struct assent_pair *pair, uint32_t epoch, uint16_t flow);
void an_aead_free(struct an_aead *aead);

/* out takes len + 16 bytes. */
int an_aead_seal(struct an_aead *aead, uint32_t seq, const uint8_t *plain, uint32_t len,
		 uint8_t *out);
/* len counts the tag; out takes len - 16 bytes and is undefined when this fails. */
int an_aead_open(struct an_aead *aead, uint32_t seq, const uint8_t *sealed, uint32_t len,
		 uint8_t *out);

#endif /* AN_AEAD_H */
