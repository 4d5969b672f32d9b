/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model of TCP to stand beside: one connection that carries `total` bytes one way. Sans-IO, as
 * the flow engine is: segments and time go in, segments come out.
 *
 * What it has
 *
 *   handshake       SYN repeated after 1, 2, 4 ... s, six times (as Linux does), then it gives up
 *   window          initial window of 10 segments (RFC 6928), slow start, CUBIC with fast
 *                   convergence and the TCP-friendly region (RFC 9438)
 *   loss            SACK scoreboard and pipe of RFC 6675; a segment is lost when three behind it
 *                   were acknowledged; one that was sent again is lost once more when a segment
 *                   that left later has arrived (RFC 8985's idea; RFC 6675 alone would wait for
 *                   the timer)
 *   timer           RFC 6298 with timestamps (RFC 7323); at least 200 ms above the round trip, at
 *                   most 120 s, and begun anew when the oldest segment is sent again (Linux); after
 *                   15 doublings in a row the connection is given up (RFC 1122, Linux)
 *   receiver        acknowledges every second segment, or after 40 ms, and at once where there is
 *                   a gap; up to three SACK blocks, newest first (RFC 2018)
 *   patient         a variant for distances beyond those limits: timers begin at three times the
 *                   round-trip time that it is told, have no upper limit, and never give up
 *
 * What it has not: HyStart, pacing, PRR, tail loss probes, ECN, window scaling's granularity, FIN,
 * encryption. Numbers count segments from 0; the last one may be shorter.
 */
#ifndef SIM_TCP_H
#define SIM_TCP_H

#include <stdint.h>

#include "sim.h"

#define SIM_TCP_MSS 1448 /* 1,500 less 20 of IP, 20 of TCP and 12 of timestamps */
#define SIM_TCP_HEAD 66  /* those, and Ethernet's 14 */
#define SIM_TCP_BLOCKS 3

enum sim_tcp_kind { SIM_TCP_SYN, SIM_TCP_SYN_ACK, SIM_TCP_DATA, SIM_TCP_ACK };

struct sim_tcp_segment {
	uint32_t kind; /* enum sim_tcp_kind */
	uint32_t len;  /* bytes of payload */
	uint32_t seq;  /* of DATA: which segment */
	uint32_t ack;  /* of ACK: all segments before this one have arrived */
	uint32_t window;
	uint32_t block_count;
	uint32_t blocks[SIM_TCP_BLOCKS][2]; /* [first, end) that arrived beyond */
	uint64_t stamp;
	uint64_t echo;
};

enum sim_tcp_state { SIM_TCP_SENT_SYN, SIM_TCP_OPEN, SIM_TCP_DONE, SIM_TCP_FAILED };

struct sim_tcp_sent; /* what is known of one segment */

struct sim_tcp_sender {
	enum sim_tcp_state state;
	int patient;
	uint32_t total; /* segments */
	uint32_t last_len;
	struct sim_tcp_sent *sent;
	uint32_t una; /* first that is not acknowledged */
	uint32_t nxt; /* first that was never sent */
	uint32_t window;

	/* scoreboard */
	uint32_t top[3]; /* the highest three that were selectively acknowledged, plus one; 0 = none
			  */
	uint32_t lost_edge;  /* below, what was not acknowledged is known to be lost */
	uint32_t hole;       /* where the search for lost ones goes on */
	uint32_t lost_count; /* lost, and not sent again */
	uint32_t pipe;       /* segments thought to be on their way */
	uint32_t *again;     /* queue of those sent again, in the order of sending */
	uint64_t again_head, again_tail;
	uint32_t again_mask;
	uint64_t newest_arrived; /* departure of the newest segment known to have arrived */
	int recovering;
	int timed_out; /* recovering from a timeout: the window grows meanwhile */
	uint32_t recover;

	/* CUBIC, in segments and seconds */
	double cwnd, ssthresh, w_max, w_est, k, cwnd_prior;
	uint64_t epoch;     /* when congestion avoidance began; 0 = it has not */
	int limited;        /* the window, and nothing else, has held data back in this round */
	uint32_t round_end; /* the number with whose receipt it is over */
	uint32_t pipe_max;  /* in this round */

	/* RFC 6298, ns */
	uint64_t srtt, rttvar, rto;
	uint64_t timer; /* UINT64_MAX = not running */
	uint32_t doublings;
	int syn_due;

	struct sim_tcp_stats stats;
};

struct sim_tcp_range {
	uint32_t first;
	uint32_t end;
};

struct sim_tcp_receiver {
	uint32_t next;                /* first that has not arrived */
	uint32_t window;              /* segments there is room for */
	struct sim_tcp_range *ranges; /* beyond `next`, in order, apart from each other */
	uint32_t range_count, range_room;
	uint32_t recent[SIM_TCP_BLOCKS]; /* a segment of each block to tell, newest first */
	uint32_t recent_count;
	uint32_t unacknowledged;
	uint64_t ack_at; /* when the delayed one is due */
	uint64_t echo;
	int syn_ack_due, ack_due;
	uint64_t delivered; /* bytes, in order */
};

/* 0 or -ENOMEM. */
int sim_tcp_sender_init(struct sim_tcp_sender *tcp, const struct sim_tcp_config *config,
			uint64_t now);
void sim_tcp_sender_free(struct sim_tcp_sender *tcp);
void sim_tcp_sender_input(struct sim_tcp_sender *tcp, const struct sim_tcp_segment *segment,
			  uint64_t now);
/* The next segment due, if any: 1 or 0. */
int sim_tcp_sender_output(struct sim_tcp_sender *tcp, struct sim_tcp_segment *segment,
			  uint64_t now);
uint64_t sim_tcp_sender_deadline(const struct sim_tcp_sender *tcp);

int sim_tcp_receiver_init(struct sim_tcp_receiver *tcp, const struct sim_tcp_config *config);
void sim_tcp_receiver_free(struct sim_tcp_receiver *tcp);
/* 0 or -ENOMEM. */
int sim_tcp_receiver_input(struct sim_tcp_receiver *tcp, const struct sim_tcp_segment *segment,
			   uint64_t now);
int sim_tcp_receiver_output(struct sim_tcp_receiver *tcp, struct sim_tcp_segment *segment,
			    uint64_t now);
uint64_t sim_tcp_receiver_deadline(const struct sim_tcp_receiver *tcp);

/* Bytes that a segment has from Ethernet's header on. */
static inline uint32_t sim_tcp_frame_len(const struct sim_tcp_segment *segment)
{
	return SIM_TCP_HEAD + segment->len + (segment->block_count ? 4 : 0) +
	       8 * segment->block_count;
}

#endif /* SIM_TCP_H */
