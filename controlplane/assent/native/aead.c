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

int an_aead_init(struct an_aead *aead, int encrypt, const uint8_t key[32],
		 const struct assent_pair *pair, uint32_t epoch, uint16_t flow)
{
	memset(aead, 0, sizeof(*aead));
	memcpy(aead->aad, pair, sizeof(*pair));
	put_be16(aead->aad + 36, flow);
	put_be32(aead->nonce + 2, epoch);
	put_be16(aead->nonce + 6, flow);

	aead->ctx = EVP_CIPHER_CTX_new();
	if (!aead->ctx)
		return -ENOMEM;
	/* The key is scheduled once; each frame sets only its nonce. */
	if (EVP_CipherInit_ex(aead->ctx, EVP_chacha20_poly1305(), NULL, key, NULL, encrypt) != 1) {
		an_aead_free(aead);
		return -EINVAL;
	}
	return 0;
}

void an_aead_free(struct an_aead *aead)
{
	EVP_CIPHER_CTX_free(aead->ctx); /* cleanses the key */
	aead->ctx = NULL;
}

/* Nonce and associated data of one frame. */
static int begin(struct an_aead *aead, uint32_t seq)
{
	int n;

	put_be32(aead->aad + 32, seq);
	put_be32(aead->nonce + 8, seq);
	return EVP_CipherInit_ex(aead->ctx, NULL, NULL, NULL, aead->nonce, -1) == 1 &&
	       EVP_CipherUpdate(aead->ctx, NULL, &n, aead->aad, AN_AEAD_AAD_LEN) == 1;
}

int an_aead_seal(struct an_aead *aead, uint32_t seq, const uint8_t *plain, uint32_t len,
		 uint8_t *out)
{
	int n;

	if (!begin(aead, seq) || EVP_CipherUpdate(aead->ctx, out, &n, plain, (int)len) != 1 ||
	    EVP_CipherFinal_ex(aead->ctx, out + n, &n) != 1 ||
	    EVP_CIPHER_CTX_ctrl(aead->ctx, EVP_CTRL_AEAD_GET_TAG, ASSENT_AEAD_TAG_LEN, out + len) !=
		1)
		return -EIO;
	return 0;
}

int an_aead_open(struct an_aead *aead, uint32_t seq, const uint8_t *sealed, uint32_t len,
		 uint8_t *out)
{
	uint8_t tag[ASSENT_AEAD_TAG_LEN];
	int n;

	if (len < ASSENT_AEAD_TAG_LEN)
		return -EBADMSG;
	len -= ASSENT_AEAD_TAG_LEN;
	memcpy(tag, sealed + len, sizeof(tag));
	if (!begin(aead, seq) ||
	    EVP_CIPHER_CTX_ctrl(aead->ctx, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) != 1 ||
	    EVP_CipherUpdate(aead->ctx, out, &n, sealed, (int)len) != 1 ||
	    EVP_CipherFinal_ex(aead->ctx, out + n, &n) != 1)
		return -EBADMSG;
	return 0;
}
