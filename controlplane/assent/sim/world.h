/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of a world know of each other.
 *
 * Every event has a time and a number; of two at one time the one that was made first comes first.
 * A host's interface serves its flows in turn, one frame each, and only those that have been
 * touched since they last had nothing to send; so a world of many quiet flows is no slower.
 */
#ifndef SIM_WORLD_H
#define SIM_WORLD_H

#include "link.h"
#include "sim.h"

#define SIM_NEVER UINT64_MAX
#define SIM_ERROR_LEN 512

struct sim_gate;
struct sim_flow;

/* A frame on its way. `data` begins with Ethernet's header, or is a segment of the TCP model. */
struct sim_frame {
	uint32_t from; /* hosts */
	uint32_t to;
	uint32_t flow;     /* the TCP flow that it belongs to, plus one; 0 = a fabric frame */
	uint32_t len;      /* of `data` */
	uint32_t wire_len; /* bytes that it has on the link */
	struct sim_frame *next;
	uint8_t data[] __attribute__((aligned(8)));
};

/* What the world asks of a flow, whichever protocol it speaks. */
struct sim_flow_kind {
	/* A frame for it has passed the gate. */
	void (*input)(struct sim_flow *flow, const struct sim_frame *frame);
	/* Lets the application write and read. */
	void (*serve)(struct sim_flow *flow);
	/* The next frame due, or NULL. */
	struct sim_frame *(*output)(struct sim_flow *flow);
	uint64_t (*deadline)(const struct sim_flow *flow);
	int (*is_done)(const struct sim_flow *flow);
	void (*free)(struct sim_flow *flow);
};

struct sim_flow {
	const struct sim_flow_kind *kind;
	struct sim_world *world;
	uint32_t index;
	uint32_t host;
	uint32_t peer;
	uint32_t number;  /* of the fabric flow; 0 for TCP */
	uint64_t wake_at; /* the newest event for it; older ones are stale */
	int queued;       /* waits for its turn at the interface */
	int done;
	struct sim_flow *next;

	uint64_t sample; /* ns */
	uint64_t *samples;
	uint32_t sample_count, sample_room;
};

struct sim_host {
	struct sim_gate *gate;
	uint64_t interface_rate;       /* 0 = the link's */
	uint64_t interface_free;       /* when it has sent its last frame */
	uint64_t interface_due;        /* an event for it is on its way; SIM_NEVER = none */
	struct sim_flow *first, *last; /* flows that may have something to send */
	struct sim_frame *control, *control_last;
};

struct sim_event {
	uint64_t at;
	uint64_t order;
	struct sim_frame *frame; /* arrives; or NULL */
	struct sim_flow *flow;   /* wakes; or NULL */
	uint32_t host;           /* whose interface is free */
};

struct sim_world {
	uint64_t now;
	uint64_t seed;
	uint64_t order;
	struct sim_event *events; /* a heap */
	uint32_t event_count, event_room;
	struct sim_host *hosts;
	uint32_t host_count;
	struct sim_link *links;
	uint32_t link_count;
	uint32_t *routes; /* link plus one from host to host; 0 = none */
	struct sim_flow **flows;
	uint32_t flow_count;
	uint32_t done_count;
	int told_done;
	struct sim_frame *inbox, *inbox_last;
	char error[SIM_ERROR_LEN];
};

/* Stops the run: something that must hold does not. Only the first one is kept. */
void sim_broken(struct sim_world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
struct sim_frame *sim_frame_new(uint32_t from, uint32_t to, uint32_t len, uint32_t wire_len);
/* The flow takes its number and belongs to the world; negative where there is no memory, and then
 * it is freed. */
int sim_world_add(struct sim_world *world, struct sim_flow *flow);
struct sim_flow *sim_world_find(const struct sim_world *world, uint32_t host, uint32_t peer,
				uint32_t number);
/* The flow is looked at when the time has come. */
void sim_wake(struct sim_flow *flow, uint64_t at);
/* Counts bytes that were read now. */
void sim_sample(struct sim_flow *flow, uint64_t bytes);

#endif /* SIM_WORLD_H */
