// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <string.h>

#include "sched.h"

#define P0 0
#define P1 1
#define P2 2
#define P3 3
#define PERMILLE 1000
#define SECOND 1000000000ULL
#define QUANTUM_LEAST 1024
#define QUEUE_FIRST 16

struct entry {
	uint64_t deadline;
	uint64_t order; /* of arrival: among equal deadlines the first is first */
	uint64_t handle;
	uint32_t len;
};

struct queue {
	struct entry *heap;
	uint32_t count;
	uint32_t room;
	uint64_t bytes;
};

/* What a class may send: `bytes` and `part` / length bytes more at time `refilled`. */
struct bucket {
	uint64_t refilled;
	uint64_t bytes;
	uint64_t part;
	uint64_t budget; /* bytes per slot, and the most that is ever saved up */
};

struct numi_sched {
	uint64_t at;   /* up to which departures are decided */
	uint64_t part; /* of a ns beyond it, over the line's rate */
	uint64_t open; /* the slot's first departure: its start and the phase */
	uint64_t end;
	uint64_t start;
	uint64_t length;
	uint64_t floor_ns; /* after which all of P2's floor is due */
	uint64_t slot;

	struct queue queues[NUMI_CLASSES];
	struct bucket buckets[NUMI_CLASSES];
	uint64_t slot_bytes[NUMI_CLASSES];
	int64_t deficits[NUMI_CLASSES];
	uint32_t turn; /* of the round robin: P1 or P2 */
	int topped_up; /* it has had its quantum in this visit */
	uint32_t last; /* class that was served last */
	uint32_t run;  /* how often in a row */
	uint64_t order;

	uint64_t marked;
	uint64_t total;
	uint64_t scale;
	uint64_t calm;
	uint64_t uncertainty;
	uint64_t credits[NUMI_CLASSES]; /* nominal; caps change them */

	struct numi_sched_config config;
	struct numi_sched_class_stats counts[NUMI_CLASSES];
	uint64_t clamps_p0;
	uint64_t clamps_p1;
	uint64_t floor_hits;
};

static inline uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t most_of(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static inline uint64_t clamped(uint64_t value, uint64_t low, uint64_t high)
{
	return value < low ? low : least(value, high);
}

/* Queues: binary heaps. */

static inline int before(const struct entry *a, const struct entry *b)
{
	return a->deadline != b->deadline ? a->deadline < b->deadline : a->order < b->order;
}

static int queue_grow(struct queue *queue, uint32_t limit)
{
	uint64_t room = least(queue->room ? 2ULL * queue->room : QUEUE_FIRST, limit);
	struct entry *heap = realloc(queue->heap, room * sizeof(*heap));

	if (!heap)
		return -1;
	queue->heap = heap;
	queue->room = room;
	return 0;
}

static void queue_put(struct queue *queue, const struct entry *entry)
{
	uint32_t at = queue->count++;

	while (at && before(entry, &queue->heap[(at - 1) / 2])) {
		queue->heap[at] = queue->heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	queue->heap[at] = *entry;
	queue->bytes += entry->len;
}

static struct entry queue_take(struct queue *queue)
{
	struct entry first = queue->heap[0];
	struct entry last = queue->heap[--queue->count];
	uint32_t at = 0;

	for (;;) {
		uint32_t child = 2 * at + 1;

		if (child >= queue->count)
			break;
		if (child + 1 < queue->count &&
		    before(&queue->heap[child + 1], &queue->heap[child]))
			child++;
		if (!before(&queue->heap[child], &last))
			break;
		queue->heap[at] = queue->heap[child];
		at = child;
	}
	/* Of an empty heap this is the place that has just become free. */
	queue->heap[at] = last;
	queue->bytes -= first.len;
	return first;
}

/* Credit. */

static void refill(const struct numi_sched *sched, struct bucket *bucket, uint64_t t)
{
	uint64_t gained;

	if (t <= bucket->refilled)
		return;
	if (t - bucket->refilled >= sched->length) {
		bucket->bytes = bucket->budget;
		bucket->part = 0;
	} else {
		/* Below 2^30 * 2^33 + 2^33. */
		gained = bucket->budget * (t - bucket->refilled) + bucket->part;
		bucket->bytes += gained / sched->length;
		bucket->part = gained % sched->length;
	}
	if (bucket->bytes >= bucket->budget) {
		bucket->bytes = bucket->budget;
		bucket->part = 0;
	}
	bucket->refilled = t;
}

/* When the bucket covers `len` bytes, which its budget does in any case. */
static uint64_t covered_at(const struct numi_sched *sched, const struct bucket *bucket,
			   uint64_t len)
{
	uint64_t missing;

	if (bucket->bytes >= len)
		return bucket->refilled;
	missing = (len - bucket->bytes) * sched->length - bucket->part;
	return bucket->refilled + (missing + bucket->budget - 1) / bucket->budget;
}

static int is_ready(const struct numi_sched *sched, uint32_t cls, uint64_t t)
{
	const struct queue *queue = &sched->queues[cls];

	return queue->count && covered_at(sched, &sched->buckets[cls], queue->heap[0].len) <= t;
}

static int is_idle_above_p3(const struct numi_sched *sched)
{
	return !sched->queues[P0].count && !sched->queues[P1].count && !sched->queues[P2].count;
}

/* Turns. */

static int is_behind_floor(const struct numi_sched *sched, uint64_t t)
{
	uint64_t elapsed = t > sched->start ? least(t - sched->start, sched->floor_ns) : 0;

	return sched->slot_bytes[P2] < sched->config.classes[P2].floor * elapsed / sched->floor_ns;
}

/* Whose turn it is in the round robin: of P1 and P2 at least one is ready. */
static uint32_t round_robin(struct numi_sched *sched, const int ready[NUMI_CLASSES])
{
	const int64_t quanta[] = {
	    [P1] = sched->config.quantum_p1,
	    [P2] = sched->config.quantum_p2,
	};

	for (;;) {
		uint32_t cls = sched->turn;
		int64_t *deficit = &sched->deficits[cls];

		if (ready[cls]) {
			if (!sched->topped_up)
				*deficit += quanta[cls];
			sched->topped_up = 1;
			if (*deficit >= sched->queues[cls].heap[0].len)
				return cls;
		} else if (*deficit > 0) {
			*deficit = 0;
		}
		sched->turn = cls == P1 ? P2 : P1;
		sched->topped_up = 0;
	}
}

static uint32_t shared_turn(struct numi_sched *sched, const int ready[NUMI_CLASSES], uint64_t t)
{
	uint32_t cls;

	if (ready[P2] && is_behind_floor(sched, t)) {
		sched->floor_hits += ready[P1];
		return P2;
	}
	cls = round_robin(sched, ready);
	if (cls == P1 && ready[P2] && sched->last == P1 && sched->run >= sched->config.burst_p1) {
		sched->clamps_p1++;
		return P2;
	}
	return cls;
}

/* The class whose turn it is at time `t`, or NUMI_CLASSES: none is ready. */
static uint32_t choose(struct numi_sched *sched, uint64_t t)
{
	int ready[NUMI_CLASSES];

	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++)
		ready[cls] = is_ready(sched, cls, t);
	if (ready[P0]) {
		if (sched->last != P0 || sched->run < sched->config.burst_p0 ||
		    !(ready[P1] || ready[P2]))
			return P0;
		sched->clamps_p0++;
	}
	if (ready[P1] || ready[P2])
		return shared_turn(sched, ready, t);
	return ready[P3] && is_idle_above_p3(sched) ? P3 : NUMI_CLASSES;
}

/* When something happens next, if nothing does now: a class becomes ready, or a packet is late. */
static uint64_t soonest(const struct numi_sched *sched)
{
	uint64_t t = UINT64_MAX;

	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++) {
		const struct queue *queue = &sched->queues[cls];

		if (!queue->count)
			continue;
		t = least(t, queue->heap[0].deadline + 1);
		if (cls != P3 || is_idle_above_p3(sched))
			t = least(t, covered_at(sched, &sched->buckets[cls], queue->heap[0].len));
	}
	return t;
}

/* Departures. */

static void move_to(struct numi_sched *sched, uint64_t t)
{
	if (t <= sched->at)
		return;
	sched->at = t;
	sched->part = 0;
}

static void leave(struct numi_sched *sched, uint32_t cls, struct numi_departure *out)
{
	struct entry entry = queue_take(&sched->queues[cls]);
	struct bucket *bucket = &sched->buckets[cls];

	*out = (struct numi_departure){
	    .handle = entry.handle,
	    .time = sched->at,
	    .len = entry.len,
	    .cls = cls,
	};
	refill(sched, bucket, sched->at);
	bucket->bytes -= entry.len;
	if (cls == P1 || cls == P2)
		sched->deficits[cls] -= entry.len;
	/* Turns that P2 had out of its turn are owed, but not forever. */
	if (cls == P2 && sched->deficits[P2] < -(int64_t)sched->config.quantum_p2)
		sched->deficits[P2] = -(int64_t)sched->config.quantum_p2;
	sched->run = sched->last == cls ? sched->run + (sched->run != UINT32_MAX) : 1;
	sched->last = cls;
	sched->slot_bytes[cls] += entry.len;
	sched->counts[cls].sent_packets++;
	sched->counts[cls].sent_bytes += entry.len;
	if (sched->config.line) {
		/* Below 2^16 * 2^30 + 2^63. */
		uint64_t time = entry.len * SECOND + sched->part;

		sched->at += time / sched->config.line;
		sched->part = time % sched->config.line;
	}
}

static int give_back_late(struct numi_sched *sched, struct numi_departure *out)
{
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++) {
		struct queue *queue = &sched->queues[cls];
		struct entry entry;

		if (!queue->count || queue->heap[0].deadline >= sched->at)
			continue;
		entry = queue_take(queue);
		*out = (struct numi_departure){
		    .handle = entry.handle,
		    .time = sched->at,
		    .len = entry.len,
		    .cls = cls,
		    .late = 1,
		};
		sched->counts[cls].late++;
		return 1;
	}
	return 0;
}

uint32_t numi_sched_run(numi_sched *sched, uint64_t now, uint64_t until, struct numi_departure *out,
			uint32_t most)
{
	uint64_t t = most_of(most_of(now, sched->at), sched->open);
	uint32_t count = 0;

	until = least(until, sched->end - 1);
	while (count < most && t <= until) {
		uint32_t cls;

		move_to(sched, t);
		if (give_back_late(sched, &out[count])) {
			count++;
			continue;
		}
		cls = choose(sched, t);
		if (cls == NUMI_CLASSES) {
			t = soonest(sched);
			continue;
		}
		leave(sched, cls, &out[count++]);
		t = sched->at;
	}
	return count;
}

uint64_t numi_sched_next(const numi_sched *sched, uint64_t now)
{
	uint64_t t = soonest(sched);

	if (t == UINT64_MAX)
		return t;
	t = most_of(most_of(t, now), most_of(sched->at, sched->open));
	return t < sched->end ? t : UINT64_MAX;
}

/* What is offered. */

static uint8_t judge(struct numi_sched *sched, uint64_t now, const struct numi_offer *offer,
		     struct entry *entry)
{
	const struct numi_sched_class *class;
	struct queue *queue;
	uint64_t end, margin;

	if (offer->cls >= NUMI_CLASSES || !offer->len || offer->len > NUMI_SCHED_PACKET_MAX)
		return NUMI_SCHED_INVALID;
	class = &sched->config.classes[offer->cls];
	queue = &sched->queues[offer->cls];
	if (offer->slot < sched->slot)
		return NUMI_SCHED_LATE;
	if (offer->slot - sched->slot > NUMI_SCHED_AHEAD)
		return NUMI_SCHED_EARLY;
	end = sched->end + (offer->slot - sched->slot) * sched->length;
	margin = class->margin + sched->uncertainty;
	if (margin > end || end - margin < now)
		return NUMI_SCHED_LATE;
	if (queue->count >= class->queue_packets || queue->bytes + offer->len > class->queue_bytes)
		return NUMI_SCHED_FULL;
	if (queue->count == queue->room && queue_grow(queue, class->queue_packets))
		return NUMI_SCHED_MEMORY;
	*entry = (struct entry){
	    .deadline = end - margin,
	    .order = sched->order++,
	    .handle = offer->handle,
	    .len = offer->len,
	};
	return NUMI_SCHED_TAKEN;
}

uint32_t numi_sched_push(numi_sched *sched, uint64_t now, struct numi_offer *offers, uint32_t count)
{
	uint32_t taken = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct numi_offer *offer = &offers[i];
		struct entry entry;

		offer->verdict = judge(sched, now, offer, &entry);
		if (offer->verdict == NUMI_SCHED_TAKEN) {
			queue_put(&sched->queues[offer->cls], &entry);
			taken++;
		} else if (offer->verdict == NUMI_SCHED_LATE) {
			sched->counts[offer->cls].late++;
		} else if (offer->verdict == NUMI_SCHED_FULL ||
			   offer->verdict == NUMI_SCHED_MEMORY) {
			sched->counts[offer->cls].refused++;
		}
	}
	return taken;
}

/* Slots. */

static int is_slot(uint64_t start, uint64_t length)
{
	return start < NUMI_SCHED_TIME_MAX && length >= NUMI_SCHED_SLOT_LEAST &&
	       length <= NUMI_SCHED_SLOT_MOST;
}

static void enter(struct numi_sched *sched, uint64_t slot, uint64_t start, uint64_t length)
{
	unsigned __int128 phase = (unsigned __int128)sched->config.phase;

	sched->slot = slot;
	sched->start = start;
	sched->length = length;
	sched->end = start + length;
	sched->open = start + (uint64_t)(phase * (length / sched->config.bursts) >> 64);
	sched->floor_ns = length - length / 8;
	memset(sched->slot_bytes, 0, sizeof(sched->slot_bytes));
}

/* The scale of the next slot by the marks of this one. */
static uint64_t rescaled(struct numi_sched *sched)
{
	const struct numi_sched_config *config = &sched->config;
	unsigned __int128 marks = (unsigned __int128)sched->marked * PERMILLE;
	unsigned __int128 total = sched->total;

	sched->marked = sched->total = 0;
	if (!total || marks >= config->calm_permille * total)
		sched->calm = 0;
	else
		sched->calm++;
	if (!total)
		return PERMILLE;
	if (marks >= config->high_permille * total)
		return config->high_scale;
	if (marks >= config->raised_permille * total)
		return config->raised_scale;
	return sched->calm >= config->calm_slots ? config->calm_scale : PERMILLE;
}

/* Moves a class's budget towards the scaled credit, by no more than `slots` steps. */
static void rebudget(struct numi_sched *sched, uint32_t cls, uint64_t slots)
{
	const struct numi_sched_class *class = &sched->config.classes[cls];
	uint64_t credit = sched->credits[cls];
	uint64_t target = clamped(credit * sched->scale / PERMILLE, class->floor, class->ceiling);
	uint64_t step = (credit * sched->config.step_permille + PERMILLE - 1) / PERMILLE;
	uint64_t most = step * least(slots, PERMILLE);
	uint64_t *budget = &sched->buckets[cls].budget;

	*budget = target < *budget ? *budget - least(*budget - target, most)
				   : *budget + least(target - *budget, most);
}

int numi_sched_slot(numi_sched *sched, uint64_t slot, uint64_t start, uint64_t length)
{
	uint64_t passed = slot - sched->slot;

	if (slot <= sched->slot || start <= sched->start || !is_slot(start, length))
		return -1;
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++)
		refill(sched, &sched->buckets[cls], most_of(start, sched->at));
	sched->scale = rescaled(sched);
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++)
		rebudget(sched, cls, 1);
	if (passed > 1) {
		/* Of the slots between nothing is known. */
		sched->scale = rescaled(sched);
		for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++)
			rebudget(sched, cls, passed - 1);
	}
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++) {
		struct bucket *bucket = &sched->buckets[cls];

		bucket->bytes = least(bucket->bytes, bucket->budget);
		bucket->part = 0;
	}
	enter(sched, slot, start, length);
	return 0;
}

int numi_sched_mark(numi_sched *sched, uint32_t marked, uint32_t total)
{
	if (marked > total)
		return -1;
	sched->marked += marked;
	sched->total += total;
	return 0;
}

int numi_sched_cap(numi_sched *sched, uint32_t cls, uint64_t credit)
{
	if (cls >= NUMI_CLASSES)
		return -1;
	sched->credits[cls] =
	    clamped(credit, sched->config.classes[cls].floor, sched->config.classes[cls].ceiling);
	return 0;
}

void numi_sched_widen(numi_sched *sched, uint64_t uncertainty)
{
	sched->uncertainty = least(uncertainty, NUMI_SCHED_SLOT_MOST);
}

void numi_sched_stats(const numi_sched *sched, struct numi_sched_stats *stats)
{
	*stats = (struct numi_sched_stats){
	    .slot = sched->slot,
	    .slot_start = sched->start,
	    .slot_end = sched->end,
	    .time = sched->at,
	    .phase = sched->open - sched->start,
	    .scale = sched->scale,
	    .calm = sched->calm,
	    .clamps_p0 = sched->clamps_p0,
	    .clamps_p1 = sched->clamps_p1,
	    .floor_hits = sched->floor_hits,
	};
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++) {
		struct numi_sched_class_stats *one = &stats->classes[cls];
		struct bucket bucket = sched->buckets[cls];

		refill(sched, &bucket, sched->at);
		*one = sched->counts[cls];
		one->queued_packets = sched->queues[cls].count;
		one->queued_bytes = sched->queues[cls].bytes;
		one->credit = bucket.bytes;
		one->budget = bucket.budget;
		one->slot_bytes = sched->slot_bytes[cls];
	}
}

/* Life. */

static int is_class(const struct numi_sched_class *class)
{
	return class->floor >= NUMI_SCHED_PACKET_MAX && class->floor <= class->credit &&
	       class->credit <= class->ceiling && class->ceiling <= NUMI_SCHED_CREDIT_MAX &&
	       class->queue_packets && class->margin <= NUMI_SCHED_SLOT_MOST;
}

static int is_config(const struct numi_sched_config *config)
{
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++)
		if (!is_class(&config->classes[cls]))
			return 0;
	return config->burst_p0 && config->burst_p1 && config->bursts &&
	       config->quantum_p1 >= QUANTUM_LEAST && config->quantum_p1 <= NUMI_SCHED_CREDIT_MAX &&
	       config->quantum_p2 >= QUANTUM_LEAST && config->quantum_p2 <= NUMI_SCHED_CREDIT_MAX &&
	       config->high_scale <= PERMILLE && config->raised_scale <= PERMILLE &&
	       config->calm_scale <= PERMILLE && config->high_permille <= PERMILLE &&
	       config->raised_permille <= PERMILLE && config->calm_permille <= PERMILLE &&
	       config->step_permille && config->step_permille <= PERMILLE &&
	       config->line <= NUMI_SCHED_TIME_MAX;
}

numi_sched *numi_sched_new(const struct numi_sched_config *config, uint64_t slot, uint64_t start,
			   uint64_t length)
{
	struct numi_sched *sched;

	if (!is_config(config) || !is_slot(start, length))
		return NULL;
	sched = calloc(1, sizeof(*sched));
	if (!sched)
		return NULL;
	sched->config = *config;
	sched->turn = P1;
	sched->last = NUMI_CLASSES;
	sched->scale = PERMILLE;
	sched->at = start;
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++) {
		sched->credits[cls] = config->classes[cls].credit;
		sched->buckets[cls] = (struct bucket){
		    .refilled = start,
		    .bytes = config->classes[cls].credit,
		    .budget = config->classes[cls].credit,
		};
	}
	enter(sched, slot, start, length);
	return sched;
}

void numi_sched_free(numi_sched *sched)
{
	if (!sched)
		return;
	for (uint32_t cls = 0; cls < NUMI_CLASSES; cls++)
		free(sched->queues[cls].heap);
	free(sched);
}
