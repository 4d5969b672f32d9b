// SPDX-License-Identifier: Apache-2.0
/*
 * One side of a fabric flow: the engine of native/flow.h, and an application that writes messages,
 * reads the peer's, and knows what they must be.
 *
 * A message is known by its number: the first eight bytes say it, and its length and all that
 * follows come from it and the pattern. So a reader needs no copy of what was sent.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "flow.h"
#include "gate.h"
#include "random.h"
#include "world.h"

#define HEAD sizeof(uint64_t)

struct fabric {
	struct sim_flow base;
	struct sim_flow_config config;
	struct assent_flow *line;
	struct an_flow engine;
	struct an_pool pool;
	struct assent_flow books; /* the line as it was when it was last looked at */
	struct sim_flow_stats stats;

	uint8_t *out; /* the message at hand */
	uint32_t out_len, out_taken;
	uint64_t next_at;
	int finished;

	uint8_t *in;
	uint32_t in_len;
	uint8_t *seen; /* a byte for each message of the peer */
};

static struct fabric *fabric(struct sim_flow *flow)
{
	return (struct fabric *)flow;
}

static void fail(struct fabric *f, int error, const char *sentence)
{
	if (f->stats.error)
		return;
	f->stats.error = error;
	f->stats.failed_at = f->base.world->now;
	snprintf(f->stats.sentence, sizeof(f->stats.sentence), "%s", sentence);
	an_flow_shut(&f->engine);
}

/* -- messages -- */

static uint64_t seed_of(const struct fabric *f, uint32_t sender, uint64_t number)
{
	return sim_mix(f->config.pattern ^ sim_mix(((uint64_t)sender << 48) ^ number));
}

static uint32_t message_len(uint64_t seed, uint32_t least, uint32_t most)
{
	return least + (uint32_t)(sim_mix(seed ^ 1) % ((uint64_t)most - least + 1));
}

/* Both what is written, and what is compared with. */
static void fill(uint8_t *message, uint32_t len, uint64_t seed, uint64_t number)
{
	uint32_t at = 0;

	if (len >= HEAD) {
		memcpy(message, &number, HEAD);
		at = HEAD;
	}
	for (; at + 8 <= len; at += 8) {
		uint64_t word = sim_random(&seed);

		memcpy(message + at, &word, 8);
	}
	for (; at < len; at++)
		message[at] = (uint8_t)(seed >> (at % 8));
}

static int is_as_written(const uint8_t *message, uint32_t len, uint64_t seed)
{
	uint32_t at = len >= HEAD ? HEAD : 0;

	for (; at + 8 <= len; at += 8) {
		uint64_t word = sim_random(&seed);

		if (memcmp(message + at, &word, 8))
			return 0;
	}
	for (; at < len; at++) {
		if (message[at] != (uint8_t)(seed >> (at % 8)))
			return 0;
	}
	return 1;
}

/* -- what must hold at any moment -- */

static void check_books(struct fabric *f)
{
	struct sim_world *world = f->base.world;
	const struct assent_flow *line = f->line, *was = &f->books;
	struct sim_flow *peer = sim_world_find(world, f->base.peer, f->base.host, f->base.number);
	const char *wrong = NULL;

	if (line->rx_spent > line->rx_granted)
		wrong = "more was charged than granted";
	else if (line->rx_granted - line->rx_spent > line->rx_window)
		wrong = "more is granted than the window";
	else if (line->tx_spent > line->tx_granted)
		wrong = "more was sent than granted";
	else if (line->tx_granted - line->tx_spent > line->tx_window)
		wrong = "more may be sent than the window";
	else if (line->rx_granted < was->rx_granted || line->rx_spent < was->rx_spent ||
		 line->tx_granted < was->tx_granted || line->tx_spent < was->tx_spent)
		wrong = "a counter went back";
	else if (peer && line->rx_spent > fabric(peer)->line->tx_spent)
		wrong = "more was charged than the peer sent";
	else if (peer && line->tx_granted > fabric(peer)->line->rx_granted)
		wrong = "more credit is believed in than the peer gave";
	if (wrong)
		sim_broken(world,
			   "host %u, flow %u: %s (rx granted %llu spent %llu window %u, tx granted "
			   "%llu spent %llu window %u)",
			   f->base.host, f->base.number, wrong, line->rx_granted, line->rx_spent,
			   line->rx_window, line->tx_granted, line->tx_spent, line->tx_window);
	f->books = *line;
}

/* -- the application -- */

static int is_stalled(const struct fabric *f)
{
	uint64_t now = f->base.world->now;

	return f->config.stall_until && now >= f->config.stall_from && now < f->config.stall_until;
}

static int has_to_write(const struct fabric *f)
{
	return f->stats.messages_written < f->config.messages;
}

static void begin_message(struct fabric *f)
{
	uint64_t number = f->stats.messages_written;
	uint64_t seed = seed_of(f, f->base.host, number);

	f->out_len = message_len(seed, f->config.size_min, f->config.size_max);
	f->out_taken = 0;
	fill(f->out, f->out_len, seed, number);
}

static void message_written(struct fabric *f)
{
	f->stats.messages_written++;
	f->stats.bytes_written += f->out_len;
	f->out_len = UINT32_MAX;
	if (f->config.gap)
		f->next_at += f->config.gap;
}

static void write_messages(struct fabric *f)
{
	uint64_t now = f->base.world->now;
	uint32_t flags = f->config.coalesce ? AN_COALESCE : 0;

	while (has_to_write(f) && now >= f->next_at) {
		struct an_span span = {.data = f->out};
		int64_t taken;

		if (f->out_len == UINT32_MAX)
			begin_message(f);
		span.len = f->out_len;
		taken = an_flow_write(&f->engine, &span, 1, f->out_taken, flags, now);
		if (taken == -EAGAIN)
			return;
		if (taken < 0) {
			fail(f, (int)taken, "the engine did not take a message");
			return;
		}
		f->out_taken += (uint32_t)taken;
		if (f->out_taken == f->out_len)
			message_written(f);
	}
	if (!has_to_write(f) && !f->finished)
		f->finished = !an_flow_finish(&f->engine, now);
}

static void message_read(struct fabric *f)
{
	struct sim_world *world = f->base.world;
	uint64_t number = f->stats.messages_read, seed;

	if (f->in_len >= HEAD)
		memcpy(&number, f->in, HEAD);
	if (number >= f->config.expected)
		sim_broken(world, "host %u read a message that nobody wrote", f->base.host);
	else if (f->config.delivery == AN_ORDERED && number != f->stats.messages_read)
		sim_broken(world, "host %u read message %llu, and awaited %llu", f->base.host,
			   (unsigned long long)number, (unsigned long long)f->stats.messages_read);
	else if (f->seen[number])
		sim_broken(world, "host %u read message %llu twice", f->base.host,
			   (unsigned long long)number);
	if (world->error[0])
		return;
	f->seen[number] = 1;
	seed = seed_of(f, f->base.peer, number);
	if (f->in_len != message_len(seed, f->config.expected_min, f->config.expected_max) ||
	    !is_as_written(f->in, f->in_len, seed))
		sim_broken(world, "host %u read message %llu otherwise than it was written",
			   f->base.host, (unsigned long long)number);
	f->stats.messages_read++;
	f->in_len = 0;
}

static void read_messages(struct fabric *f)
{
	struct sim_world *world = f->base.world;
	uint32_t room = f->config.expected_max + 1; /* a byte more, so that one too long shows */

	while (!is_stalled(f) && !f->stats.ended_at && !world->error[0]) {
		int end = 0;
		int64_t got =
		    an_flow_read(&f->engine, f->in + f->in_len, room - f->in_len, &end, world->now);

		if (got == -EAGAIN)
			return;
		if (got == -EPIPE) {
			f->stats.ended_at = world->now;
			return;
		}
		if (got < 0) {
			fail(f, (int)got, "reading failed");
			return;
		}
		f->in_len += (uint32_t)got;
		f->stats.bytes_read += (uint64_t)got;
		if (!f->stats.first_read_at)
			f->stats.first_read_at = world->now;
		f->stats.last_read_at = world->now;
		sim_sample(&f->base, (uint64_t)got);
		if (end)
			message_read(f);
		else if (f->in_len == room)
			sim_broken(world, "host %u read a message that has no end", f->base.host);
	}
}

/* -- what the world asks for -- */

static void input(struct sim_flow *flow, const struct sim_frame *frame)
{
	struct fabric *f = fabric(flow);
	char error[256];
	int err;

	check_books(f);
	if (f->stats.error)
		return;
	err = an_flow_input(&f->engine, frame->data, frame->len, flow->world->now, error,
			    sizeof(error));
	if (err)
		fail(f, err, error);
	check_books(f);
}

static void serve(struct sim_flow *flow)
{
	struct fabric *f = fabric(flow);
	char error[256];
	int err;

	if (f->stats.error)
		return;
	read_messages(f);
	an_flow_expect(&f->engine, !is_stalled(f) && !f->stats.ended_at, flow->world->now);
	write_messages(f);
	if (!f->stats.drained_at && f->finished && an_flow_ready(&f->engine) & AN_DRAINED)
		f->stats.drained_at = flow->world->now;
	err = an_flow_check(&f->engine, flow->world->now, error, sizeof(error));
	if (err)
		fail(f, err, error);
	check_books(f);
}

static struct sim_frame *output(struct sim_flow *flow)
{
	struct fabric *f = fabric(flow);
	uint8_t room[2 + AN_FRAME_MAX] __attribute__((aligned(8)));
	uint64_t now = flow->world->now;
	struct sim_frame *frame;
	uint32_t len;

	if (f->stats.error)
		return NULL;
	len = an_flow_output(&f->engine, room + 2, now, now + (uint64_t)f->config.wall);
	check_books(f);
	if (!len)
		return NULL;
	frame = sim_frame_new(flow->host, flow->peer, len, len);
	if (!frame) {
		sim_broken(flow->world, "out of memory");
		return NULL;
	}
	memcpy(frame->data, room + 2, len);
	return frame;
}

static uint64_t deadline(const struct sim_flow *flow)
{
	const struct fabric *f = (const struct fabric *)flow;
	uint64_t due, now = flow->world->now;

	if (f->stats.error)
		return SIM_NEVER;
	due = an_flow_deadline(&f->engine, now);
	if (due <= now) {
		sim_broken(flow->world, "host %u, flow %u: a frame is due, and there is none",
			   flow->host, flow->number);
		return SIM_NEVER;
	}
	if (has_to_write(f) && f->next_at > now && f->next_at < due)
		due = f->next_at;
	if (is_stalled(f) && f->config.stall_until < due)
		due = f->config.stall_until;
	return due;
}

static int is_done(const struct sim_flow *flow)
{
	const struct fabric *f = (const struct fabric *)flow;

	return f->stats.error || (f->stats.drained_at && f->stats.ended_at);
}

static void free_fabric(struct sim_flow *flow)
{
	struct fabric *f = fabric(flow);

	an_flow_free(&f->engine);
	an_pool_free(&f->pool);
	free(f->out);
	free(f->in);
	free(f->seen);
	free(f);
}

static const struct sim_flow_kind FABRIC = {
    .input = input,
    .serve = serve,
    .output = output,
    .deadline = deadline,
    .is_done = is_done,
    .free = free_fabric,
};

/* -- making one -- */

static struct an_flow_config engine_config(const struct sim_world *world,
					   const struct sim_flow_config *config,
					   struct assent_flow *line)
{
	struct an_flow_config made = {
	    .epoch = config->epoch,
	    .flow = config->number,
	    .mtu = config->mtu,
	    .rx_blocks_per_second = config->rx_blocks_per_second,
	    .line = line,
	    .delivery = config->delivery,
	    .class_ = AN_STANDARD,
	    .receipt_fraction = config->receipt_fraction,
	    .lamp = config->lamp,
	    .rtt_hint = config->rtt_hint,
	    .doorbell = -1,
	};

	memcpy(made.local_cell, sim_gate_cell(world->hosts[config->host].gate), 16);
	memcpy(made.remote_cell, sim_gate_cell(world->hosts[config->peer].gate), 16);
	memcpy(made.tx_payload_key, config->tx_payload_key, 32);
	memcpy(made.rx_payload_key, config->rx_payload_key, 32);
	memcpy(made.tx_header_key, config->tx_header_key, 16);
	made.local_mac[5] = (uint8_t)config->host;
	made.remote_mac[5] = (uint8_t)config->peer;
	return made;
}

static int init(struct sim_world *world, struct fabric *f)
{
	struct sim_gate *gate = world->hosts[f->config.host].gate;
	struct an_flow_config config = engine_config(world, &f->config, f->line);
	int err;

	f->out = malloc(f->config.size_max + 1);
	f->in = malloc(f->config.expected_max + 1);
	f->seen = calloc(f->config.expected + 1, 1);
	if (!f->out || !f->in || !f->seen || an_pool_init(&f->pool))
		return -ENOMEM;
	if (f->config.rx_blocks_per_second)
		sim_gate_set_rate(gate, f->config.peer, f->config.rx_blocks_per_second,
				  f->config.rx_window);
	err = an_flow_init(&f->engine, &config, &f->pool, ASSENT_TO_STACK, world->now, world->error,
			   sizeof(world->error));
	if (err)
		an_pool_free(&f->pool);
	return err;
}

int sim_add_flow(sim_world *world, const struct sim_flow_config *config)
{
	struct fabric *f;
	int number;

	if (config->host >= world->host_count || config->peer >= world->host_count)
		return -EINVAL;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->base.kind = &FABRIC;
	f->base.host = config->host;
	f->base.peer = config->peer;
	f->base.number = config->number;
	f->base.sample = config->sample;
	f->config = *config;
	f->out_len = UINT32_MAX;
	f->next_at = config->start > world->now ? config->start : world->now;
	f->line = sim_gate_open(world->hosts[config->host].gate, config);
	if (!f->line || init(world, f)) {
		free(f->out);
		free(f->in);
		free(f->seen);
		free(f);
		return -EINVAL;
	}
	f->books = *f->line;
	number = sim_world_add(world, &f->base);
	if (number >= 0) {
		sim_gate_bind(world->hosts[config->host].gate, config->peer, config->number,
			      &f->base);
		sim_wake(&f->base, world->now);
	}
	return number;
}

int sim_flow_read(const sim_world *world, uint32_t flow, struct sim_flow_stats *stats)
{
	const struct fabric *f;
	struct an_stats counted;

	if (flow >= world->flow_count || world->flows[flow]->kind != &FABRIC)
		return -EINVAL;
	f = (const struct fabric *)world->flows[flow];
	an_flow_stats(&f->engine, &counted);
	*stats = f->stats;
	stats->tx_frames = counted.tx_frames;
	stats->tx_bytes = counted.tx_bytes;
	stats->retransmissions = counted.retransmissions;
	stats->nacks = counted.nacks_sent;
	stats->gaps = counted.gaps_sent;
	stats->receipts = counted.receipts_sent;
	stats->probes = counted.probes_sent;
	stats->voids = counted.voids_sent;
	stats->lamps = counted.lamps_sent;
	stats->credit_waits = counted.credit_waits;
	stats->rtt = counted.rtt_ns;
	stats->rx_granted = f->line->rx_granted;
	stats->rx_spent = f->line->rx_spent;
	stats->tx_granted = f->line->tx_granted;
	stats->tx_spent = f->line->tx_spent;
	stats->rx_window = f->line->rx_window;
	stats->tx_window = f->line->tx_window;
	return 0;
}
