/* SPDX-License-Identifier: Apache-2.0 */
/* SplitMix64 (Steele, Lea, Flood 2014): one word of state, so a seed says all of a run. */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stdint.h>

static inline uint64_t sim_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static inline uint64_t sim_random(uint64_t *state)
{
	return sim_mix(*state += 0x9e3779b97f4a7c15ULL);
}

/* In [0, 1), of 53 bits. */
static inline double sim_random_unit(uint64_t *state)
{
	return (double)(sim_random(state) >> 11) * 0x1.0p-53;
}

#endif /* SIM_RANDOM_H */
