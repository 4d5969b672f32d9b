// SPDX-License-Identifier: Apache-2.0
/* The endpoint: a flow engine and a port, turned together. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "flow.h"

#define TURN_INTERVAL 1000000L /* ns between two turns while nothing arrives */

struct an_endpoint {
	struct an_flow flow;
	struct an_port *port;
	int backend;
	char fallback_reason[256];
};

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static struct an_port *open_port(struct an_endpoint *endpoint,
				 const struct an_endpoint_config *config, char *error,
				 size_t error_len)
{
	struct an_port *port = NULL;

	if (config->backend != AN_BACKEND_AF_PACKET) {
		if (config->sockets_map >= 0)
			port = an_port_open_xdp(config->interface, config->queue,
						config->sockets_map, error, error_len);
		else
			snprintf(error, error_len,
				 "AF_XDP: the gate's table of sockets is not open");
		if (port) {
			endpoint->backend = AN_BACKEND_AF_XDP;
			return port;
		}
		if (config->backend == AN_BACKEND_AF_XDP)
			return NULL;
		snprintf(endpoint->fallback_reason, sizeof(endpoint->fallback_reason), "%s", error);
	}
	endpoint->backend = AN_BACKEND_AF_PACKET;
	return an_port_open_packet(config->interface, (uint16_t)config->flow, config->local_cell,
				   error, error_len);
}

an_endpoint *an_endpoint_open(const struct an_endpoint_config *config, char *error,
			      size_t error_len)
{
	struct an_endpoint *endpoint = calloc(1, sizeof(*endpoint));

	if (!endpoint) {
		snprintf(error, error_len, "out of memory");
		return NULL;
	}
	/* The port first: room is promised to the peer only where frames can already arrive. */
	endpoint->port = open_port(endpoint, config, error, error_len);
	if (!endpoint->port) {
		free(endpoint);
		return NULL;
	}
	if (an_flow_init(&endpoint->flow, config, clock_ns(CLOCK_MONOTONIC), error, error_len)) {
		endpoint->port->ops->close(endpoint->port);
		free(endpoint);
		return NULL;
	}
	return endpoint;
}

int an_endpoint_backend(const an_endpoint *endpoint)
{
	return endpoint->backend;
}

const char *an_endpoint_fallback_reason(const an_endpoint *endpoint)
{
	return endpoint->fallback_reason;
}

void an_endpoint_send(an_endpoint *endpoint, const uint8_t *source, uint64_t len)
{
	endpoint->flow.source = source;
	endpoint->flow.source_len = len;
	endpoint->flow.source_sent = 0;
	endpoint->flow.progress_at = clock_ns(CLOCK_MONOTONIC);
}

void an_endpoint_receive(an_endpoint *endpoint, uint8_t *sink, uint64_t len)
{
	endpoint->flow.sink = sink;
	endpoint->flow.sink_len = len;
	endpoint->flow.sink_filled = 0;
	endpoint->flow.progress_at = clock_ns(CLOCK_MONOTONIC);
}

void an_endpoint_stats(const an_endpoint *endpoint, struct an_stats *stats)
{
	*stats = endpoint->flow.stats;
}

/*
 * One turn: take in a burst, deliver, send what is due. Returns frames moved, or a negative errno.
 * `at` becomes when it was: after the burst was taken, so that nothing arrived later, and a grant
 * by rate comes no sooner than the gate's reckoning.
 */
static int turn(struct an_endpoint *endpoint, uint64_t *at, char *error, size_t error_len)
{
	struct an_flow *flow = &endpoint->flow;
	struct an_port *port = endpoint->port;
	struct an_view views[AN_BURST];
	unsigned int received = port->ops->rx(port, views, AN_BURST);
	uint64_t wall = clock_ns(CLOCK_TAI);
	uint64_t now = *at = clock_ns(CLOCK_MONOTONIC);
	unsigned int sent = 0;
	uint8_t *buffer;
	int err = 0;

	for (unsigned int i = 0; i < received && !err; i++)
		err = an_flow_input(flow, views[i].data, views[i].len, now, error, error_len);
	port->ops->rx_done(port, received);
	if (!err)
		err = an_flow_deliver(flow, error, error_len);
	if (err)
		return err;

	an_flow_take_receipts(flow, now);
	while (sent < AN_BURST && (buffer = port->ops->tx_buffer(port))) {
		uint32_t len = an_flow_output(flow, buffer, now, wall);

		if (!len)
			break;
		port->ops->tx_push(port, buffer, len);
		sent++;
	}
	port->ops->flush(port);
	return (int)(received + sent);
}

/*
 * Shut, then take in what the gate had let through before: a frame that was admitted and charged
 * must not be lost to the flow's next endpoint.
 */
void an_endpoint_close(an_endpoint *endpoint)
{
	char ignored[128];
	uint64_t now;

	if (!endpoint)
		return;
	an_flow_shut(&endpoint->flow);
	for (int i = 0; i < 64; i++)
		if (turn(endpoint, &now, ignored, sizeof(ignored)) <= 0)
			break;
	endpoint->port->ops->close(endpoint->port);
	an_flow_free(&endpoint->flow);
	free(endpoint);
}

/* Waits for frames, for a millisecond or until there is a grant to tell of. */
static void wait_for_work(const struct an_endpoint *endpoint, uint64_t now)
{
	struct pollfd waiting = {.fd = endpoint->port->fd, .events = POLLIN};
	uint64_t wait = an_flow_wait(&endpoint->flow, now);
	struct timespec timeout = {.tv_nsec = wait < TURN_INTERVAL ? (long)wait : TURN_INTERVAL};

	ppoll(&waiting, 1, &timeout, NULL);
}

/* Turns until `done` says a status, time is up, or something fails. */
static int run(struct an_endpoint *endpoint, uint64_t until, int (*done)(const struct an_flow *),
	       char *error, size_t error_len)
{
	for (;;) {
		uint64_t now;
		int moved = turn(endpoint, &now, error, error_len);
		int status;

		if (moved < 0 || an_flow_check(&endpoint->flow, now, error, error_len))
			return AN_FAILED;
		status = done(&endpoint->flow);
		if (status)
			return status;
		if (now >= until)
			return AN_RUNNING;
		if (!moved)
			wait_for_work(endpoint, now);
	}
}

static int work_done(const struct an_flow *flow)
{
	if (an_flow_sink_full(flow))
		return AN_RECEIVED;
	return flow->source_len && an_flow_all_sent(flow) ? AN_SENT : AN_RUNNING;
}

static int never_done(const struct an_flow *flow)
{
	return AN_RUNNING;
}

int an_endpoint_run(an_endpoint *endpoint, int milliseconds, char *error, size_t error_len)
{
	uint64_t until = clock_ns(CLOCK_MONOTONIC) + (uint64_t)milliseconds * 1000000ULL;

	return run(endpoint, until, work_done, error, error_len);
}

int an_endpoint_linger(an_endpoint *endpoint, int milliseconds, char *error, size_t error_len)
{
	const uint64_t quiet = (uint64_t)milliseconds * 1000000ULL;
	uint64_t now = clock_ns(CLOCK_MONOTONIC);
	const uint64_t limit = now + 10 * quiet;

	endpoint->flow.answer_due = 1; /* the last receipt, unasked */
	endpoint->flow.heard_at = now;
	while (now < limit && now - endpoint->flow.heard_at < quiet) {
		if (run(endpoint, now + quiet / 8, never_done, error, error_len) == AN_FAILED)
			return AN_FAILED;
		now = clock_ns(CLOCK_MONOTONIC);
	}
	/* Whoever still waits for grants asks now and then. */
	return endpoint->flow.rx_held_data && now - endpoint->flow.heard_at < AN_SILENCE_LIMIT
		   ? AN_RUNNING
		   : AN_SENT;
}

void an_counter_raise(uint64_t *counter, uint64_t value)
{
	assent_counter_raise((__u64 *)counter, value);
}

uint64_t an_header_tag(const uint8_t *key, const uint8_t *header)
{
	struct assent_header h;
	struct assent_sip state;
	uint64_t half[2];

	memcpy(&h, header, sizeof(h));
	memcpy(half, key, sizeof(half));
	state = assent_pair_state(assent_le64(half[0]), assent_le64(half[1]), &h);
	OPENSSL_cleanse(half, sizeof(half));
	return assent_header_tag(&state, &h);
}
