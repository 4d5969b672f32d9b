/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One direction of a link: a queue, a transmitter, and a distance.
 *
 *     frame -> queue (drop-tail) -> transmitter (rate) -> outage? loss? -> distance (delay) ->
 * copies
 *
 * A link keeps no frames and no events: of a frame that is handed over now it says at once when its
 * copies arrive. A queue in front of a transmitter of fixed rate needs no more than the time at
 * which the transmitter will be free.
 *
 * What happens to a frame depends on the seed and on how many frames went before it, not on what
 * is in it; so two protocols over links of one seed meet the same weather.
 */
#ifndef SIM_LINK_H
#define SIM_LINK_H

#include <stdint.h>

#include "sim.h"

#define SIM_OUTAGES 64
#define SIM_COPIES 2
/* Bytes that a frame takes on the wire beside its own: preamble, check sequence, gap. */
#define SIM_WIRE_EXTRA 24

struct sim_outage {
	uint64_t from; /* ns */
	uint64_t until;
};

struct sim_link {
	struct sim_link_config config;
	struct sim_outage outages[SIM_OUTAGES];
	uint32_t outage_count;
	uint64_t random;
	int bad;          /* Gilbert and Elliott's state */
	uint64_t free_at; /* when the transmitter has sent all that was queued */
	uint64_t last_at; /* arrival of the newest frame that was not held back */
	struct sim_link_stats stats;
};

void sim_link_init(struct sim_link *link, const struct sim_link_config *config, uint64_t seed);
/* Returns 0, or -1: there are as many as a link can have. */
int sim_link_add_outage(struct sim_link *link, uint64_t from, uint64_t until);
/* Takes a frame of `len` bytes; returns how many copies of it arrive, and in `at` when. */
int sim_link_take(struct sim_link *link, uint64_t now, uint32_t len, uint64_t at[SIM_COPIES]);
/* ns that the transmitter needs for a frame of `len` bytes. */
uint64_t sim_link_time(uint64_t rate, uint32_t len);

#endif /* SIM_LINK_H */
