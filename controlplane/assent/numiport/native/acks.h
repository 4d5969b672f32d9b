/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Receipts (seed 5.3): what has arrived from a peer and is to be told, and what was sent to it and
 * has been told of. Both are kept by slot and stream, for the newest slots; a new slot takes the
 * place of one that is `slots` older, with all that was known of it.
 *
 *   receiver   note() each packet that was taken; a receipt is due after `packets` of them, or
 *              `interval` after the first that none was sent for. write() gives its ranges: the
 *              highest, where there are more than fit. Of more than NUMI_ACK_KEPT ranges the lowest
 *              is forgotten, as if it had not arrived: a receipt never claims too much.
 *   NACK       missing() gives each number once, the lowest first; for P0 and P1, in the last
 *              `nack_window` of the slot, `nacks` at a time.
 *   sender     sent() each packet; acked() and nacked() what the peer tells. A packet of P0 that no
 *              receipt came for within min(slot length / fraction, most) is due once more, once;
 *              so is one that the peer says it lacks. P1 is not sent again within its slot: FEC and
 *              repair make up for it. What is sent again are the same bytes under the same number,
 *              so no nonce serves twice, and the replay window drops what was not lost.
 *
 * Receipts that do not count (ACK_ONLY) call for none. Numbers from 65,536 on cannot be told of.
 * Times are ns of one clock; a slot's are passed in. Not for several threads at once.
 */
#ifndef NUMI_ACKS_H
#define NUMI_ACKS_H

#include "numi.h"

/* python: begin */

#define NUMI_ACK_STREAMS 4
#define NUMI_ACK_SLOTS_MAX 64
#define NUMI_ACK_KEPT 32
#define NUMI_ACK_RANGES 16
#define NUMI_ACK_NACKS 8
#define NUMI_ACK_SEQS 65536
/* Packets of P0 that wait for a receipt; of more, the first to be sent again is given up. */
#define NUMI_ACK_WATCHED 256

struct numi_ack_config {
	uint32_t slots; /* that are kept */
	uint32_t seqs; /* of a slot and stream that the sender keeps: 64 and more, a power of two */
	uint32_t packets;
	uint32_t ranges;
	uint64_t interval;
	uint32_t nacks;
	uint32_t resend_fraction;
	uint64_t nack_window;
	uint64_t resend_most;
};

struct numi_ack_range {
	uint16_t start;
	uint16_t run; /* one and more; a run of 65,536 is told as one less */
};

struct numi_ack_rx;
struct numi_ack_tx;

/* NULL: no memory, or a bound is passed. */
struct numi_ack_rx *numi_ack_rx_new(const struct numi_ack_config *config);
void numi_ack_rx_free(struct numi_ack_rx *rx);
/* 1: noted. 0: of a slot that has gone, or a number that cannot be told of. */
int numi_ack_note(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream, uint32_t seq,
		  int eliciting, uint64_t now);
/* A slot and stream whose receipt is due: 1, or 0 for none. */
int numi_ack_due(const struct numi_ack_rx *rx, uint64_t now, uint64_t *slot, uint32_t *stream);
/* When the next one will be; UINT64_MAX: none. */
uint64_t numi_ack_rx_deadline(const struct numi_ack_rx *rx);
/* Its ranges, ascending; how many. It is sent: nothing is due there until more arrives. */
uint32_t numi_ack_write(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream,
			struct numi_ack_range *ranges);
/* What to ask for, ascending; how many. */
uint32_t numi_ack_missing(struct numi_ack_rx *rx, uint64_t slot, uint32_t stream, uint32_t cls,
			  uint64_t slot_end, uint64_t now, uint32_t *seqs);

struct numi_ack_summary {
	uint32_t sent;
	uint32_t acked;
	uint32_t largest_acked; /* bytes; 0: none */
	uint32_t largest_lost;
};

struct numi_ack_counts {
	uint64_t unsent;    /* numbers in receipts that were never sent */
	uint64_t unwatched; /* packets of P0 given up for want of room */
	uint64_t resent;
	uint64_t nacked;         /* that were heeded */
	uint64_t nacks_unheeded; /* of a wrong class, at a wrong time, or not sent */
};

struct numi_ack_tx *numi_ack_tx_new(const struct numi_ack_config *config);
void numi_ack_tx_free(struct numi_ack_tx *tx);
/* `handle` names the sealed packet, for P0. 1: kept; 0: it cannot be told of. */
int numi_ack_sent(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream, uint32_t seq,
		  uint32_t cls, uint32_t size, uint64_t handle, uint64_t slot_len, uint64_t now);
/* How many numbers are told of for the first time. */
uint32_t numi_ack_acked(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream,
			const struct numi_ack_range *ranges, uint32_t count);
/* How many are heeded. `slack`: how much later than sent a NACK may arrive. */
uint32_t numi_ack_nacked(struct numi_ack_tx *tx, uint64_t slot, uint32_t stream, uint32_t cls,
			 const uint32_t *seqs, uint32_t count, uint64_t slot_end, uint64_t slack,
			 uint64_t now);
/* Handles that are due to be sent again, the longest due first; they are given out once. */
uint32_t numi_ack_resend(struct numi_ack_tx *tx, uint64_t now, uint64_t *handles, uint32_t most);
uint64_t numi_ack_tx_deadline(const struct numi_ack_tx *tx);
/* What became of a slot and stream. 0: nothing is known of it. */
int numi_ack_summary(const struct numi_ack_tx *tx, uint64_t slot, uint32_t stream,
		     struct numi_ack_summary *summary);
void numi_ack_counts(const struct numi_ack_tx *tx, struct numi_ack_counts *counts);

/* python: end */

#endif /* NUMI_ACKS_H */
