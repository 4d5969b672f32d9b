/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers for generated frames: the same in every run of a seed. Each includer has its own row. */
#ifndef FRAMES_RANDOM_H
#define FRAMES_RANDOM_H

#include <stdint.h>

static uint64_t random_state;

static uint64_t random_u64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static uint32_t below(uint32_t bound)
{
	return (uint32_t)(random_u64() >> 32) % bound;
}

static int percent(uint32_t chance)
{
	return below(100) < chance;
}

#define PICK(list) ((list)[below(sizeof(list) / sizeof((list)[0]))])

#endif /* FRAMES_RANDOM_H */
