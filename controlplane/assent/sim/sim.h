/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A world of hosts, links and flows in virtual time.
 *
 *     flow engine -> host's interface -> link -> the receiving host's gate -> flow engine
 *     (native/flow.h)  (rate, fair)     (link.h)   (bpf/include/assent/verdict.h)
 *
 * The engine and the verdict are those that run on a real host, compiled into this module; the
 * world supplies what the kernel and the clock supply there. Beside them a TCP model (tcp.h) may
 * send over the same links. Nothing here reads a clock or a random number from outside: a seed and
 * the calls say all of a run.
 *
 * Time is in ns since the world began, which is not 0 (see SIM_START). Hosts, links and flows are
 * numbered from 0 in the order in which they were made. Where something that must hold does not,
 * the run stops with SIM_BROKEN and a sentence in sim_error().
 */
#ifndef SIM_SIM_H
#define SIM_SIM_H

#include <stddef.h>
#include <stdint.h>

/* python: begin */

#define SIM_START 1000000000

typedef struct sim_world sim_world;

struct sim_link_config {
	uint64_t rate;      /* bit/s */
	uint64_t delay;     /* ns one way */
	uint64_t jitter;    /* ns at most on top, uniform; keeps the order */
	uint64_t queue;     /* bytes that may wait for the transmitter; 0 = any number */
	double loss;        /* probability that a frame is lost, in the good state */
	double burst_enter; /* Gilbert and Elliott: from the good to the bad state, a frame */
	double burst_leave; /* and back */
	double burst_loss;  /* probability of loss in the bad state */
	double duplicate;
	double reorder;         /* probability that a frame is held back */
	uint64_t reorder_delay; /* ns at most, uniform */
};

struct sim_link_stats {
	uint64_t frames; /* handed over */
	uint64_t bytes;
	uint64_t busy;       /* ns that the transmitter has worked */
	uint64_t queue_max;  /* bytes that waited, at most */
	uint64_t overflowed; /* frames for which the queue had no room */
	uint64_t obscured;   /* that left during an outage */
	uint64_t lost;
	uint64_t duplicated;
	uint64_t held_back;
};

/* One side of a fabric flow: its engine, and an application that writes and reads messages. */
struct sim_flow_config {
	uint32_t host;
	uint32_t peer;
	uint32_t number;
	uint8_t tx_payload_key[32];
	uint8_t rx_payload_key[32];
	uint8_t tx_header_key[16];
	uint32_t epoch;
	uint32_t mtu;
	uint32_t rx_window; /* blocks */
	uint32_t tx_window;
	uint32_t replay_len;
	uint32_t grant_shift;
	uint64_t rx_blocks_per_second; /* 0 = not held to a rate */
	uint32_t delivery;             /* enum an_delivery */
	uint32_t receipt_fraction;     /* 0 = the engine's own */
	uint32_t lamp;
	uint64_t rtt_hint; /* ns */
	int64_t wall;      /* the host's wall clock less the world's, ns */

	uint64_t messages; /* to send */
	uint32_t size_min; /* bytes; at least 8 where messages may be lost or reordered */
	uint32_t size_max;
	uint64_t start;        /* when the first is written; 0 = at once */
	uint64_t gap;          /* ns from one to the next; 0 = as fast as it can */
	uint32_t coalesce;     /* several in a frame, where they fit */
	uint64_t stall_from;   /* the reader reads nothing from then on */
	uint64_t stall_until;  /* UINT64_MAX = never again */
	uint64_t sample;       /* ns of a bucket of what was read; 0 = not sampled */
	uint64_t pattern;      /* what the messages of both directions are made of */
	uint64_t expected;     /* messages that the peer sends */
	uint32_t expected_min; /* their sizes */
	uint32_t expected_max;
};

struct sim_flow_stats {
	uint64_t messages_written;
	uint64_t messages_read;
	uint64_t bytes_written;
	uint64_t bytes_read;
	uint64_t first_read_at; /* 0 = nothing yet */
	uint64_t last_read_at;
	uint64_t drained_at; /* all was written, finished and receipted */
	uint64_t ended_at;   /* the peer's end was read */
	uint64_t failed_at;
	int error; /* negative errno of the engine; 0 = none */
	char sentence[256];

	uint64_t tx_frames;
	uint64_t tx_bytes;
	uint64_t retransmissions;
	uint64_t nacks;
	uint64_t gaps;
	uint64_t receipts;
	uint64_t probes;
	uint64_t voids;
	uint64_t lamps;
	uint64_t credit_waits;
	uint64_t rtt;

	/* both books, blocks */
	uint64_t rx_granted;
	uint64_t rx_spent;
	uint64_t tx_granted;
	uint64_t tx_spent;
	uint32_t rx_window;
	uint32_t tx_window;
};

struct sim_tcp_config {
	uint32_t host; /* sends */
	uint32_t peer;
	uint64_t bytes;
	uint64_t window; /* bytes that the receiver has room for */
	uint64_t start;
	uint64_t patient_rtt; /* ns; 0 = timers as Linux has them */
	uint64_t sample;
};

struct sim_tcp_stats {
	uint64_t segments; /* with payload */
	uint64_t retransmissions;
	uint64_t timeouts;
	uint64_t reductions; /* of the window, by a loss that was not a timeout */
	uint64_t acks;
	uint64_t bytes_read;
	uint64_t first_read_at;
	uint64_t last_read_at;
	uint64_t completed_at; /* the last byte was delivered */
	uint64_t failed_at;
	double window; /* congestion window, segments */
	double threshold;
	uint64_t srtt; /* ns */
};

/* Why sim_run returned. */
enum sim_stop {
	SIM_REACHED = 0, /* the time that was asked for */
	SIM_CONTROL = 1, /* a frame of flow 0 was admitted: take it */
	SIM_DONE = 2,    /* no flow has anything left to do; said once */
	SIM_BROKEN = -1,
};

sim_world *sim_new(uint64_t seed, uint32_t hosts, uint32_t flows_per_pair);
void sim_free(sim_world *world);
const char *sim_error(const sim_world *world);
uint64_t sim_now(const sim_world *world);
/* A link's number, or negative. */
int sim_add_link(sim_world *world, const struct sim_link_config *config);
int sim_add_outage(sim_world *world, uint32_t link, uint64_t from, uint64_t until);
/* Frames between the two go over this link. */
int sim_route(sim_world *world, uint32_t from, uint32_t to, uint32_t link);
/* What its interface sends at, bit/s; without that, it sends when the link is free. */
int sim_set_interface(sim_world *world, uint32_t host, uint64_t rate);
int sim_link_read(const sim_world *world, uint32_t link, struct sim_link_stats *stats);

/* What the control plane would write into the gate of `host`. */
int sim_set_cell(sim_world *world, uint32_t host, const uint8_t cell[16]);
int sim_introduce(sim_world *world, uint32_t host, uint32_t peer, const uint8_t admission_key[16]);
int sim_establish(sim_world *world, uint32_t host, uint32_t peer, const uint8_t header_key[16],
		  int64_t clock_offset, uint32_t skew_limit_ms);
/* Control frames, fabric header first. Sending puts one at the head of the interface's queue. */
int sim_send(sim_world *world, uint32_t host, uint32_t peer, const uint8_t *frame, uint32_t len);
/* The oldest control frame that was admitted: its length, or 0. */
uint32_t sim_take(sim_world *world, uint32_t *host, uint32_t *peer, uint8_t *frame, uint32_t room);
/* Frames of all kinds that the host's gate let through; that it refused for having seen their
 * number; and that it refused for anything else, of which the last one's enum assent_reason is
 * `last`. */
struct sim_gate_stats {
	uint64_t admitted;
	uint64_t replayed;
	uint64_t refused;
	uint32_t last;
};
int sim_gate_read(const sim_world *world, uint32_t host, struct sim_gate_stats *stats);

/* A flow's number, or negative. The session must be established, and tx_granted starts as
 * tx_window: what the peer's offer said. */
int sim_add_flow(sim_world *world, const struct sim_flow_config *config);
int sim_flow_read(const sim_world *world, uint32_t flow, struct sim_flow_stats *stats);
int sim_add_tcp(sim_world *world, const struct sim_tcp_config *config);
int sim_tcp_read(const sim_world *world, uint32_t flow, struct sim_tcp_stats *stats);
/* Payload bytes read in each bucket of the flow's time; returns how many buckets there are. */
uint32_t sim_samples(const sim_world *world, uint32_t flow, const uint64_t **samples);

/* Enum sim_stop. */
int sim_run(sim_world *world, uint64_t until);

/* python: end */

#endif /* SIM_SIM_H */
