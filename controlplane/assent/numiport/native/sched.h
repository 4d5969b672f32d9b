/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When each packet to one peer leaves (seed 5.4 and 10.5), in virtual time.
 *
 *     push -> a heap per class, earliest deadline first -> turns -> departures, each with its time
 *                                                           ^
 *                          credits, floor, bursts, quanta --'
 *
 * Nothing here reads a clock: run() plays the peer's time forward from where it stopped to `until`
 * and says what leaves when. The same calls give the same departures. All arithmetic is in whole
 * numbers; a bucket holds bytes and, beside them, the part of a byte as a numerator over the slot's
 * length, so nothing is lost inside a slot. At a slot's start parts of bytes are dropped.
 *
 * A turn, at time t. A class is ready where its first packet is covered by its credit.
 *
 *   0. What is past its deadline is given back as late.
 *   1. P0, if it is ready. After `burst_p0` of it in a row, P1 or P2 first, if one is ready.
 *   2. P2, if it is ready and behind its floor: what is due of the floor grows from nothing at the
 *      slot's start to all of it at 7/8 of the slot, so that there is time for it.
 *   3. P1 and P2 by deficit round robin. After `burst_p1` of P1 in a row, P2 if it is ready.
 *      Whatever P2 is given by 2 and 3 is charged to its deficit, which may fall below zero, by
 *      its quantum at most.
 *   4. P3, if nothing at all waits in the others.
 *
 * Where no class is ready, time goes on to the moment at which one will be. Where a line rate is
 * given, a packet takes its time on that line before the next one's turn.
 *
 * Nothing leaves before the slot's start and the peer's phase, nor at the slot's end or after,
 * until the next slot is begun. Then budgets are scaled by the marks of the slot that ended.
 *
 * Cost, in batches of 256: 13 to 24 ns a packet for push(), 32 to 98 for run(), the more the longer
 * the queues are. Queues grow as they are filled, by 32 bytes a packet.
 *
 * Bounds: credit, floor and quanta up to 2^30 bytes; slots of 1 ms to 8 s; times below 2^62 ns.
 */
#ifndef NUMI_SCHED_H
#define NUMI_SCHED_H

#include <stddef.h>
#include <stdint.h>

/* python: begin */

#define NUMI_CLASSES 4
#define NUMI_SCHED_PACKET_MAX 65507
#define NUMI_SCHED_CREDIT_MAX 1073741824
#define NUMI_SCHED_SLOT_LEAST 1000000
#define NUMI_SCHED_SLOT_MOST 8000000000
#define NUMI_SCHED_TIME_MAX 4611686018427387904
/* Slots ahead of the present one for which packets are taken. */
#define NUMI_SCHED_AHEAD 64

struct numi_sched_class {
	uint32_t credit;  /* bytes per slot */
	uint32_t floor;   /* that scaling and caps leave */
	uint32_t ceiling; /* of a cap */
	uint32_t queue_packets;
	uint32_t queue_bytes;
	uint64_t margin; /* ns before the end of its slot at which a packet is late */
};

struct numi_sched_config {
	struct numi_sched_class classes[NUMI_CLASSES];
	uint32_t burst_p0;
	uint32_t burst_p1;
	uint32_t quantum_p1;
	uint32_t quantum_p2;
	uint32_t bursts;
	uint32_t high_permille;
	uint32_t high_scale;
	uint32_t raised_permille;
	uint32_t raised_scale;
	uint32_t calm_permille;
	uint32_t calm_scale;
	uint32_t calm_slots;
	uint32_t step_permille;
	uint64_t line;  /* bytes per second; 0 = packets take no time */
	uint64_t phase; /* any number; as a fraction of 2^64 it says where in [0, Q) the phase is */
};

enum numi_sched_verdict {
	NUMI_SCHED_TAKEN = 0,
	NUMI_SCHED_FULL,    /* the class's queue has no room: back-pressure */
	NUMI_SCHED_LATE,    /* its deadline has passed */
	NUMI_SCHED_EARLY,   /* its slot is too far ahead */
	NUMI_SCHED_INVALID, /* no such class, or a length that no packet has */
	NUMI_SCHED_MEMORY,
};

struct numi_offer {
	uint64_t handle; /* the caller's; given back with the departure */
	uint64_t slot;   /* by the end of which, less the margin, it must have left */
	uint32_t len;    /* bytes that are charged */
	uint8_t cls;
	uint8_t verdict; /* out: enum numi_sched_verdict */
};

struct numi_departure {
	uint64_t handle;
	uint64_t time; /* ns at which it leaves; where it is late, at which that was seen */
	uint32_t len;
	uint8_t cls;
	uint8_t late; /* it does not leave */
};

struct numi_sched_class_stats {
	uint64_t queued_packets;
	uint64_t queued_bytes;
	uint64_t credit; /* bytes that it may send now */
	uint64_t budget; /* bytes per slot, scaled */
	uint64_t sent_packets;
	uint64_t sent_bytes;
	uint64_t late;       /* whose deadline passed, before or after they were taken */
	uint64_t refused;    /* for lack of room */
	uint64_t slot_bytes; /* sent in this slot */
};

struct numi_sched_stats {
	struct numi_sched_class_stats classes[NUMI_CLASSES];
	uint64_t slot;
	uint64_t slot_start;
	uint64_t slot_end;
	uint64_t time;      /* up to which departures are decided */
	uint64_t phase;     /* ns */
	uint64_t scale;     /* thousandths, of this slot */
	uint64_t calm;      /* slots in a row with next to no marks */
	uint64_t clamps_p0; /* turns that P0 gave up after a burst */
	uint64_t clamps_p1;
	uint64_t floor_hits; /* turns that P2 had ahead of P1, for its floor */
};

typedef struct numi_sched numi_sched;

/* A scheduler whose buckets are full, in the slot given. NULL: no memory, or a bound is passed. */
numi_sched *numi_sched_new(const struct numi_sched_config *config, uint64_t slot, uint64_t start,
			   uint64_t length);
void numi_sched_free(numi_sched *sched);

/* Takes packets, each with a verdict of its own; returns how many were taken. */
uint32_t numi_sched_push(numi_sched *sched, uint64_t now, struct numi_offer *offers,
			 uint32_t count);
/* Decides what leaves from max(now, where it stopped) up to and including `until`, in order of
 * time. Stops where `out` is full; whoever gets `most` calls again. */
uint32_t numi_sched_run(numi_sched *sched, uint64_t now, uint64_t until, struct numi_departure *out,
			uint32_t most);
/* The first moment at which run() would find something; UINT64_MAX: not in this slot. */
uint64_t numi_sched_next(const numi_sched *sched, uint64_t now);

/* Counts CE marks among `total` packets, for the scale of the next slot. A ratio that the peer has
 * summed up is (thousandths, 1000). Returns 0, or -1: more marks than packets. */
int numi_sched_mark(numi_sched *sched, uint32_t marked, uint32_t total);
/* Begins a later slot: new length, scaled budgets. Returns 0, or -1: not later, or out of bounds.
 */
int numi_sched_slot(numi_sched *sched, uint64_t slot, uint64_t start, uint64_t length);
/* Sets a class's credit from the next slot on, no less than its floor and no more than its ceiling.
 * Returns 0, or -1: no such class. */
int numi_sched_cap(numi_sched *sched, uint32_t cls, uint64_t credit);
/* Sets what is added to all margins of packets taken from now on: how unsure the slot's end is. */
void numi_sched_widen(numi_sched *sched, uint64_t uncertainty);
void numi_sched_stats(const numi_sched *sched, struct numi_sched_stats *stats);

/* python: end */

#endif /* NUMI_SCHED_H */
