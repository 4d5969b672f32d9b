// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gate.h"
#include "random.h"

void sim_broken(struct sim_world *world, const char *format, ...)
{
	va_list arguments;

	if (world->error[0])
		return;
	va_start(arguments, format);
	vsnprintf(world->error, sizeof(world->error), format, arguments);
	va_end(arguments);
}

/* -- events -- */

static int comes_before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static void add_event(struct sim_world *world, struct sim_event event)
{
	uint32_t at = world->event_count;

	if (at == world->event_room) {
		uint32_t room = world->event_room ? 2 * world->event_room : 1024;
		struct sim_event *grown = realloc(world->events, room * sizeof(*grown));

		if (!grown) {
			free(event.frame);
			sim_broken(world, "out of memory");
			return;
		}
		world->events = grown;
		world->event_room = room;
	}
	event.order = world->order++;
	world->event_count++;
	while (at && comes_before(&event, &world->events[(at - 1) / 2])) {
		world->events[at] = world->events[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	world->events[at] = event;
}

static struct sim_event take_event(struct sim_world *world)
{
	struct sim_event first = world->events[0];
	struct sim_event moved = world->events[--world->event_count];
	uint32_t at = 0, child;

	while ((child = 2 * at + 1) < world->event_count) {
		if (child + 1 < world->event_count &&
		    comes_before(&world->events[child + 1], &world->events[child]))
			child++;
		if (!comes_before(&world->events[child], &moved))
			break;
		world->events[at] = world->events[child];
		at = child;
	}
	world->events[at] = moved;
	return first;
}

void sim_wake(struct sim_flow *flow, uint64_t at)
{
	if (at == SIM_NEVER)
		return;
	if (at < flow->world->now)
		at = flow->world->now;
	if (flow->wake_at <= at)
		return;
	flow->wake_at = at;
	add_event(flow->world, (struct sim_event){.at = at, .flow = flow});
}

/* -- frames on links -- */

struct sim_frame *sim_frame_new(uint32_t from, uint32_t to, uint32_t len, uint32_t wire_len)
{
	struct sim_frame *frame = calloc(1, sizeof(*frame) + len);

	if (!frame)
		return NULL;
	frame->from = from;
	frame->to = to;
	frame->len = len;
	frame->wire_len = wire_len;
	return frame;
}

static struct sim_frame *copy_of(const struct sim_frame *frame)
{
	struct sim_frame *copy = sim_frame_new(frame->from, frame->to, frame->len, frame->wire_len);

	if (!copy)
		return NULL;
	copy->flow = frame->flow;
	memcpy(copy->data, frame->data, frame->len);
	return copy;
}

static struct sim_link *link_between(const struct sim_world *world, uint32_t from, uint32_t to)
{
	uint32_t link = world->routes[from * world->host_count + to];

	return link ? &world->links[link - 1] : NULL;
}

/* The interface sends it, and is busy meanwhile. */
static void launch(struct sim_world *world, struct sim_frame *frame)
{
	struct sim_host *host = &world->hosts[frame->from];
	struct sim_link *link = link_between(world, frame->from, frame->to);
	uint64_t at[SIM_COPIES], leaves = world->now;
	int copies;

	if (!link) {
		sim_broken(world, "no link from host %u to host %u", frame->from, frame->to);
		free(frame);
		return;
	}
	if (host->interface_rate)
		leaves += sim_link_time(host->interface_rate, frame->wire_len);
	copies = sim_link_take(link, leaves, frame->wire_len, at);
	host->interface_free = host->interface_rate ? leaves : link->free_at;
	for (int i = 0; i < copies; i++) {
		struct sim_frame *arriving = i + 1 == copies ? frame : copy_of(frame);

		if (!arriving)
			sim_broken(world, "out of memory");
		else
			add_event(world, (struct sim_event){.at = at[i], .frame = arriving});
	}
	if (!copies)
		free(frame);
}

/* -- a host's interface -- */

static void append(struct sim_host *host, struct sim_flow *flow)
{
	flow->queued = 1;
	flow->next = NULL;
	if (host->first)
		host->last->next = flow;
	else
		host->first = flow;
	host->last = flow;
}

static struct sim_frame *next_frame(struct sim_world *world, struct sim_host *host)
{
	struct sim_frame *frame = host->control;

	if (frame) {
		host->control = frame->next;
		return frame;
	}
	while (host->first && !world->error[0]) {
		struct sim_flow *flow = host->first;

		host->first = flow->next;
		flow->queued = 0;
		flow->kind->serve(flow);
		frame = flow->kind->output(flow);
		if (frame) {
			append(host, flow);
			return frame;
		}
		if (!flow->done && flow->kind->is_done(flow)) {
			flow->done = 1;
			world->done_count++;
		}
		sim_wake(flow, flow->kind->deadline(flow));
	}
	return NULL;
}

static void send_due(struct sim_world *world, uint32_t index)
{
	struct sim_host *host = &world->hosts[index];
	struct sim_frame *frame;

	while (host->interface_free <= world->now && (frame = next_frame(world, host)))
		launch(world, frame);
	if ((host->first || host->control) && host->interface_due == SIM_NEVER) {
		host->interface_due = host->interface_free;
		add_event(world, (struct sim_event){.at = host->interface_due, .host = index});
	}
}

static void touch(struct sim_flow *flow)
{
	struct sim_host *host = &flow->world->hosts[flow->host];

	/* Reading does not wait for the interface. */
	flow->kind->serve(flow);
	if (!flow->queued)
		append(host, flow);
	send_due(flow->world, flow->host);
}

/* -- arrivals -- */

static void keep_control(struct sim_world *world, struct sim_frame *frame)
{
	frame->next = NULL;
	if (world->inbox)
		world->inbox_last->next = frame;
	else
		world->inbox = frame;
	world->inbox_last = frame;
}

static void land(struct sim_world *world, struct sim_frame *frame)
{
	struct sim_flow *flow = NULL;
	uint16_t number = 0;

	if (frame->flow) {
		/* A segment of the TCP model: the other end of the same flow is next to it. */
		flow = world->flows[(frame->flow - 1) ^ 1];
	} else if (!sim_gate_admits(world, frame, &number)) {
		free(frame);
		return;
	} else if (!number) {
		keep_control(world, frame);
		return;
	} else {
		flow = sim_world_find(world, frame->to, frame->from, number);
	}
	if (flow) {
		flow->kind->input(flow, frame);
		touch(flow);
	}
	free(frame);
}

static void happen(struct sim_world *world, struct sim_event event)
{
	if (event.frame) {
		land(world, event.frame);
	} else if (event.flow) {
		if (event.at != event.flow->wake_at)
			return;
		event.flow->wake_at = SIM_NEVER;
		touch(event.flow);
	} else {
		world->hosts[event.host].interface_due = SIM_NEVER;
		send_due(world, event.host);
	}
}

int sim_run(sim_world *world, uint64_t until)
{
	while (!world->error[0]) {
		if (world->inbox)
			return SIM_CONTROL;
		if (world->flow_count && world->done_count == world->flow_count &&
		    !world->told_done) {
			world->told_done = 1;
			return SIM_DONE;
		}
		if (!world->event_count || world->events[0].at > until) {
			if (until > world->now)
				world->now = until;
			return SIM_REACHED;
		}
		world->now = world->events[0].at;
		happen(world, take_event(world));
	}
	return SIM_BROKEN;
}

/* -- making a world -- */

sim_world *sim_new(uint64_t seed, uint32_t hosts, uint32_t flows_per_pair)
{
	struct sim_world *world = calloc(1, sizeof(*world));

	if (!world)
		return NULL;
	world->now = SIM_START;
	world->seed = seed;
	world->host_count = hosts;
	world->hosts = calloc(hosts, sizeof(*world->hosts));
	world->routes = calloc((size_t)hosts * hosts, sizeof(*world->routes));
	if (!world->hosts || !world->routes) {
		sim_free(world);
		return NULL;
	}
	for (uint32_t i = 0; i < hosts; i++) {
		world->hosts[i].interface_due = SIM_NEVER;
		world->hosts[i].gate = sim_gate_new(hosts, flows_per_pair);
		if (!world->hosts[i].gate) {
			sim_free(world);
			return NULL;
		}
	}
	return world;
}

static void free_frames(struct sim_frame *frame)
{
	while (frame) {
		struct sim_frame *next = frame->next;

		free(frame);
		frame = next;
	}
}

void sim_free(sim_world *world)
{
	if (!world)
		return;
	for (uint32_t i = 0; i < world->flow_count; i++) {
		free(world->flows[i]->samples);
		world->flows[i]->kind->free(world->flows[i]);
	}
	for (uint32_t i = 0; i < world->event_count; i++)
		free(world->events[i].frame);
	for (uint32_t i = 0; world->hosts && i < world->host_count; i++) {
		free_frames(world->hosts[i].control);
		sim_gate_free(world->hosts[i].gate);
	}
	free_frames(world->inbox);
	free(world->flows);
	free(world->events);
	free(world->links);
	free(world->routes);
	free(world->hosts);
	free(world);
}

const char *sim_error(const sim_world *world)
{
	return world->error;
}

uint64_t sim_now(const sim_world *world)
{
	return world->now;
}

int sim_add_link(sim_world *world, const struct sim_link_config *config)
{
	struct sim_link *grown;

	if (!config->rate)
		return -EINVAL;
	grown = realloc(world->links, (world->link_count + 1) * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	world->links = grown;
	sim_link_init(&grown[world->link_count], config,
		      sim_mix(world->seed ^ sim_mix(world->link_count + 1)));
	return (int)world->link_count++;
}

int sim_add_outage(sim_world *world, uint32_t link, uint64_t from, uint64_t until)
{
	return link < world->link_count ? sim_link_add_outage(&world->links[link], from, until)
					: -EINVAL;
}

int sim_route(sim_world *world, uint32_t from, uint32_t to, uint32_t link)
{
	if (from >= world->host_count || to >= world->host_count || link >= world->link_count)
		return -EINVAL;
	world->routes[from * world->host_count + to] = link + 1;
	return 0;
}

int sim_set_interface(sim_world *world, uint32_t host, uint64_t rate)
{
	if (host >= world->host_count)
		return -EINVAL;
	world->hosts[host].interface_rate = rate;
	return 0;
}

int sim_link_read(const sim_world *world, uint32_t link, struct sim_link_stats *stats)
{
	if (link >= world->link_count)
		return -EINVAL;
	*stats = world->links[link].stats;
	return 0;
}

int sim_send(sim_world *world, uint32_t host, uint32_t peer, const uint8_t *data, uint32_t len)
{
	struct sim_host *sender;
	struct sim_frame *frame;

	if (host >= world->host_count || peer >= world->host_count)
		return -EINVAL;
	frame = sim_frame_new(host, peer, SIM_ETHERNET_LEN + len, SIM_ETHERNET_LEN + len);
	if (!frame)
		return -ENOMEM;
	memcpy(frame->data + SIM_ETHERNET_LEN, data, len);
	sender = &world->hosts[host];
	if (sender->control)
		sender->control_last->next = frame;
	else
		sender->control = frame;
	sender->control_last = frame;
	send_due(world, host);
	return 0;
}

uint32_t sim_take(sim_world *world, uint32_t *host, uint32_t *peer, uint8_t *data, uint32_t room)
{
	struct sim_frame *frame = world->inbox;
	uint32_t len;

	if (!frame)
		return 0;
	len = frame->len - SIM_ETHERNET_LEN;
	if (len > room)
		return 0;
	world->inbox = frame->next;
	*host = frame->to;
	*peer = frame->from;
	memcpy(data, frame->data + SIM_ETHERNET_LEN, len);
	free(frame);
	return len;
}

/* -- flows -- */

int sim_world_add(struct sim_world *world, struct sim_flow *flow)
{
	struct sim_flow **grown;

	grown = realloc(world->flows, (world->flow_count + 1) * sizeof(*grown));
	if (!grown) {
		flow->kind->free(flow);
		return -ENOMEM;
	}
	world->flows = grown;
	grown[world->flow_count] = flow;
	flow->world = world;
	flow->index = world->flow_count;
	flow->wake_at = SIM_NEVER;
	world->told_done = 0;
	return (int)world->flow_count++;
}

struct sim_flow *sim_world_find(const struct sim_world *world, uint32_t host, uint32_t peer,
				uint32_t number)
{
	return sim_gate_flow(world->hosts[host].gate, peer, number);
}

void sim_sample(struct sim_flow *flow, uint64_t bytes)
{
	uint64_t bucket;

	if (!flow->sample || !bytes)
		return;
	bucket = (flow->world->now - SIM_START) / flow->sample;
	if (bucket >= flow->sample_room) {
		uint64_t room = 2 * bucket + 64;
		uint64_t *grown = realloc(flow->samples, room * sizeof(*grown));

		if (!grown || room > UINT32_MAX) {
			sim_broken(flow->world, "too many samples");
			return;
		}
		memset(grown + flow->sample_room, 0, (room - flow->sample_room) * sizeof(*grown));
		flow->samples = grown;
		flow->sample_room = (uint32_t)room;
	}
	flow->samples[bucket] += bytes;
	if (bucket >= flow->sample_count)
		flow->sample_count = (uint32_t)bucket + 1;
}

uint32_t sim_samples(const sim_world *world, uint32_t flow, const uint64_t **samples)
{
	if (flow >= world->flow_count)
		return 0;
	*samples = world->flows[flow]->samples;
	return world->flows[flow]->sample_count;
}
