// SPDX-License-Identifier: Apache-2.0
#include "pool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Blocks of each class: never more than half too much. The last holds the longest frame. */
static const uint8_t class_blocks[AN_POOL_CLASSES] = {1, 2, 3, 4, 6, 8, 12, 16, 22, 32, 44, 60};

static uint32_t class_of(uint32_t len)
{
	uint32_t blocks = (len + ASSENT_BLOCK_LEN - 1) / ASSENT_BLOCK_LEN;
	uint32_t i = 0;

	while (class_blocks[i] < blocks)
		i++;
	return i;
}

static uint32_t class_bytes(uint32_t size_class)
{
	return (uint32_t)(sizeof(struct an_buffer) +
			  (size_t)class_blocks[size_class] * ASSENT_BLOCK_LEN);
}

int an_pool_init(struct an_pool *pool)
{
	memset(pool, 0, sizeof(*pool));
	return an_cipher_init(&pool->cipher);
}

void an_pool_free(struct an_pool *pool)
{
	for (unsigned int i = 0; i < AN_POOL_CLASSES; i++) {
		while (pool->spare[i]) {
			struct an_buffer *buffer = pool->spare[i];

			pool->spare[i] = buffer->next;
			free(buffer);
		}
	}
	pool->spare_bytes = 0;
	an_cipher_free(&pool->cipher);
}

struct an_buffer *an_pool_take(struct an_pool *pool, uint32_t len)
{
	uint32_t size_class = class_of(len);
	struct an_buffer *buffer = pool->spare[size_class];

	if (buffer) {
		pool->spare[size_class] = buffer->next;
		pool->spare_bytes -= class_bytes(size_class);
	} else {
		buffer = malloc(class_bytes(size_class));
		if (!buffer)
			return NULL;
		buffer->size_class = (uint8_t)size_class;
	}
	pool->held_bytes += class_bytes(size_class);
	buffer->next = NULL;
	buffer->seq = 0;
	buffer->len = 0;
	buffer->lamp = 0;
	return buffer;
}

void an_pool_give(struct an_pool *pool, struct an_buffer *buffer)
{
	uint32_t bytes;

	if (!buffer)
		return;
	bytes = class_bytes(buffer->size_class);
	pool->held_bytes -= bytes;
	if (pool->spare_bytes + bytes > AN_POOL_SPARE) {
		free(buffer);
		return;
	}
	buffer->next = pool->spare[buffer->size_class];
	pool->spare[buffer->size_class] = buffer;
	pool->spare_bytes += bytes;
}

uint32_t an_buffer_room(const struct an_buffer *buffer)
{
	return (uint32_t)class_blocks[buffer->size_class] * ASSENT_BLOCK_LEN;
}

struct an_buffer *an_buffer_shrink(struct an_pool *pool, struct an_buffer *buffer, uint32_t len)
{
	struct an_buffer *smaller;

	if (class_of(len) == buffer->size_class)
		return buffer;
	smaller = an_pool_take(pool, len);
	if (!smaller)
		return buffer;
	smaller->seq = buffer->seq;
	smaller->len = buffer->len;
	smaller->lamp = buffer->lamp;
	memcpy(smaller->data, buffer->data, buffer->len);
	an_pool_give(pool, buffer);
	return smaller;
}
