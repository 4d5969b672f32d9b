// SPDX-License-Identifier: Apache-2.0
#include <stdbool.h>
#include <stdlib.h>

#include "replay.h"

struct numi_replay {
	struct assent_numi_replay window;
	__u64 words[];
};

static bool is_shape(uint32_t slots, uint32_t seqs)
{
	return slots >= ASSENT_NUMI_REPLAY_SLOTS && slots <= ASSENT_NUMI_REPLAY_SLOTS_MAX &&
	       seqs >= ASSENT_NUMI_REPLAY_WORD_BITS && seqs <= ASSENT_NUMI_REPLAY_SEQS_MAX &&
	       !(seqs & (seqs - 1));
}

struct numi_replay *numi_replay_new(uint32_t slots, uint32_t seqs, uint64_t first)
{
	struct assent_numi_replay window = {.seqs = seqs};
	struct numi_replay *replay;

	if (!is_shape(slots, seqs))
		return NULL;
	window.newest = assent_numi_replay_begin(first, slots);
	window.slots = (uint16_t)slots;
	window.ring_mask = (uint16_t)(assent_numi_replay_ring(slots) - 1);
	replay = calloc(1, sizeof(*replay) +
			       assent_numi_replay_words(&window) * sizeof(replay->words[0]));
	if (replay)
		replay->window = window;
	return replay;
}

void numi_replay_free(struct numi_replay *replay)
{
	free(replay);
}

uint32_t numi_replay_check(const struct numi_replay *replay, uint64_t slot, uint32_t seq,
			   uint64_t latest)
{
	uint32_t index = assent_numi_replay_index(&replay->window, slot, seq);

	return assent_numi_replay_check(&replay->window, ASSENT_READ_ONCE(replay->words[index]),
					slot, seq, latest);
}

uint32_t numi_replay_take(struct numi_replay *replay, uint64_t slot, uint32_t seq, uint64_t latest)
{
	uint32_t fault = numi_replay_check(replay, slot, seq, latest);
	uint32_t index = assent_numi_replay_index(&replay->window, slot, seq);

	if (fault)
		return fault;
	return assent_numi_replay_commit(&replay->window, &replay->words[index], slot, seq);
}

uint64_t numi_replay_newest(const struct numi_replay *replay)
{
	return replay->window.newest;
}

uint32_t numi_replay_count(const struct numi_replay *replay, uint64_t slot)
{
	uint32_t first = assent_numi_replay_index(&replay->window, slot, 0);
	uint32_t words = replay->window.seqs / ASSENT_NUMI_REPLAY_WORD_BITS;
	uint32_t count = 0;

	if (assent_numi_replay_floor(&replay->window, slot, 0, replay->window.newest))
		return 0;
	for (uint32_t i = first; i < first + words; i++)
		if ((uint32_t)(replay->words[i] >> 32) == (uint32_t)slot)
			count += (uint32_t)__builtin_popcount((uint32_t)replay->words[i]);
	return count;
}
