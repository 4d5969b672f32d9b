// SPDX-License-Identifier: Apache-2.0
#include "tcp.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MS 1000000ULL
#define SECOND 1000000000ULL
#define NEVER UINT64_MAX

#define INITIAL_WINDOW 10
#define SYN_TIMEOUT SECOND
#define SYN_RETRIES 6
#define RTO_SPREAD_MIN (200 * MS)
#define RTO_MAX (120 * SECOND)
#define RTO_DOUBLINGS 15
#define DELAYED_ACK (40 * MS)
#define DUP_THRESHOLD 3

#define CUBIC_C 0.4
#define CUBIC_BETA 0.7
#define CUBIC_ALPHA (3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA))

struct sim_tcp_sent {
	uint64_t at; /* when it last left */
	uint8_t arrived;
	uint8_t lost; /* and not sent again since */
	uint8_t again;
};

/* -- the sender's life -- */

int sim_tcp_sender_init(struct sim_tcp_sender *tcp, const struct sim_tcp_config *config,
			uint64_t now)
{
	uint64_t total = (config->bytes + SIM_TCP_MSS - 1) / SIM_TCP_MSS;
	uint32_t room = 64;

	memset(tcp, 0, sizeof(*tcp));
	tcp->patient = config->patient_rtt != 0;
	tcp->total = (uint32_t)total;
	tcp->last_len = (uint32_t)(config->bytes - (total - 1) * SIM_TCP_MSS);
	tcp->cwnd = INITIAL_WINDOW;
	tcp->ssthresh = INFINITY;
	tcp->rto = tcp->patient ? 3 * config->patient_rtt : SYN_TIMEOUT;
	tcp->syn_due = 1;
	tcp->timer = now;
	/* All that may be on the way may be sent again, and those that are stale lie between. */
	while (room < 2 * total)
		room *= 2;
	tcp->again_mask = room - 1;
	tcp->sent = calloc(total, sizeof(*tcp->sent));
	tcp->again = calloc(room, sizeof(*tcp->again));
	if (tcp->sent && tcp->again)
		return 0;
	sim_tcp_sender_free(tcp);
	return -ENOMEM;
}

void sim_tcp_sender_free(struct sim_tcp_sender *tcp)
{
	free(tcp->sent);
	free(tcp->again);
	tcp->sent = NULL;
	tcp->again = NULL;
}

/* -- RFC 6298 -- */

static uint64_t bounded_rto(const struct sim_tcp_sender *tcp, uint64_t rto)
{
	return !tcp->patient && rto > RTO_MAX ? RTO_MAX : rto;
}

static void take_rtt(struct sim_tcp_sender *tcp, uint64_t rtt)
{
	uint64_t off = tcp->srtt > rtt ? tcp->srtt - rtt : rtt - tcp->srtt;
	uint64_t spread;

	if (!tcp->srtt) {
		tcp->srtt = rtt;
		tcp->rttvar = rtt / 2;
	} else {
		tcp->rttvar = (3 * tcp->rttvar + off) / 4;
		tcp->srtt = (7 * tcp->srtt + rtt) / 8;
	}
	spread = 4 * tcp->rttvar;
	if (spread < RTO_SPREAD_MIN)
		spread = RTO_SPREAD_MIN;
	tcp->rto = bounded_rto(tcp, tcp->srtt + spread);
}

static void run_timer(struct sim_tcp_sender *tcp, uint64_t now)
{
	tcp->timer = tcp->una == tcp->nxt ? NEVER : now + tcp->rto;
}

/* -- CUBIC, RFC 9438 -- */

static void reduce(struct sim_tcp_sender *tcp)
{
	tcp->w_max = tcp->cwnd < tcp->w_max ? tcp->cwnd * (1 + CUBIC_BETA) / 2 : tcp->cwnd;
	tcp->cwnd_prior = tcp->cwnd;
	tcp->ssthresh = fmax(tcp->cwnd * CUBIC_BETA, 2);
	tcp->epoch = 0;
}

static void begin_epoch(struct sim_tcp_sender *tcp, uint64_t now)
{
	tcp->epoch = now;
	tcp->w_est = tcp->cwnd;
	if (tcp->cwnd < tcp->w_max) {
		tcp->k = cbrt((tcp->w_max - tcp->cwnd) / CUBIC_C);
	} else {
		tcp->k = 0;
		tcp->w_max = tcp->cwnd;
	}
}

static double cubic(const struct sim_tcp_sender *tcp, double seconds)
{
	return CUBIC_C * pow(seconds - tcp->k, 3) + tcp->w_max;
}

static void avoid_congestion(struct sim_tcp_sender *tcp, uint32_t acked, uint64_t now)
{
	double elapsed, target;

	if (!tcp->epoch)
		begin_epoch(tcp, now);
	elapsed = (double)(now - tcp->epoch) / 1e9;
	tcp->w_est += (tcp->w_est < tcp->cwnd_prior ? CUBIC_ALPHA : 1) * acked / tcp->cwnd;
	if (cubic(tcp, elapsed) < tcp->w_est) {
		tcp->cwnd = fmax(tcp->cwnd, tcp->w_est);
		return;
	}
	target = cubic(tcp, elapsed + (double)tcp->srtt / 1e9);
	target = fmin(fmax(target, tcp->cwnd), 1.5 * tcp->cwnd);
	tcp->cwnd += (target - tcp->cwnd) / tcp->cwnd * acked;
}

/* A window that was not used says nothing of the path (RFC 7661's idea, as Linux has it). */
static void grow(struct sim_tcp_sender *tcp, uint32_t acked, uint64_t now)
{
	if (tcp->recovering && !tcp->timed_out)
		return;
	if (tcp->cwnd >= tcp->ssthresh) {
		if (tcp->limited)
			avoid_congestion(tcp, acked, now);
	} else if (tcp->limited || tcp->cwnd < 2.0 * tcp->pipe_max) {
		tcp->cwnd = fmin(tcp->cwnd + acked, tcp->ssthresh);
	}
}

static void begin_round(struct sim_tcp_sender *tcp)
{
	if (tcp->una < tcp->round_end)
		return;
	tcp->round_end = tcp->nxt;
	tcp->pipe_max = tcp->pipe;
	tcp->limited = 0;
}

/* -- the scoreboard, RFC 6675 -- */

static void lose(struct sim_tcp_sender *tcp, uint32_t seq)
{
	struct sim_tcp_sent *sent = &tcp->sent[seq];

	if (sent->arrived || sent->lost)
		return;
	sent->lost = 1;
	tcp->lost_count++;
	tcp->pipe--;
	if (seq < tcp->hole)
		tcp->hole = seq;
}

static void note_top(struct sim_tcp_sender *tcp, uint32_t seq)
{
	uint32_t rising = seq + 1;

	for (int i = 0; i < DUP_THRESHOLD; i++) {
		if (rising > tcp->top[i]) {
			uint32_t pushed = tcp->top[i];

			tcp->top[i] = rising;
			rising = pushed;
		}
	}
}

/* Returns whether it was not known to have arrived. */
static int arrive(struct sim_tcp_sender *tcp, uint32_t seq)
{
	struct sim_tcp_sent *sent = &tcp->sent[seq];

	if (sent->arrived)
		return 0;
	sent->arrived = 1;
	if (sent->lost)
		tcp->lost_count--;
	else
		tcp->pipe--;
	sent->lost = 0;
	if (sent->at > tcp->newest_arrived)
		tcp->newest_arrived = sent->at;
	return 1;
}

/* Three that arrived from behind it: it is lost. */
static void lose_below_edge(struct sim_tcp_sender *tcp)
{
	uint32_t third = tcp->top[DUP_THRESHOLD - 1];
	uint32_t edge = third ? third - 1 : 0;

	if (tcp->lost_edge < tcp->una)
		tcp->lost_edge = tcp->una;
	for (; tcp->lost_edge < edge; tcp->lost_edge++) {
		if (!tcp->sent[tcp->lost_edge].again)
			lose(tcp, tcp->lost_edge);
	}
}

/* Sent again, and what left later has arrived: lost once more. */
static void lose_those_sent_again(struct sim_tcp_sender *tcp)
{
	for (; tcp->again_head != tcp->again_tail; tcp->again_head++) {
		uint32_t seq = tcp->again[tcp->again_head & tcp->again_mask];
		uint64_t patience = tcp->srtt / 4;

		if (seq < tcp->una || tcp->sent[seq].arrived || tcp->sent[seq].lost)
			continue;
		if (tcp->sent[seq].at + patience >= tcp->newest_arrived)
			return;
		lose(tcp, seq);
	}
}

static uint32_t take_blocks(struct sim_tcp_sender *tcp, const struct sim_tcp_segment *segment)
{
	uint32_t arrived = 0;

	for (uint32_t i = 0; i < segment->block_count; i++) {
		uint32_t first = segment->blocks[i][0];

		for (uint32_t seq = first < tcp->una ? tcp->una : first;
		     seq < segment->blocks[i][1]; seq++) {
			if (arrive(tcp, seq)) {
				note_top(tcp, seq);
				arrived++;
			}
		}
	}
	return arrived;
}

/* -- what arrives -- */

static void recover(struct sim_tcp_sender *tcp)
{
	tcp->recovering = 1;
	tcp->timed_out = 0;
	tcp->recover = tcp->nxt;
	reduce(tcp);
	tcp->cwnd = tcp->ssthresh;
	tcp->stats.reductions++;
}

static void take_ack(struct sim_tcp_sender *tcp, const struct sim_tcp_segment *segment,
		     uint64_t now)
{
	uint32_t before = tcp->una;
	uint32_t arrived = 0;

	if (segment->ack > tcp->nxt || segment->ack < tcp->una)
		return;
	for (; tcp->una < segment->ack; tcp->una++)
		arrived += (uint32_t)arrive(tcp, tcp->una);
	arrived += take_blocks(tcp, segment);
	tcp->window = segment->window;
	if (segment->echo)
		take_rtt(tcp, now - segment->echo);
	if (tcp->una == tcp->total) {
		tcp->state = SIM_TCP_DONE;
		tcp->timer = NEVER;
		return;
	}
	if (tcp->una != before) {
		tcp->doublings = 0;
		run_timer(tcp, now);
	}
	lose_below_edge(tcp);
	lose_those_sent_again(tcp);
	if (tcp->recovering && tcp->una >= tcp->recover)
		tcp->recovering = tcp->timed_out = 0;
	if (!tcp->recovering && tcp->lost_count)
		recover(tcp);
	else
		grow(tcp, arrived, now);
	begin_round(tcp);
}

void sim_tcp_sender_input(struct sim_tcp_sender *tcp, const struct sim_tcp_segment *segment,
			  uint64_t now)
{
	if (tcp->state == SIM_TCP_SENT_SYN && segment->kind == SIM_TCP_SYN_ACK) {
		tcp->state = SIM_TCP_OPEN;
		tcp->window = segment->window;
		tcp->syn_due = 0;
		tcp->doublings = 0;
		tcp->timer = NEVER;
		take_rtt(tcp, now - segment->echo);
	} else if (tcp->state == SIM_TCP_OPEN && segment->kind == SIM_TCP_ACK) {
		take_ack(tcp, segment, now);
	}
}

/* -- what leaves -- */

static void time_out(struct sim_tcp_sender *tcp)
{
	uint32_t limit = tcp->state == SIM_TCP_OPEN ? RTO_DOUBLINGS : SYN_RETRIES;

	tcp->timer = NEVER;
	if (!tcp->patient && tcp->doublings == limit) {
		tcp->state = SIM_TCP_FAILED;
		return;
	}
	tcp->doublings++;
	tcp->rto = bounded_rto(tcp, 2 * tcp->rto);
	tcp->stats.timeouts++;
	if (tcp->state == SIM_TCP_SENT_SYN) {
		tcp->syn_due = 1;
		return;
	}
	/* Whatever was not acknowledged is lost, and may be sent again. */
	if (tcp->doublings == 1)
		reduce(tcp);
	tcp->cwnd = 1;
	tcp->w_max = 0; /* the next epoch begins where slow start ends */
	tcp->recovering = tcp->timed_out = 1;
	tcp->recover = tcp->nxt;
	for (uint32_t seq = tcp->una; seq < tcp->nxt; seq++)
		lose(tcp, seq);
	tcp->hole = tcp->una;
	tcp->again_head = tcp->again_tail;
}

static int64_t next_lost(struct sim_tcp_sender *tcp)
{
	if (!tcp->lost_count)
		return -1;
	if (tcp->hole < tcp->una)
		tcp->hole = tcp->una;
	while (!tcp->sent[tcp->hole].lost)
		tcp->hole++;
	return tcp->hole;
}

static void send_segment(struct sim_tcp_sender *tcp, uint32_t seq, struct sim_tcp_segment *segment,
			 uint64_t now)
{
	*segment = (struct sim_tcp_segment){
	    .kind = SIM_TCP_DATA,
	    .seq = seq,
	    .len = seq + 1 == tcp->total ? tcp->last_len : SIM_TCP_MSS,
	    .stamp = now,
	};
	tcp->sent[seq].at = now;
	tcp->pipe++;
	if (tcp->pipe > tcp->pipe_max)
		tcp->pipe_max = tcp->pipe;
	tcp->stats.segments++;
	if (tcp->timer == NEVER || seq == tcp->una)
		tcp->timer = now + tcp->rto;
}

int sim_tcp_sender_output(struct sim_tcp_sender *tcp, struct sim_tcp_segment *segment, uint64_t now)
{
	int64_t seq;

	if (tcp->state == SIM_TCP_SENT_SYN && tcp->syn_due) {
		*segment = (struct sim_tcp_segment){.kind = SIM_TCP_SYN, .stamp = now};
		tcp->syn_due = 0;
		tcp->timer = now + tcp->rto;
		return 1;
	}
	if (tcp->timer <= now)
		time_out(tcp);
	if (tcp->state == SIM_TCP_SENT_SYN && tcp->syn_due)
		return sim_tcp_sender_output(tcp, segment, now);
	if (tcp->state != SIM_TCP_OPEN)
		return 0;
	seq = next_lost(tcp);
	if (seq < 0 && (tcp->nxt == tcp->total || tcp->nxt - tcp->una >= tcp->window))
		return 0;
	if (tcp->pipe + 1 > tcp->cwnd) {
		tcp->limited = 1;
		return 0;
	}
	if (seq >= 0) {
		tcp->sent[seq].lost = 0;
		tcp->sent[seq].again = 1;
		tcp->lost_count--;
		tcp->again[tcp->again_tail++ & tcp->again_mask] = (uint32_t)seq;
		tcp->stats.retransmissions++;
	} else {
		seq = tcp->nxt++;
	}
	send_segment(tcp, (uint32_t)seq, segment, now);
	if (tcp->pipe + 1 > tcp->cwnd)
		tcp->limited = 1;
	return 1;
}

uint64_t sim_tcp_sender_deadline(const struct sim_tcp_sender *tcp)
{
	return tcp->state == SIM_TCP_DONE || tcp->state == SIM_TCP_FAILED ? NEVER : tcp->timer;
}

/* -- the receiver -- */

int sim_tcp_receiver_init(struct sim_tcp_receiver *tcp, const struct sim_tcp_config *config)
{
	memset(tcp, 0, sizeof(*tcp));
	tcp->window = (uint32_t)(config->window / SIM_TCP_MSS);
	tcp->ack_at = NEVER;
	tcp->range_room = 64;
	tcp->ranges = calloc(tcp->range_room, sizeof(*tcp->ranges));
	return tcp->ranges ? 0 : -ENOMEM;
}

void sim_tcp_receiver_free(struct sim_tcp_receiver *tcp)
{
	free(tcp->ranges);
	tcp->ranges = NULL;
}

/* Where the first range is that ends at `seq` or later. */
static uint32_t range_at(const struct sim_tcp_receiver *tcp, uint32_t seq)
{
	uint32_t low = 0, high = tcp->range_count;

	while (low < high) {
		uint32_t middle = (low + high) / 2;

		if (tcp->ranges[middle].end < seq)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static int has(const struct sim_tcp_receiver *tcp, uint32_t seq)
{
	uint32_t at = range_at(tcp, seq + 1);

	return seq < tcp->next || (at < tcp->range_count && tcp->ranges[at].first <= seq);
}

static void drop_range(struct sim_tcp_receiver *tcp, uint32_t at)
{
	tcp->range_count--;
	memmove(&tcp->ranges[at], &tcp->ranges[at + 1],
		(tcp->range_count - at) * sizeof(*tcp->ranges));
}

static int insert_range(struct sim_tcp_receiver *tcp, uint32_t at, uint32_t seq)
{
	if (tcp->range_count == tcp->range_room) {
		size_t size = 2 * tcp->range_room * sizeof(*tcp->ranges);
		struct sim_tcp_range *grown = realloc(tcp->ranges, size);

		if (!grown)
			return -ENOMEM;
		tcp->ranges = grown;
		tcp->range_room *= 2;
	}
	memmove(&tcp->ranges[at + 1], &tcp->ranges[at],
		(tcp->range_count - at) * sizeof(*tcp->ranges));
	tcp->ranges[at] = (struct sim_tcp_range){seq, seq + 1};
	tcp->range_count++;
	return 0;
}

static int keep(struct sim_tcp_receiver *tcp, uint32_t seq)
{
	uint32_t at = range_at(tcp, seq);

	if (at < tcp->range_count && tcp->ranges[at].end == seq) {
		tcp->ranges[at].end++;
		if (at + 1 < tcp->range_count && tcp->ranges[at + 1].first == seq + 1) {
			tcp->ranges[at].end = tcp->ranges[at + 1].end;
			drop_range(tcp, at + 1);
		}
		return 0;
	}
	if (at < tcp->range_count && tcp->ranges[at].first == seq + 1) {
		tcp->ranges[at].first--;
		return 0;
	}
	return insert_range(tcp, at, seq);
}

static void note_recent(struct sim_tcp_receiver *tcp, uint32_t seq)
{
	memmove(&tcp->recent[1], &tcp->recent[0], (SIM_TCP_BLOCKS - 1) * sizeof(tcp->recent[0]));
	tcp->recent[0] = seq;
	if (tcp->recent_count < SIM_TCP_BLOCKS)
		tcp->recent_count++;
}

static void advance(struct sim_tcp_receiver *tcp)
{
	tcp->next++;
	if (tcp->range_count && tcp->ranges[0].first == tcp->next) {
		tcp->next = tcp->ranges[0].end;
		drop_range(tcp, 0);
		tcp->ack_due = 1;
	}
}

int sim_tcp_receiver_input(struct sim_tcp_receiver *tcp, const struct sim_tcp_segment *segment,
			   uint64_t now)
{
	int err = 0;

	if (segment->kind == SIM_TCP_SYN) {
		tcp->syn_ack_due = 1;
		tcp->echo = segment->stamp;
		return 0;
	}
	if (segment->kind != SIM_TCP_DATA)
		return 0;
	if (!tcp->unacknowledged)
		tcp->echo = segment->stamp;
	if (has(tcp, segment->seq)) {
		tcp->ack_due = 1;
		return 0;
	}
	tcp->delivered += segment->len;
	tcp->unacknowledged++;
	if (segment->seq == tcp->next) {
		tcp->ack_due |= tcp->range_count != 0 || tcp->unacknowledged >= 2;
		advance(tcp);
	} else {
		err = keep(tcp, segment->seq);
		note_recent(tcp, segment->seq);
		tcp->ack_due = 1;
		/* RFC 7323 would echo an older stamp, and the sender's timer would be longer. */
		tcp->echo = segment->stamp;
	}
	if (!tcp->ack_due && tcp->ack_at == NEVER)
		tcp->ack_at = now + DELAYED_ACK;
	return err;
}

/* The ranges of those that came last, each once. */
static void tell_blocks(const struct sim_tcp_receiver *tcp, struct sim_tcp_segment *segment)
{
	for (uint32_t i = 0; i < tcp->recent_count; i++) {
		uint32_t at = range_at(tcp, tcp->recent[i] + 1);
		uint32_t known = 0;

		if (tcp->recent[i] < tcp->next || at >= tcp->range_count)
			continue;
		while (known < segment->block_count &&
		       segment->blocks[known][0] != tcp->ranges[at].first)
			known++;
		if (known < segment->block_count)
			continue;
		segment->blocks[known][0] = tcp->ranges[at].first;
		segment->blocks[known][1] = tcp->ranges[at].end;
		segment->block_count++;
	}
}

int sim_tcp_receiver_output(struct sim_tcp_receiver *tcp, struct sim_tcp_segment *segment,
			    uint64_t now)
{
	if (tcp->syn_ack_due) {
		tcp->syn_ack_due = 0;
		*segment = (struct sim_tcp_segment){
		    .kind = SIM_TCP_SYN_ACK, .window = tcp->window, .echo = tcp->echo};
		return 1;
	}
	if (!tcp->ack_due && now < tcp->ack_at)
		return 0;
	*segment = (struct sim_tcp_segment){
	    .kind = SIM_TCP_ACK, .ack = tcp->next, .window = tcp->window, .echo = tcp->echo};
	tell_blocks(tcp, segment);
	tcp->ack_due = 0;
	tcp->ack_at = NEVER;
	tcp->unacknowledged = 0;
	return 1;
}

uint64_t sim_tcp_receiver_deadline(const struct sim_tcp_receiver *tcp)
{
	return tcp->ack_at;
}
