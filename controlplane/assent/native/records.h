/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records: how messages lie in the plaintext of a sealed DATA payload (docs/wire-fabric.md,
 * "Records"). Each is a head of two bytes, big-endian, and as many bytes as it says.
 */
#ifndef AN_RECORDS_H
#define AN_RECORDS_H

#include <stdint.h>

#include "native.h"

#define AN_RECORD_HEAD 2
#define AN_RECORD_LEN 0x3fff

static inline uint32_t an_record_head(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

static inline void an_record_put(uint8_t *at, uint32_t head)
{
	at[0] = (uint8_t)(head >> 8);
	at[1] = (uint8_t)head;
}

/* Is it records to its last byte? *end becomes 1 where they say that no message follows. */
int an_records_check(const uint8_t *plain, uint32_t len, int ordered, int *end);

#endif /* AN_RECORDS_H */
