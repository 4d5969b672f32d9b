/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replay window of assent/numi_replay.h with its words, as user space keeps it: for packets
 * that no gate has looked at, and beside the gate where one has.
 */
#ifndef NUMI_REPLAY_H
#define NUMI_REPLAY_H

#include "numi.h"

#include "assent/numi_replay.h"

/* python: begin */

struct numi_replay;

/*
 * A window of `slots` slots with `seqs` sequence numbers each; slots before `first` are stale from
 * the start. NULL: no memory, or a bound of numi_replay.h is passed.
 */
struct numi_replay *numi_replay_new(uint32_t slots, uint32_t seqs, uint64_t first);
void numi_replay_free(struct numi_replay *replay);

/* Would it be taken? enum assent_numi_fault; writes nothing. */
uint32_t numi_replay_check(const struct numi_replay *replay, uint64_t slot, uint32_t seq,
			   uint64_t latest);
/* Takes it, after all else about the packet is verified. */
uint32_t numi_replay_take(struct numi_replay *replay, uint64_t slot, uint32_t seq, uint64_t latest);

uint64_t numi_replay_newest(const struct numi_replay *replay);
/* Sequence numbers of a slot that were taken; 0 for one outside of the window. */
uint32_t numi_replay_count(const struct numi_replay *replay, uint64_t slot);

/* python: end */

#endif /* NUMI_REPLAY_H */
