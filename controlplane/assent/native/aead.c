// SPDX-License-Identifier: Apache-2.0
#include "aead.h"

#include <errno.h>
#include <string.h>

static void put_be16(uint8_t *at, uint16_t value)
{
	value = assent_be16(value);
	memcpy(at, &value, sizeof(value));
}

static void put_be32(uint8_t *at, uint32_t value)
{
	value = assent_be32(value);
	memcpy(at, &value, sizeof(value));
}

int an_cipher_init(struct an_cipher *cipher)
{
	const EVP_CIPHER *kind = EVP_chacha20_poly1305();

	memset(cipher, 0, sizeof(*cipher));
	cipher->seal.ctx = EVP_CIPHER_CTX_new();
	cipher->open.ctx = EVP_CIPHER_CTX_new();
	if (cipher->seal.ctx && cipher->open.ctx &&
	    EVP_CipherInit_ex(cipher->seal.ctx, kind, NULL, NULL, NULL, 1) == 1 &&
	    EVP_CipherInit_ex(cipher->open.ctx, kind, NULL, NULL, NULL, 0) == 1)
		return 0;
	an_cipher_free(cipher);
	return -ENOMEM;
}

void an_cipher_free(struct an_cipher *cipher)
{
	EVP_CIPHER_CTX_free(cipher->seal.ctx); /* cleanses the key */
	EVP_CIPHER_CTX_free(cipher->open.ctx);
	OPENSSL_cleanse(cipher, sizeof(*cipher));
}

void an_aead_init(struct an_aead *aead, const uint8_t key[32], const struct assent_pair *pair,
		  uint32_t epoch, uint16_t flow)
{
	memset(aead, 0, sizeof(*aead));
	memcpy(aead->key, key, sizeof(aead->key));
	memcpy(aead->aad, pair, sizeof(*pair));
	put_be16(aead->aad + 36, flow);
	put_be32(aead->nonce + 2, epoch);
	put_be16(aead->nonce + 6, flow);
}

/* The key, where the context has another one. NULL: it has it. */
static const uint8_t *new_key(struct an_cipher_way *way, const struct an_aead *aead)
{
	if (way->keyed && !memcmp(way->key, aead->key, sizeof(way->key)))
		return NULL;
	memcpy(way->key, aead->key, sizeof(way->key));
	way->keyed = 1;
	return way->key;
}

/* Key, nonce and associated data of one frame. */
static int begin(struct an_cipher_way *way, struct an_aead *aead, uint32_t seq)
{
	int n;

	put_be32(aead->aad + 32, seq);
	put_be32(aead->nonce + 8, seq);
	if (EVP_CipherInit_ex(way->ctx, NULL, NULL, new_key(way, aead), aead->nonce, -1) == 1 &&
	    EVP_CipherUpdate(way->ctx, NULL, &n, aead->aad, AN_AEAD_AAD_LEN) == 1)
		return 1;
	way->keyed = 0;
	return 0;
}

int an_aead_seal(struct an_cipher *cipher, struct an_aead *aead, uint32_t seq, const uint8_t *plain,
		 uint32_t len, uint8_t *out)
{
	EVP_CIPHER_CTX *ctx = cipher->seal.ctx;
	int n;

	if (!begin(&cipher->seal, aead, seq) ||
	    EVP_CipherUpdate(ctx, out, &n, plain, (int)len) != 1 ||
	    EVP_CipherFinal_ex(ctx, out + n, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, ASSENT_AEAD_TAG_LEN, out + len) != 1)
		return -EIO;
	return 0;
}

int an_aead_open(struct an_cipher *cipher, struct an_aead *aead, uint32_t seq,
		 const uint8_t *sealed, uint32_t len, uint8_t *out)
{
	EVP_CIPHER_CTX *ctx = cipher->open.ctx;
	uint8_t tag[ASSENT_AEAD_TAG_LEN];
	int n;

	if (len < ASSENT_AEAD_TAG_LEN)
		return -EBADMSG;
	len -= ASSENT_AEAD_TAG_LEN;
	memcpy(tag, sealed + len, sizeof(tag));
	if (!begin(&cipher->open, aead, seq) ||
	    EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) != 1 ||
	    EVP_CipherUpdate(ctx, out, &n, sealed, (int)len) != 1 ||
	    EVP_CipherFinal_ex(ctx, out + n, &n) != 1)
		return -EBADMSG;
	return 0;
}
