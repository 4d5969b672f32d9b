/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the flows of one ring share: buffers for payloads, and the contexts of the cipher.
 *
 * A buffer holds one frame's payload: text that waits to be sealed, a sealed payload that may be
 * asked for again, or one that arrived and waits to be read. Buffers come in size classes of whole
 * blocks, so that what is held is about what it cost in credit. Those given back are kept for the
 * next taker, up to AN_POOL_SPARE bytes of them; the rest goes back to the C library.
 *
 * No locks: who holds the ring holds the pool.
 */
#ifndef AN_POOL_H
#define AN_POOL_H

#include "aead.h"

#define AN_POOL_CLASSES 12
#define AN_POOL_SPARE (4u << 20) /* bytes kept for the next taker */

struct an_buffer {
	struct an_buffer *next; /* in whatever list it is */
	union {
		uint32_t seq;           /* of a frame that arrived: its number */
		uint32_t message_bytes; /* of one to be sent: what it carries of messages */
	};
	uint16_t len; /* bytes of `data` in use */
	uint8_t size_class;
	uint8_t lamp; /* it is to be sent under LAMP */
	uint8_t data[];
};

struct an_pool {
	struct an_buffer *spare[AN_POOL_CLASSES];
	uint64_t spare_bytes;
	uint64_t held_bytes; /* by flows */
	struct an_cipher cipher;
};

/* 0, or -ENOMEM. */
int an_pool_init(struct an_pool *pool);
/* Every flow is freed first. */
void an_pool_free(struct an_pool *pool);

/* Room for `len` bytes, or NULL. `len` is at most AN_FRAME_MAX. */
struct an_buffer *an_pool_take(struct an_pool *pool, uint32_t len);
/* NULL is nothing. */
void an_pool_give(struct an_pool *pool, struct an_buffer *buffer);
/* Bytes that `data` has. */
uint32_t an_buffer_room(const struct an_buffer *buffer);
/* The same content in the smallest buffer that has room for `len` bytes; where there is none to be
 * had, in the one given. */
struct an_buffer *an_buffer_shrink(struct an_pool *pool, struct an_buffer *buffer, uint32_t len);

#endif /* AN_POOL_H */
