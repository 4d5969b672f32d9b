// SPDX-License-Identifier: Apache-2.0
#include "link.h"

#include <string.h>

#include "random.h"

void sim_link_init(struct sim_link *link, const struct sim_link_config *config, uint64_t seed)
{
	memset(link, 0, sizeof(*link));
	link->config = *config;
	link->random = seed;
}

int sim_link_add_outage(struct sim_link *link, uint64_t from, uint64_t until)
{
	if (link->outage_count == SIM_OUTAGES)
		return -1;
	link->outages[link->outage_count++] = (struct sim_outage){from, until};
	return 0;
}

uint64_t sim_link_time(uint64_t rate, uint32_t len)
{
	return ((uint64_t)len + SIM_WIRE_EXTRA) * 8 * 1000000000 / rate;
}

static int chance(struct sim_link *link, double probability)
{
	return sim_random_unit(&link->random) < probability;
}

/* Uniform in [0, limit]. */
static uint64_t some(struct sim_link *link, uint64_t limit)
{
	return (uint64_t)(sim_random_unit(&link->random) * (double)limit);
}

static int is_out(const struct sim_link *link, uint64_t at)
{
	for (uint32_t i = 0; i < link->outage_count; i++) {
		if (at >= link->outages[i].from && at < link->outages[i].until)
			return 1;
	}
	return 0;
}

/* The state changes from frame to frame; loss in the good state is `loss`. */
static int is_lost(struct sim_link *link)
{
	const struct sim_link_config *config = &link->config;

	link->bad = chance(link, link->bad ? 1 - config->burst_leave : config->burst_enter);
	return chance(link, link->bad ? config->burst_loss : config->loss);
}

/* Those that are held back may be overtaken; all others arrive in the order in which they left. */
static uint64_t arrival(struct sim_link *link, uint64_t left)
{
	uint64_t at = left + link->config.delay + some(link, link->config.jitter);

	if (chance(link, link->config.reorder)) {
		link->stats.held_back++;
		return at + some(link, link->config.reorder_delay);
	}
	if (at < link->last_at)
		at = link->last_at;
	link->last_at = at;
	return at;
}

int sim_link_take(struct sim_link *link, uint64_t now, uint32_t len, uint64_t at[SIM_COPIES])
{
	const struct sim_link_config *config = &link->config;
	uint64_t free_at = link->free_at > now ? link->free_at : now;
	uint64_t waiting = (uint64_t)((double)(free_at - now) * (double)config->rate / 8e9);
	int copies = 1;

	link->stats.frames++;
	link->stats.bytes += len;
	if (config->queue && waiting + len > config->queue) {
		link->stats.overflowed++;
		return 0;
	}
	if (waiting > link->stats.queue_max)
		link->stats.queue_max = waiting;
	link->free_at = free_at + sim_link_time(config->rate, len);
	link->stats.busy += link->free_at - free_at;
	if (is_out(link, link->free_at)) {
		link->stats.obscured++;
		return 0;
	}
	if (is_lost(link)) {
		link->stats.lost++;
		return 0;
	}
	if (chance(link, config->duplicate)) {
		link->stats.duplicated++;
		copies = 2;
	}
	for (int i = 0; i < copies; i++)
		at[i] = arrival(link, link->free_at);
	return copies;
}
