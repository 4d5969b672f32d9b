// SPDX-License-Identifier: Apache-2.0
#include "gate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "assent/tables.h"

#define SECOND 1000000000ULL
#define CHUNKS 8 /* of a flow's replay ring, so that it may have 8,192 numbers */

struct sim_gate {
	struct assent_config config;
	uint32_t pairs;
	uint32_t flows_per_pair; /* flow 0 among them */
	struct assent_session *sessions;
	uint8_t *known; /* peers that were introduced */
	struct assent_flow *lines;
	struct assent_replay_chunk *chunks;
	struct sim_flow **flows;
	const struct sim_world *world;
	uint32_t speaker; /* the host that the frame at hand comes from */
	struct sim_gate_stats stats;
};

/* verdict.h asks for the tables of the host whose gate is at work, and knows no other argument. */
static _Thread_local struct sim_gate *at_work;

#include "assent/verdict.h"

static __always_inline const struct assent_local *
assent_find_local(const struct assent_cellid *cell)
{
	return NULL; /* the one that there is stands in the configuration */
}

static __always_inline const __u64 *assent_bloom_word(__u32 index)
{
	static const __u64 everybody = ~0ULL;

	return &everybody;
}

static __always_inline struct assent_session *assent_find_session(const struct assent_pair *pair)
{
	return at_work->known[at_work->speaker] ? &at_work->sessions[at_work->speaker] : NULL;
}

static __always_inline struct assent_flow *assent_flow_at(__u32 slot)
{
	return slot < at_work->pairs * at_work->flows_per_pair ? &at_work->lines[slot] : NULL;
}

static __always_inline struct assent_replay_chunk *assent_replay_chunk_at(__u32 index)
{
	return index < at_work->pairs * at_work->flows_per_pair * CHUNKS ? &at_work->chunks[index]
									 : NULL;
}

static __always_inline const struct assent_config *assent_get_config(void)
{
	return &at_work->config;
}

static __always_inline __u64 assent_now(void)
{
	return at_work->world->now;
}

/* As the control plane sets them up by default. */
static void set_limits(struct assent_config *config)
{
	config->home_count = 1;
	config->lamp_interval = SECOND / 64;
	config->lamp_burst = SECOND;
	config->handshake_interval = SECOND / 50;
	config->handshake_burst = 15 * config->handshake_interval;
	config->control_interval = SECOND / 1000;
	config->control_burst = 255 * config->control_interval;
}

struct sim_gate *sim_gate_new(uint32_t hosts, uint32_t flows_per_pair)
{
	struct sim_gate *gate = calloc(1, sizeof(*gate));
	size_t lines = (size_t)hosts * (flows_per_pair + 1);

	if (!gate)
		return NULL;
	set_limits(&gate->config);
	gate->pairs = hosts;
	gate->flows_per_pair = flows_per_pair + 1;
	gate->sessions = aligned_alloc(64, hosts * sizeof(*gate->sessions));
	gate->lines = aligned_alloc(64, lines * sizeof(*gate->lines));
	gate->known = calloc(hosts, 1);
	gate->chunks = calloc(lines * CHUNKS, sizeof(*gate->chunks));
	gate->flows = calloc(lines, sizeof(struct sim_flow *));
	if (!gate->sessions || !gate->lines || !gate->known || !gate->chunks || !gate->flows) {
		sim_gate_free(gate);
		return NULL;
	}
	memset(gate->sessions, 0, hosts * sizeof(*gate->sessions));
	memset(gate->lines, 0, lines * sizeof(*gate->lines));
	return gate;
}

void sim_gate_free(struct sim_gate *gate)
{
	if (!gate)
		return;
	free(gate->sessions);
	free(gate->lines);
	free(gate->known);
	free(gate->chunks);
	free(gate->flows);
	free(gate);
}

static void count(struct sim_gate_stats *stats, enum assent_reason reason)
{
	if (reason == ASSENT_ADMITTED) {
		stats->admitted++;
	} else if (reason == ASSENT_DROP_REPLAY) {
		stats->replayed++;
	} else {
		stats->refused++;
		stats->last = reason;
	}
}

int sim_gate_admits(struct sim_world *world, const struct sim_frame *frame, uint16_t *number)
{
	struct sim_gate *gate = world->hosts[frame->to].gate;
	uint8_t aligned[2048] __attribute__((aligned(8)));
	uint32_t len = frame->len - SIM_ETHERNET_LEN;
	struct assent_found found = {0};
	enum assent_reason reason;

	if (frame->len < SIM_ETHERNET_LEN || len > sizeof(aligned)) {
		sim_broken(world, "a frame of %u bytes", frame->len);
		return 0;
	}
	memcpy(aligned, frame->data + SIM_ETHERNET_LEN, len);
	gate->world = world;
	gate->speaker = frame->from;
	at_work = gate;
	reason = assent_judge(aligned, aligned + len, &found);
	at_work = NULL;
	count(&gate->stats, reason);
	*number = found.flow;
	return reason == ASSENT_ADMITTED;
}

static uint32_t slot(const struct sim_gate *gate, uint32_t peer, uint32_t number)
{
	return peer * gate->flows_per_pair + number;
}

struct assent_flow *sim_gate_open(struct sim_gate *gate, const struct sim_flow_config *config)
{
	struct assent_flow *line;
	uint32_t at;

	if (config->peer >= gate->pairs || !config->number ||
	    config->number >= gate->flows_per_pair ||
	    !(gate->sessions[config->peer].flags & ASSENT_SESSION_ESTABLISHED))
		return NULL;
	at = slot(gate, config->peer, config->number);
	line = &gate->lines[at];
	*line = (struct assent_flow){
	    .rx_granted = config->rx_window,
	    .tx_granted = config->tx_window,
	    .rx_window = config->rx_window,
	    .tx_window = config->tx_window,
	    .replay_base = at * CHUNKS,
	    .replay_len = (uint16_t)config->replay_len,
	    .replay_mask = CHUNKS - 1,
	    .grant_shift = (uint8_t)config->grant_shift,
	};
	gate->chunks[line->replay_base].word[0] = 1; /* number 0 is never used */
	return line;
}

void sim_gate_bind(struct sim_gate *gate, uint32_t peer, uint32_t number, struct sim_flow *flow)
{
	gate->flows[slot(gate, peer, number)] = flow;
}

struct sim_flow *sim_gate_flow(const struct sim_gate *gate, uint32_t peer, uint32_t number)
{
	return number < gate->flows_per_pair ? gate->flows[slot(gate, peer, number)] : NULL;
}

const uint8_t *sim_gate_cell(const struct sim_gate *gate)
{
	return gate->config.home[0].bytes;
}

/* -- what the control plane writes -- */

static struct assent_sip state_of(const struct sim_world *world, uint32_t host, uint32_t peer,
				  const uint8_t bytes[16])
{
	struct assent_header from_peer = {0};
	uint64_t key[2];

	memcpy(key, bytes, sizeof(key));
	from_peer.pair.src = world->hosts[peer].gate->config.home[0];
	from_peer.pair.dst = world->hosts[host].gate->config.home[0];
	return assent_pair_state(assent_le64(key[0]), assent_le64(key[1]), &from_peer);
}

static int are_hosts(const struct sim_world *world, uint32_t host, uint32_t peer)
{
	return host < world->host_count && peer < world->host_count && host != peer;
}

int sim_set_cell(sim_world *world, uint32_t host, const uint8_t cell[16])
{
	if (host >= world->host_count)
		return -EINVAL;
	memcpy(world->hosts[host].gate->config.home[0].bytes, cell, 16);
	return 0;
}

int sim_introduce(sim_world *world, uint32_t host, uint32_t peer, const uint8_t admission_key[16])
{
	struct sim_gate *gate;

	if (!are_hosts(world, host, peer))
		return -EINVAL;
	gate = world->hosts[host].gate;
	gate->known[peer] = 1;
	gate->sessions[peer].admission = state_of(world, host, peer, admission_key);
	gate->sessions[peer].flags = ASSENT_SESSION_COVENANTED;
	return 0;
}

int sim_establish(sim_world *world, uint32_t host, uint32_t peer, const uint8_t header_key[16],
		  int64_t clock_offset, uint32_t skew_limit_ms)
{
	struct assent_session *session;
	struct sim_gate *gate;

	if (!are_hosts(world, host, peer) || !world->hosts[host].gate->known[peer])
		return -EINVAL;
	gate = world->hosts[host].gate;
	session = &gate->sessions[peer];
	session->current = state_of(world, host, peer, header_key);
	session->flow_base = slot(gate, peer, 0);
	session->flow_count = (uint16_t)gate->flows_per_pair;
	session->clock_offset = clock_offset;
	session->skew_limit = skew_limit_ms;
	session->flags |= ASSENT_SESSION_ESTABLISHED;
	return 0;
}

void sim_gate_set_rate(struct sim_gate *gate, uint32_t peer, uint64_t rate, uint64_t window)
{
	struct assent_session *session = &gate->sessions[peer];

	session->flags |= ASSENT_SESSION_TERMS;
	session->data_interval = (SECOND + rate - 1) / rate;
	session->data_burst = window * session->data_interval;
}

int sim_gate_read(const sim_world *world, uint32_t host, struct sim_gate_stats *stats)
{
	if (host >= world->host_count)
		return -EINVAL;
	*stats = world->hosts[host].gate->stats;
	return 0;
}
