// SPDX-License-Identifier: Apache-2.0
/* The two ends of a TCP connection as flows of the world; they lie side by side. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tcp.h"
#include "world.h"

struct sending {
	struct sim_flow base;
	struct sim_tcp_sender tcp;
	uint64_t start;
	uint64_t failed_at;
};

struct receiving {
	struct sim_flow base;
	struct sim_tcp_receiver tcp;
	uint64_t bytes;
	uint64_t first_read_at, last_read_at, completed_at;
	uint64_t in_order; /* bytes read */
	uint64_t acks;
};

static struct sim_frame *frame_of(const struct sim_flow *flow,
				  const struct sim_tcp_segment *segment)
{
	struct sim_frame *frame =
	    sim_frame_new(flow->host, flow->peer, sizeof(*segment), sim_tcp_frame_len(segment));

	if (!frame) {
		sim_broken(flow->world, "out of memory");
		return NULL;
	}
	frame->flow = flow->index + 1;
	memcpy(frame->data, segment, sizeof(*segment));
	return frame;
}

static struct sim_tcp_segment segment_in(const struct sim_frame *frame)
{
	struct sim_tcp_segment segment;

	memcpy(&segment, frame->data, sizeof(segment));
	return segment;
}

/* -- the sender -- */

static void sender_input(struct sim_flow *flow, const struct sim_frame *frame)
{
	struct sim_tcp_segment segment = segment_in(frame);

	sim_tcp_sender_input(&((struct sending *)flow)->tcp, &segment, flow->world->now);
}

/* It has all that it sends. */
static void sender_serve(struct sim_flow *flow)
{
}

static struct sim_frame *sender_output(struct sim_flow *flow)
{
	struct sending *end = (struct sending *)flow;
	struct sim_tcp_segment segment;

	if (flow->world->now < end->start)
		return NULL;
	if (sim_tcp_sender_output(&end->tcp, &segment, flow->world->now))
		return frame_of(flow, &segment);
	if (end->tcp.state == SIM_TCP_FAILED && !end->failed_at)
		end->failed_at = flow->world->now;
	return NULL;
}

static uint64_t sender_deadline(const struct sim_flow *flow)
{
	const struct sending *end = (const struct sending *)flow;

	return flow->world->now < end->start ? end->start : sim_tcp_sender_deadline(&end->tcp);
}

static int sender_is_done(const struct sim_flow *flow)
{
	const struct sending *end = (const struct sending *)flow;

	return end->tcp.state == SIM_TCP_DONE || end->tcp.state == SIM_TCP_FAILED;
}

static void sender_free(struct sim_flow *flow)
{
	sim_tcp_sender_free(&((struct sending *)flow)->tcp);
	free(flow);
}

static const struct sim_flow_kind SENDING = {
    .input = sender_input,
    .serve = sender_serve,
    .output = sender_output,
    .deadline = sender_deadline,
    .is_done = sender_is_done,
    .free = sender_free,
};

/* -- the receiver -- */

static void receiver_input(struct sim_flow *flow, const struct sim_frame *frame)
{
	struct receiving *end = (struct receiving *)flow;
	struct sim_tcp_segment segment = segment_in(frame);

	if (sim_tcp_receiver_input(&end->tcp, &segment, flow->world->now))
		sim_broken(flow->world, "out of memory");
}

static void receiver_serve(struct sim_flow *flow)
{
	struct receiving *end = (struct receiving *)flow;
	uint64_t now = flow->world->now;
	uint64_t readable = (uint64_t)end->tcp.next * SIM_TCP_MSS;

	if (readable > end->bytes)
		readable = end->bytes;
	if (readable == end->in_order)
		return;
	if (!end->first_read_at)
		end->first_read_at = now;
	end->last_read_at = now;
	sim_sample(flow, readable - end->in_order);
	end->in_order = readable;
	if (readable == end->bytes)
		end->completed_at = now;
}

static struct sim_frame *receiver_output(struct sim_flow *flow)
{
	struct receiving *end = (struct receiving *)flow;
	struct sim_tcp_segment segment;

	if (!sim_tcp_receiver_output(&end->tcp, &segment, flow->world->now))
		return NULL;
	end->acks += segment.kind == SIM_TCP_ACK;
	return frame_of(flow, &segment);
}

static uint64_t receiver_deadline(const struct sim_flow *flow)
{
	return sim_tcp_receiver_deadline(&((const struct receiving *)flow)->tcp);
}

/* It has nothing to do of itself. */
static int receiver_is_done(const struct sim_flow *flow)
{
	return 1;
}

static void receiver_free(struct sim_flow *flow)
{
	sim_tcp_receiver_free(&((struct receiving *)flow)->tcp);
	free(flow);
}

static const struct sim_flow_kind RECEIVING = {
    .input = receiver_input,
    .serve = receiver_serve,
    .output = receiver_output,
    .deadline = receiver_deadline,
    .is_done = receiver_is_done,
    .free = receiver_free,
};

/* -- making one -- */

static int add_receiver(struct sim_world *world, const struct sim_tcp_config *config)
{
	struct receiving *end = calloc(1, sizeof(*end));
	int number;

	if (!end)
		return -ENOMEM;
	end->base.kind = &RECEIVING;
	end->base.host = config->peer;
	end->base.peer = config->host;
	end->base.sample = config->sample;
	end->bytes = config->bytes;
	if (sim_tcp_receiver_init(&end->tcp, config)) {
		free(end);
		return -ENOMEM;
	}
	number = sim_world_add(world, &end->base);
	if (number >= 0)
		sim_wake(&end->base, world->now);
	return number;
}

int sim_add_tcp(sim_world *world, const struct sim_tcp_config *config)
{
	struct sending *end;
	int number;

	/* The ends of a connection have numbers 2n and 2n + 1. */
	if (world->flow_count % 2 || config->host >= world->host_count ||
	    config->peer >= world->host_count || config->host == config->peer || !config->bytes ||
	    config->bytes / SIM_TCP_MSS > UINT32_MAX / 4 || config->window < SIM_TCP_MSS)
		return -EINVAL;
	end = calloc(1, sizeof(*end));
	if (!end)
		return -ENOMEM;
	end->base.kind = &SENDING;
	end->base.host = config->host;
	end->base.peer = config->peer;
	end->start = config->start > world->now ? config->start : world->now;
	if (sim_tcp_sender_init(&end->tcp, config, end->start)) {
		free(end);
		return -ENOMEM;
	}
	number = sim_world_add(world, &end->base);
	if (number < 0)
		return number;
	sim_wake(&end->base, end->start);
	return add_receiver(world, config) < 0 ? -ENOMEM : number;
}

int sim_tcp_read(const sim_world *world, uint32_t flow, struct sim_tcp_stats *stats)
{
	const struct sending *from;
	const struct receiving *to;

	if (flow >= world->flow_count || world->flows[flow]->kind != &SENDING)
		return -EINVAL;
	from = (const struct sending *)world->flows[flow];
	to = (const struct receiving *)world->flows[flow + 1];
	*stats = from->tcp.stats;
	stats->acks = to->acks;
	stats->bytes_read = to->in_order;
	stats->first_read_at = to->first_read_at;
	stats->last_read_at = to->last_read_at;
	stats->completed_at = to->completed_at;
	stats->failed_at = from->failed_at;
	stats->window = from->tcp.cwnd;
	stats->threshold = from->tcp.ssthresh;
	stats->srtt = from->tcp.srtt;
	return 0;
}
