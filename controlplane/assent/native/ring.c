// SPDX-License-Identifier: Apache-2.0
#include "ring.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define QUANTUM 32       /* frames that a flow sends in its turn */
#define PUMP_BUDGET 256  /* frames that are sent before what arrived is looked at */
#define BUCKETS_LEAST 64 /* of the table of flows */

#define COALESCE_WAIT (50 * AN_MICROSECOND) /* that an open frame waits for more */
#define COALESCE_BYTES 65536                /* open or not: so much is sent at once */
#define WRITE_BYTES (1 << 20)               /* that one call takes */
#define RETRY_WAIT (100 * AN_MICROSECOND)   /* until the kernel is asked again to send */
#define STALL_WAIT AN_MILLISECOND           /* of a flow that is due and has nothing to send */
#define STAND_BACK (2 * AN_MILLISECOND)     /* of the driver thread, after a waiter left */
#define STAND_BACK_ROUNDS 5                 /* of those, before it waits to be called */
#define SWEEP_INTERVAL (100 * AN_MILLISECOND)
#define SWEEP_BUCKETS 512 /* that are looked through in one go */
#define YIELDS 64         /* of one who drives, to those who want the lock */
#define SPIN_FAILURES 10  /* in a row: then it is tried once in 1,024 times */
#define FOR_EVER UINT64_MAX
#define CATCH_UP_TURNS 1024 /* bursts: more than a port's ring holds */

static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * AN_SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t monotonic(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t until_ms(int milliseconds)
{
	return milliseconds < 0 ? FOR_EVER : monotonic() + (uint64_t)milliseconds * AN_MILLISECOND;
}

static void lock(struct an_ring *ring)
{
	if (!pthread_mutex_trylock(&ring->lock))
		return;
	__atomic_add_fetch(&ring->wanted, 1, __ATOMIC_RELAXED);
	pthread_mutex_lock(&ring->lock);
	__atomic_sub_fetch(&ring->wanted, 1, __ATOMIC_RELAXED);
}

static void unlock(struct an_ring *ring)
{
	pthread_mutex_unlock(&ring->lock);
}

/* Whoever drives turn after turn lets those in who want the lock: the mutex itself would not. */
static void let_in(struct an_ring *ring)
{
	if (!__atomic_load_n(&ring->wanted, __ATOMIC_RELAXED))
		return;
	unlock(ring);
	for (int i = 0; i < YIELDS && __atomic_load_n(&ring->wanted, __ATOMIC_RELAXED); i++)
		sched_yield();
	lock(ring);
}

static void signal_fd(int fd)
{
	const uint64_t one = 1;

	/* It fails when the count is full: then it is readable. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

static void reset_fd(int fd)
{
	uint64_t count;

	if (read(fd, &count, sizeof(count)) < 0)
		return;
}

static void wait_on(struct an_ring *ring, pthread_cond_t *condition, uint64_t until)
{
	const struct timespec at = {.tv_sec = (time_t)(until / AN_SECOND),
				    .tv_nsec = (long)(until % AN_SECOND)};

	if (until == FOR_EVER)
		pthread_cond_wait(condition, &ring->lock);
	else
		pthread_cond_timedwait(condition, &ring->lock, &at);
}

/* -- the table of flows -- */

static uint32_t hash_of(const uint8_t *remote, const uint8_t *local, uint16_t flow)
{
	uint64_t a, b;

	/* CellIDs are digests: any eight bytes are as good as random. */
	memcpy(&a, remote, sizeof(a));
	memcpy(&b, local + 8, sizeof(b));
	return (uint32_t)(((a ^ (b << 1) ^ flow) * 0x9e3779b97f4a7c15ULL) >> 32);
}

static int is_of(const struct ring_flow *f, const uint8_t *remote, const uint8_t *local,
		 uint16_t flow)
{
	const struct assent_header *h = &f->flow.header;

	return h->flow == flow && !memcmp(h->pair.dst.bytes, remote, ASSENT_CELLID_LEN) &&
	       !memcmp(h->pair.src.bytes, local, ASSENT_CELLID_LEN);
}

static struct ring_flow *find(struct an_ring *ring, const uint8_t *remote, const uint8_t *local,
			      uint16_t flow)
{
	uint32_t bucket = hash_of(remote, local, flow) & (ring->bucket_count - 1);
	struct ring_flow *f;

	LIST_FOREACH(f, &ring->buckets[bucket], chain)
	{
		if (is_of(f, remote, local, flow))
			return f;
	}
	return NULL;
}

static void chain(struct an_ring *ring, struct ring_flow *f)
{
	const struct assent_header *h = &f->flow.header;
	uint32_t hash = hash_of(h->pair.dst.bytes, h->pair.src.bytes, h->flow);

	LIST_INSERT_HEAD(&ring->buckets[hash & (ring->bucket_count - 1)], f, chain);
}

/* Where memory is short the chains grow longer instead. */
static void grow_table(struct an_ring *ring)
{
	struct ring_chain *old = ring->buckets;
	uint32_t count = ring->bucket_count;
	struct ring_chain *grown = calloc((size_t)count * 2, sizeof(*grown));

	if (!grown)
		return;
	ring->buckets = grown;
	ring->bucket_count = count * 2;
	for (uint32_t i = 0; i < count; i++) {
		struct ring_flow *f;

		while ((f = LIST_FIRST(&old[i]))) {
			LIST_REMOVE(f, chain);
			chain(ring, f);
		}
	}
	free(old);
}

/* -- what is due -- */

static void heap_put(struct an_ring *ring, uint32_t at, struct ring_flow *f)
{
	ring->heap[at - 1] = f;
	f->heap_at = at;
}

static void heap_up(struct an_ring *ring, struct ring_flow *f)
{
	uint32_t at = f->heap_at;

	for (; at > 1 && ring->heap[at / 2 - 1]->due > f->due; at /= 2)
		heap_put(ring, at, ring->heap[at / 2 - 1]);
	heap_put(ring, at, f);
}

static void heap_down(struct an_ring *ring, struct ring_flow *f)
{
	uint32_t at = f->heap_at;

	for (;;) {
		uint32_t child = at * 2;

		if (child > ring->heap_count)
			break;
		if (child < ring->heap_count && ring->heap[child]->due < ring->heap[child - 1]->due)
			child++;
		if (ring->heap[child - 1]->due >= f->due)
			break;
		heap_put(ring, at, ring->heap[child - 1]);
		at = child;
	}
	heap_put(ring, at, f);
}

static void heap_remove(struct an_ring *ring, struct ring_flow *f)
{
	struct ring_flow *last;

	if (!f->heap_at)
		return;
	last = ring->heap[--ring->heap_count];
	if (last != f) {
		heap_put(ring, f->heap_at, last);
		heap_up(ring, last);
		heap_down(ring, last);
	}
	f->heap_at = 0;
}

/* The heap has room for every flow. A flow that is due later than it was stays where it is. */
static void be_due(struct an_ring *ring, struct ring_flow *f, uint64_t due)
{
	if (due == FOR_EVER || (f->heap_at && f->due <= due))
		return;
	f->due = due;
	if (!f->heap_at)
		heap_put(ring, ++ring->heap_count, f);
	heap_up(ring, f);
}

static void be_ready(struct an_ring *ring, struct ring_flow *f)
{
	if (f->is_ready)
		return;
	f->is_ready = 1;
	ring->ready_count++;
	TAILQ_INSERT_TAIL(&ring->ready[f->flow.class_], f, ready);
}

static void not_ready(struct an_ring *ring, struct ring_flow *f)
{
	if (!f->is_ready)
		return;
	f->is_ready = 0;
	ring->ready_count--;
	TAILQ_REMOVE(&ring->ready[f->flow.class_], f, ready);
}

static uint32_t readiness(const struct ring_flow *f)
{
	return an_flow_ready(&f->flow) | (f->failed ? AN_BROKEN : 0);
}

/* Tells whoever watches what has come true. */
static void tell(struct an_ring *ring, struct ring_flow *f)
{
	if (!f->watched || !(readiness(f) & f->watched))
		return;
	f->watched = 0;
	if (f->is_fired)
		return;
	f->is_fired = 1;
	TAILQ_INSERT_TAIL(&ring->fired, f, fired);
	signal_fd(ring->event);
}

/* After anything was done with a flow: when is it due, and who wants to know? */
static void settle(struct an_ring *ring, struct ring_flow *f, uint64_t now)
{
	uint64_t due = an_flow_deadline(&f->flow, now);

	if (due <= now)
		be_ready(ring, f);
	else
		be_due(ring, f, due);
	tell(ring, f);
	if (f->users && ring->waiters > 1)
		pthread_cond_broadcast(&ring->turns);
}

static void expire(struct an_ring *ring, uint64_t now)
{
	while (ring->heap_count && ring->heap[0]->due <= now) {
		struct ring_flow *f = ring->heap[0];

		heap_remove(ring, f);
		f->failed = an_flow_check(&f->flow, now, (char[1]){0}, 1);
		settle(ring, f, now);
	}
}

static uint64_t next_due(const struct an_ring *ring)
{
	return ring->heap_count ? ring->heap[0]->due : FOR_EVER;
}

/* -- moving frames -- */

/*
 * A flow's turn: 1 = it has more to send; -1 = the port has no room. Its readers and writers are
 * told afterwards, when the port has the frames.
 */
static int send_some(struct an_ring *ring, struct ring_flow *f, uint64_t now, uint64_t wall,
		     uint32_t *sent)
{
	struct an_port *port = ring->port;

	for (int i = 0; i < QUANTUM; i++) {
		uint8_t *buffer = port->ops->tx_buffer(port);
		uint32_t len = buffer ? an_flow_output(&f->flow, buffer, now, wall) : 0;

		if (!buffer)
			return -1;
		if (!len)
			return 0;
		port->ops->tx_push(port, buffer, len);
		++*sent;
	}
	return 1;
}

/* Sends for all that are ready, by priority, and at most about PUMP_BUDGET frames. */
static uint32_t pump(struct an_ring *ring, uint64_t now, uint64_t wall)
{
	uint32_t sent = 0, flushed = 0;
	int more = 0;

	for (int class_ = 0; class_ < AN_CLASSES; class_++) {
		struct ring_flow *f;

		while (sent < PUMP_BUDGET && (f = TAILQ_FIRST(&ring->ready[class_]))) {
			more = send_some(ring, f, now, wall, &sent);
			not_ready(ring, f);
			if (more) {
				be_ready(ring, f);
			} else {
				uint64_t due = an_flow_deadline(&f->flow, now);

				f->unsent = 0;
				be_due(ring, f, due > now ? due : now + STALL_WAIT);
			}
			tell(ring, f);
			if (more < 0)
				break;
			if (sent - flushed >= AN_BURST) {
				ring->unflushed = ring->port->ops->flush(ring->port);
				flushed = sent;
			}
		}
		if (more < 0)
			break;
	}
	if (sent != flushed || ring->unflushed || more < 0)
		ring->unflushed = ring->port->ops->flush(ring->port);
	ring->unflushed |= more < 0;
	return sent;
}

static void touch(struct ring_list *touched, struct ring_flow *f)
{
	if (f->is_touched)
		return;
	f->is_touched = 1;
	TAILQ_INSERT_TAIL(touched, f, touched);
}

/* Whose frame it is, if it is whole. */
static struct ring_flow *owner(struct an_ring *ring, const struct an_view *view)
{
	const uint8_t *remote = view->data + ASSENT_ETH_LEN;
	const uint8_t *local = remote + ASSENT_CELLID_LEN;
	uint16_t flow, payload_len;

	if (view->len < ASSENT_ETH_LEN + ASSENT_HEADER_LEN)
		return NULL;
	memcpy(&payload_len, remote + offsetof(struct assent_header, payload_len), 2);
	if (view->len !=
	    ASSENT_ETH_LEN + ASSENT_HEADER_LEN + assent_padded_len(assent_be16(payload_len)))
		return NULL;
	memcpy(&flow, remote + offsetof(struct assent_header, flow), 2);
	if (!ring->last || !is_of(ring->last, remote, local, flow))
		ring->last = find(ring, remote, local, flow);
	return ring->last;
}

/* Takes a burst in. */
static unsigned int take_in(struct an_ring *ring, struct an_port *port, uint64_t *now)
{
	struct ring_list touched = TAILQ_HEAD_INITIALIZER(touched);
	struct an_view views[AN_BURST];
	unsigned int count = port->ops->rx(port, views, AN_BURST);
	struct ring_flow *f;

	/* After the burst was taken: nothing arrived later, and a grant by rate comes no sooner
	 * than by the gate's reckoning. */
	*now = monotonic();
	for (unsigned int i = 0; i < count; i++) {
		f = owner(ring, &views[i]);
		if (!f) {
			ring->foreign++;
			continue;
		}
		/* Where it breaks the flow, the flow remembers. */
		an_flow_input(&f->flow, views[i].data, views[i].len, *now, (char[1]){0}, 1);
		touch(&touched, f);
	}
	port->ops->rx_done(port);
	while ((f = TAILQ_FIRST(&touched))) {
		TAILQ_REMOVE(&touched, f, touched);
		f->is_touched = 0;
		settle(ring, f, *now);
	}
	return count;
}

/* One turn: a burst in, what is due out. How many frames moved. */
static unsigned int turn(struct an_ring *ring, uint64_t *now)
{
	unsigned int moved = take_in(ring, ring->port, now);

	if (ring->old)
		moved += take_in(ring, ring->old, now);
	expire(ring, *now);
	if (ring->ready_count || ring->unflushed)
		moved += pump(ring, *now, clock_ns(CLOCK_TAI));
	return moved;
}

/* -- sleep -- */

static void kick(struct an_ring *ring)
{
	if (!ring->sleepers || ring->is_kicked)
		return;
	ring->is_kicked = 1;
	signal_fd(ring->wake);
}

/* When whoever sleeps must be awake again. */
static uint64_t next_work(const struct an_ring *ring, uint64_t now)
{
	uint64_t due = an_least(next_due(ring), ring->sweep_at);

	if (ring->ready_count)
		return now;
	return ring->unflushed ? an_least(due, now + RETRY_WAIT) : due;
}

/* After a call that drives nothing: is there work that a sleeper does not know of? */
static void leave(struct an_ring *ring, uint64_t now)
{
	if (ring->sleepers && next_work(ring, now) < ring->sleep_until)
		kick(ring);
	unlock(ring);
}

static void look_at_port(struct an_ring *ring)
{
	if (ring->broken || !ring->port->ops->gone(ring->port))
		return;
	ring->broken = -ENETDOWN;
	ring->broken_told = 0;
	signal_fd(ring->event);
	pthread_cond_broadcast(&ring->turns);
}

/* The lender answered, or changed something. */
static void page_changed(struct an_ring *ring, uint64_t now)
{
	reset_fd(ring->bell);
	for (uint32_t i = 0; i < ring->bucket_count; i++) {
		struct ring_flow *f;

		LIST_FOREACH(f, &ring->buckets[i], chain)
		{
			settle(ring, f, now);
		}
	}
}

/* Looks for frames for a moment: to be woken costs more, for the sender's CPU as well. */
static int spin(const struct an_ring *ring, const struct an_port *port, uint64_t now,
		uint64_t until)
{
	uint64_t end = an_least(now + ring->config.spin_us * AN_MICROSECOND, until);

	do {
		for (int i = 0; i < 16; i++) {
			if (port->ops->pending(port) ||
			    __atomic_load_n(&ring->is_kicked, __ATOMIC_RELAXED))
				return 1;
			cpu_relax();
		}
	} while (monotonic() < end);
	return 0;
}

/* Does it pay to spin? Where it did not of late, it is tried again more and more rarely. */
static int may_spin(struct an_ring *ring)
{
	if (!ring->spin_skips)
		return 1;
	ring->spin_skips--;
	return 0;
}

static void learn_of_spin(struct an_ring *ring, int paid)
{
	if (paid) {
		ring->spin_failures = 0;
		return;
	}
	ring->spin_skips = (1u << ring->spin_failures) - 1;
	if (ring->spin_failures < SPIN_FAILURES)
		ring->spin_failures++;
}

enum { AT_PORT, AT_WAKE, AT_OLD, AT_BELL, AT_COUNT };

static void wait_for_fds(struct pollfd *fds, uint64_t until, uint64_t now)
{
	uint64_t span = until > now ? until - now : 0;
	const struct timespec timeout = {.tv_sec = (time_t)(span / AN_SECOND),
					 .tv_nsec = (long)(span % AN_SECOND)};

	ppoll(fds, AT_COUNT, &timeout, NULL);
}

/* Sleeps until there are frames, work, or a call; without the lock. */
static void sleep_until(struct an_ring *ring, uint64_t until, uint64_t now)
{
	struct an_port *port = ring->port, *old = ring->old;
	struct pollfd fds[AT_COUNT] = {
	    [AT_PORT] = {.fd = port->fd, .events = POLLIN},
	    [AT_WAKE] = {.fd = ring->wake, .events = POLLIN},
	    [AT_OLD] = {.fd = old ? old->fd : -1, .events = POLLIN},
	    [AT_BELL] = {.fd = ring->bell, .events = POLLIN},
	};
	int spins, paid = 0;

	until = an_least(until, next_work(ring, now));
	if (until <= now || ring->is_kicked || ring->moving)
		return;
	ring->sleep_until = ring->sleepers ? an_least(ring->sleep_until, until) : until;
	ring->sleepers++;
	spins = may_spin(ring);
	unlock(ring);
	if (spins)
		paid = spin(ring, port, now, until);
	if (!paid)
		wait_for_fds(fds, until, spins ? monotonic() : now);
	lock(ring);
	if (spins)
		learn_of_spin(ring, paid);
	ring->sleepers--;
	if (ring->is_kicked) {
		ring->is_kicked = 0;
		reset_fd(ring->wake);
	}
	if (ring->moving)
		pthread_cond_broadcast(&ring->turns);
	if (fds[AT_PORT].revents & POLLERR)
		look_at_port(ring);
	if (fds[AT_OLD].revents & POLLERR)
		old->ops->gone(old);
	if (fds[AT_BELL].revents)
		page_changed(ring, monotonic());
}

/* -- now and then -- */

static void close_port(struct an_ring *ring, struct an_port **port)
{
	(*port)->ops->close(*port);
	*port = NULL;
}

/* Flows that nothing happens to: has their session ended? Looked at a part at a time. */
static void sweep(struct an_ring *ring, uint64_t now)
{
	if (now < ring->sweep_at)
		return;
	ring->sweep_at = now + SWEEP_INTERVAL;
	look_at_port(ring);
	if (ring->old && now >= ring->old_until && !ring->sleepers)
		close_port(ring, &ring->old);
	for (int i = 0; i < SWEEP_BUCKETS && i < (int)ring->bucket_count; i++) {
		struct ring_flow *f;

		LIST_FOREACH(f, &ring->buckets[ring->sweep_bucket], chain)
		{
			f->failed = an_flow_check(&f->flow, now, (char[1]){0}, 1);
			tell(ring, f);
		}
		ring->sweep_bucket = (ring->sweep_bucket + 1) % ring->bucket_count;
	}
}

static int say_broken(const struct an_ring *ring, char *error, size_t error_len)
{
	snprintf(error, error_len, "the interface %s is gone", ring->port->interface);
	return ring->broken;
}

/* Whether the driver thread leaves the ring to those who wait. */
static int is_stood_back(const struct an_ring *ring, uint64_t now)
{
	return ring->is_taken || now < ring->driven_at + STAND_BACK;
}

static void stand_back(struct an_ring *ring, uint64_t until, uint64_t now, int round)
{
	/* A call that was meant for the one who drives may have come here. */
	if (ring->is_taken && ring->sleepers && next_work(ring, now) < ring->sleep_until)
		kick(ring);
	ring->stands_deep = ring->is_taken && round >= STAND_BACK_ROUNDS;
	wait_on(ring, &ring->driver, ring->stands_deep ? until : an_least(until, now + STAND_BACK));
	ring->stands_deep = 0;
}

static int drive(struct an_ring *ring, uint64_t until, char *error, size_t error_len)
{
	uint64_t now = monotonic();
	int round = 0;

	while (!ring->closing && !ring->is_called && now < until) {
		if (ring->broken && !ring->broken_told) {
			ring->broken_told = 1;
			break;
		}
		if (ring->broken || ring->moving || is_stood_back(ring, now)) {
			stand_back(ring, until, now, round++);
			now = monotonic();
			continue;
		}
		round = 0;
		if (!turn(ring, &now)) {
			sweep(ring, now);
			sleep_until(ring, until, now);
			now = monotonic();
		} else {
			let_in(ring);
		}
	}
	ring->is_called = 0;
	return ring->broken ? say_broken(ring, error, error_len) : 0;
}

int an_ring_drive(an_ring *ring, int milliseconds, char *error, size_t error_len)
{
	uint64_t until = until_ms(milliseconds);
	int err;

	lock(ring);
	ring->drivers++;
	err = drive(ring, until, error, error_len);
	ring->drivers--;
	if (ring->closing)
		pthread_cond_broadcast(&ring->turns);
	unlock(ring);
	return err;
}

void an_ring_wake(an_ring *ring)
{
	lock(ring);
	ring->is_called = 1; /* now, or the next time */
	pthread_cond_broadcast(&ring->driver);
	kick(ring);
	unlock(ring);
}

void an_ring_catch_up(an_ring *ring)
{
	uint64_t now = monotonic();

	lock(ring);
	for (int turns = 0; turns < CATCH_UP_TURNS && !ring->broken && !ring->moving; turns++) {
		if (!ring->port->ops->pending(ring->port))
			break;
		turn(ring, &now);
	}
	leave(ring, now);
}

/* -- waiting -- */

/* Whoever waits for the peer to write wants to know when that is gone: until something is read, as
 * waits may be taken up again. */
static void expect(struct an_ring *ring, struct ring_flow *f, uint32_t wanted, uint64_t now)
{
	if (f->expects || !(wanted & AN_READABLE))
		return;
	f->expects = 1;
	an_flow_expect(&f->flow, 1, now);
	settle(ring, f, now);
}

static void no_longer_expect(struct ring_flow *f, uint64_t now)
{
	if (!f->expects)
		return;
	f->expects = 0;
	an_flow_expect(&f->flow, 0, now);
}

/* Why a wait is over: bits, a negative errno, or 0: it is not. */
static int outcome(struct an_ring *ring, struct ring_flow *f, uint32_t wanted, uint64_t now,
		   char *error, size_t error_len)
{
	uint32_t bits = an_flow_ready(&f->flow) & wanted & ~(uint32_t)AN_BROKEN;

	if (bits)
		return (int)bits;
	if (ring->closing || f->gone) {
		snprintf(error, error_len, "the flow was closed meanwhile");
		return -ESHUTDOWN;
	}
	if (ring->broken)
		return say_broken(ring, error, error_len);
	return an_flow_check(&f->flow, now, error, error_len);
}

/* Another waiter takes over; where there is none, the driver thread does so in a while. */
static void hand_over(struct an_ring *ring, uint64_t now)
{
	ring->is_taken = 0;
	ring->driven_at = now;
	if (ring->waiters > 1)
		pthread_cond_broadcast(&ring->turns);
	else if (ring->stands_deep)
		pthread_cond_broadcast(&ring->driver);
}

static int wait_for(struct an_ring *ring, struct ring_flow *f, uint32_t wanted, uint64_t until,
		    char *error, size_t error_len)
{
	uint64_t now = monotonic();
	int is_driving = 0;
	int result;

	result = outcome(ring, f, wanted, now, error, error_len);
	if (result || now >= until)
		return result;
	expect(ring, f, wanted, now);
	ring->waiters++;
	f->users++;
	do {
		if ((ring->is_taken && !is_driving) || ring->moving) {
			if (is_driving)
				hand_over(ring, now);
			is_driving = 0;
			wait_on(ring, &ring->turns, an_least(until, now + SWEEP_INTERVAL));
			now = monotonic();
			continue;
		}
		ring->is_taken = is_driving = 1;
		if (turn(ring, &now)) {
			let_in(ring);
			continue;
		}
		sweep(ring, now);
		sleep_until(ring, until, now);
		now = monotonic();
	} while (!(result = outcome(ring, f, wanted, now, error, error_len)) && now < until);
	if (is_driving)
		hand_over(ring, now);
	ring->waiters--;
	f->users--;
	if (ring->closing || f->gone)
		pthread_cond_broadcast(&ring->turns);
	return result;
}

int an_ring_wait(an_ring *ring, an_flow *flow, uint32_t wanted, int milliseconds, char *error,
		 size_t error_len)
{
	int result;

	lock(ring);
	result = wait_for(ring, (struct ring_flow *)flow, wanted, until_ms(milliseconds), error,
			  error_len);
	unlock(ring);
	return result;
}

uint32_t an_ring_watch(an_ring *ring, an_flow *flow, uint32_t wanted)
{
	struct ring_flow *f = (struct ring_flow *)flow;
	uint64_t now = monotonic();
	uint32_t bits;

	lock(ring);
	bits = readiness(f) & wanted;
	f->watched = bits ? 0 : (uint8_t)wanted;
	if (!bits)
		expect(ring, f, wanted, now);
	leave(ring, now);
	return bits;
}

uint32_t an_ring_fired(an_ring *ring, an_flow **flows, uint32_t max)
{
	struct ring_flow *f;
	uint32_t count = 0;

	lock(ring);
	while (count < max && (f = TAILQ_FIRST(&ring->fired))) {
		TAILQ_REMOVE(&ring->fired, f, fired);
		f->is_fired = 0;
		flows[count++] = &f->flow;
	}
	unlock(ring);
	return count;
}

int an_ring_error(an_ring *ring, an_flow *flow, char *error, size_t error_len)
{
	int err;

	lock(ring);
	err = an_flow_check(flow, monotonic(), error, error_len);
	unlock(ring);
	return err;
}

void an_ring_taken(an_ring *ring, an_flow *flow, uint32_t awaited)
{
	uint64_t now = monotonic();

	lock(ring);
	an_flow_taken(flow, awaited);
	settle(ring, (struct ring_flow *)flow, now);
	leave(ring, now);
}

/* -- reading and writing -- */

/* Sends what a call made due. */
static void push_out(struct an_ring *ring, uint64_t now)
{
	if (ring->ready_count && !ring->broken)
		pump(ring, now, clock_ns(CLOCK_TAI));
}

/* After a write: what was left open waits a little for more. */
static void after_write(struct an_ring *ring, struct ring_flow *f, int64_t bytes, uint32_t flags,
			uint64_t now)
{
	f->unsent += bytes < COALESCE_BYTES ? (uint32_t)bytes : COALESCE_BYTES;
	if (flags & AN_COALESCE && f->unsent < COALESCE_BYTES && !f->is_ready) {
		be_due(ring, f, now + COALESCE_WAIT);
		return;
	}
	be_ready(ring, f);
	push_out(ring, now);
}

static uint64_t sum_of(const struct an_span *spans, uint32_t count)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < count; i++)
		sum += spans[i].len;
	return sum;
}

/*
 * Between two bursts of a long write: what arrived is taken in, better classes and other threads
 * get their turn. Credit may come meanwhile without end, so a call takes WRITE_BYTES at the most.
 * Returns whether to go on.
 */
static int breathe(struct an_ring *ring, struct ring_flow *f, uint64_t taken, uint64_t *now)
{
	if (taken >= WRITE_BYTES || ring->broken || ring->moving)
		return 0;
	turn(ring, now);
	ring->driven_at = *now; /* the driver thread has nothing to do meanwhile */
	f->users++;
	let_in(ring);
	f->users--;
	if (!ring->closing && !f->gone)
		return !ring->broken && !ring->moving;
	pthread_cond_broadcast(&ring->turns);
	return 0;
}

/* A message, as far as there is room, a few frames at a time: they leave while they are cached. */
static int64_t write_some(struct an_ring *ring, struct ring_flow *f, const struct an_span *spans,
			  uint32_t count, uint64_t skip, uint64_t total, uint32_t flags,
			  uint64_t *now)
{
	uint64_t taken = 0;
	int64_t n;

	do {
		n = an_flow_write(&f->flow, spans, count, skip + taken, flags, *now);
		if (n < 0)
			break;
		taken += (uint64_t)n;
		after_write(ring, f, n, skip + taken < total ? 0 : flags, *now);
	} while (n && skip + taken < total && breathe(ring, f, taken, now));
	if (n < 0)
		settle(ring, f, *now);
	return taken || n >= 0 ? (int64_t)taken : n;
}

int64_t an_ring_write(an_ring *ring, an_flow *flow, const struct an_span *spans, uint32_t count,
		      uint64_t skip, uint32_t flags)
{
	uint64_t now = monotonic();
	int64_t n;

	lock(ring);
	n = write_some(ring, (struct ring_flow *)flow, spans, count, skip, sum_of(spans, count),
		       flags, &now);
	leave(ring, now);
	return n;
}

int64_t an_ring_write_many(an_ring *ring, an_flow *flow, const uint8_t *base, uint32_t size,
			   const uint32_t *lengths, uint32_t count, uint32_t flags)
{
	struct ring_flow *f = (struct ring_flow *)flow;
	uint64_t now = monotonic();
	uint64_t written = 0, breathed = 0;
	uint32_t taken = 0;
	int64_t n = 0;

	if (!count)
		return 0;
	lock(ring);
	do {
		uint64_t bytes = 0;

		n = an_flow_write_many(flow, base, size, lengths ? lengths + taken : NULL,
				       count - taken, flags, now);
		if (n <= 0)
			break;
		for (int64_t i = 0; i < n && lengths; i++)
			bytes += lengths[taken + i];
		bytes += lengths ? 0 : (uint64_t)n * size;
		base += bytes;
		taken += (uint32_t)n;
		written += bytes;
		after_write(ring, f, (int64_t)bytes, flags, now);
		now = monotonic();
		/* Not after a few messages: what is open would leave half empty. */
		if (written - breathed < COALESCE_BYTES)
			continue;
		breathed = written;
		if (!breathe(ring, f, written, &now))
			break;
	} while (taken < count);
	if (n < 0)
		settle(ring, f, now);
	leave(ring, now);
	return taken || n >= 0 ? (int64_t)taken : n;
}

int an_ring_finish(an_ring *ring, an_flow *flow)
{
	struct ring_flow *f = (struct ring_flow *)flow;
	uint64_t now = monotonic();
	int err;

	lock(ring);
	err = an_flow_finish(flow, now);
	be_ready(ring, f);
	push_out(ring, now);
	leave(ring, now);
	return err;
}

/* Reading grants; the grant may be due. */
static void after_read(struct an_ring *ring, struct ring_flow *f, uint64_t now)
{
	no_longer_expect(f, now);
	settle(ring, f, now);
	push_out(ring, now);
}

int64_t an_ring_read(an_ring *ring, an_flow *flow, uint8_t *buf, uint64_t len, int *end)
{
	uint64_t now = monotonic();
	int64_t n;

	lock(ring);
	n = an_flow_read(flow, buf, len, end, now);
	if (n != -EAGAIN)
		after_read(ring, (struct ring_flow *)flow, now);
	leave(ring, now);
	return n;
}

int64_t an_ring_read_many(an_ring *ring, an_flow *flow, uint8_t *buf, uint64_t len,
			  uint32_t *lengths, uint32_t max)
{
	uint64_t now = monotonic();
	int64_t n;

	lock(ring);
	n = an_flow_read_many(flow, buf, len, lengths, max, now);
	if (n != -EAGAIN)
		after_read(ring, (struct ring_flow *)flow, now);
	leave(ring, now);
	return n;
}

int64_t an_ring_send_all(an_ring *ring, an_flow *flow, const struct an_span *spans, uint32_t count,
			 uint64_t skip, uint32_t flags, int milliseconds, char *error,
			 size_t error_len)
{
	struct ring_flow *f = (struct ring_flow *)flow;
	uint64_t until = until_ms(milliseconds);
	uint64_t total = sum_of(spans, count);
	uint64_t now;
	int64_t n = 0;

	lock(ring);
	for (;;) {
		now = monotonic();
		n = write_some(ring, f, spans, count, skip, total, flags, &now);
		if (n < 0 && n != -EAGAIN) {
			snprintf(error, error_len, "%s", strerror((int)-n));
			break;
		}
		skip += n > 0 ? (uint64_t)n : 0;
		if (n >= 0 && skip >= total)
			break;
		n = wait_for(ring, f, AN_WRITABLE, until, error, error_len);
		if (n <= 0)
			break;
	}
	leave(ring, now);
	return n < 0 ? n : (int64_t)skip;
}

int64_t an_ring_recv_all(an_ring *ring, an_flow *flow, uint8_t *buf, uint64_t len, uint64_t have,
			 int *end, int milliseconds, char *error, size_t error_len)
{
	struct ring_flow *f = (struct ring_flow *)flow;
	uint64_t until = until_ms(milliseconds);
	uint64_t now;
	int64_t n;

	*end = 0;
	lock(ring);
	for (;;) {
		now = monotonic();
		n = an_flow_read(flow, buf + have, len - have, end, now);
		if (n != -EAGAIN)
			after_read(ring, f, now);
		if (n < 0 && n != -EAGAIN) {
			snprintf(error, error_len, "%s", strerror((int)-n));
			break;
		}
		have += n > 0 ? (uint64_t)n : 0;
		if (*end || have == len)
			break;
		if (n >= 0)
			continue;
		n = wait_for(ring, f, AN_READABLE, until, error, error_len);
		if (n <= 0)
			break;
	}
	leave(ring, now);
	return n < 0 ? n : (int64_t)have;
}

void an_ring_stats(an_ring *ring, an_flow *flow, struct an_stats *stats)
{
	lock(ring);
	an_flow_stats(flow, stats);
	unlock(ring);
}

uint32_t an_ring_message_max(an_ring *ring, an_flow *flow)
{
	return an_flow_message_max(flow);
}

/* -- life -- */

/* What the gate does with frames for this kind of port. */
static uint32_t open_of(const struct an_port *port)
{
	uint32_t kind = port->backend == AN_BACKEND_AF_XDP ? ASSENT_TO_RING : ASSENT_TO_STACK;

	return assent_open_at(kind, port->ifindex);
}

static struct an_port *open_port(const struct an_ring_config *config, char *reason,
				 size_t reason_len, char *error, size_t error_len)
{
	struct an_port *port = NULL;

	reason[0] = 0;
	if (config->backend != AN_BACKEND_AF_PACKET) {
		if (config->sockets_map >= 0)
			port = an_port_open_xdp(config, error, error_len);
		else
			snprintf(error, error_len,
				 "AF_XDP: the gate's table of sockets is not open");
		if (port || config->backend == AN_BACKEND_AF_XDP)
			return port;
		snprintf(reason, reason_len, "%s", error);
	}
	return an_port_open_packet(config, error, error_len);
}

static int is_lent(const struct an_ring_config *config)
{
	return config->lent_fds[0] >= 0;
}

static int map_page(struct an_ring *ring, int fd)
{
	off_t size = lseek(fd, 0, SEEK_END);
	struct an_lent_page *page;

	if (size < (off_t)sizeof(*page))
		return -EINVAL;
	page = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return -errno;
	if (page->magic != AN_LENT_MAGIC ||
	    (size_t)size < sizeof(*page) + page->lines * sizeof(page->line[0])) {
		munmap(page, (size_t)size);
		return -EPROTO;
	}
	ring->page = page;
	return 0;
}

static struct an_port *attach_port(struct an_ring *ring, const struct an_ring_config *config,
				   char *error, size_t error_len)
{
	const int *fds = config->lent_fds;
	int err = map_page(ring, fds[3]);

	if (err) {
		snprintf(error, error_len, "the lent page cannot be used: %s", strerror(-err));
		return NULL;
	}
	if (ring->page->backend == AN_BACKEND_AF_XDP)
		return an_port_attach_xdp(fds[0], fds[1], &ring->page->shape, error, error_len);
	return an_port_attach_packet(fds[0], &ring->page->shape, error, error_len);
}

static void free_ring(struct an_ring *ring)
{
	if (ring->port)
		close_port(ring, &ring->port);
	if (ring->old)
		close_port(ring, &ring->old);
	if (ring->page)
		munmap(ring->page,
		       sizeof(*ring->page) + ring->page->lines * sizeof(ring->page->line[0]));
	if (ring->event >= 0)
		close(ring->event);
	if (ring->wake >= 0)
		close(ring->wake);
	an_pool_free(&ring->pool);
	free(ring->buckets);
	free(ring->heap);
	pthread_cond_destroy(&ring->turns);
	pthread_cond_destroy(&ring->driver);
	pthread_mutex_destroy(&ring->lock);
	free(ring);
}

static void init_locks(struct an_ring *ring)
{
	pthread_condattr_t attributes;

	pthread_mutex_init(&ring->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&ring->turns, &attributes);
	pthread_cond_init(&ring->driver, &attributes);
	pthread_condattr_destroy(&attributes);
}

static struct an_ring *new_ring(void)
{
	struct an_ring *ring = calloc(1, sizeof(*ring));

	if (!ring)
		return NULL;
	init_locks(ring);
	TAILQ_INIT(&ring->fired);
	for (int i = 0; i < AN_CLASSES; i++)
		TAILQ_INIT(&ring->ready[i]);
	ring->bell = -1;
	ring->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ring->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ring->bucket_count = BUCKETS_LEAST;
	ring->buckets = calloc(BUCKETS_LEAST, sizeof(*ring->buckets));
	if (!an_pool_init(&ring->pool) && ring->buckets && ring->event >= 0 && ring->wake >= 0)
		return ring;
	free_ring(ring);
	return NULL;
}

static void set_config(struct an_ring *ring, const struct an_ring_config *config)
{
	ring->config = *config;
	if (!config->spin_us)
		ring->config.spin_us = AN_SPIN_US;
}

an_ring *an_ring_open(const struct an_ring_config *config, char *error, size_t error_len)
{
	struct an_ring *ring = new_ring();

	if (!ring) {
		snprintf(error, error_len, "out of memory, or of file descriptors");
		return NULL;
	}
	set_config(ring, config);
	ring->port = is_lent(config) ? attach_port(ring, config, error, error_len)
				     : open_port(config, ring->fallback_reason,
						 sizeof(ring->fallback_reason), error, error_len);
	if (!ring->port) {
		free_ring(ring);
		return NULL;
	}
	if (is_lent(config)) {
		ring->bell = config->lent_fds[2];
		close(config->lent_fds[3]); /* the mapping holds it */
	}
	return ring;
}

/* A port of AF_PACKET is told whose frames it shall take; more, where that fails. */
static void choose(struct an_ring *ring, struct an_port *port)
{
	struct an_choice choices[AN_CHOICES];
	uint32_t count = 0;

	if (!port || port->backend != AN_BACKEND_AF_PACKET || ring->page)
		return;
	for (uint32_t i = 0; i < ring->bucket_count && ring->flows <= AN_CHOICES; i++) {
		struct ring_flow *f;

		LIST_FOREACH(f, &ring->buckets[i], chain)
		{
			const struct assent_header *h = &f->flow.header;

			choices[count++] = (struct an_choice){h->pair.src.bytes, h->pair.dst.bytes,
							      assent_be16(h->flow)};
		}
	}
	an_packet_choose(port, choices, ring->flows <= AN_CHOICES ? count : AN_CHOICES + 1);
}

static int make_room(struct an_ring *ring)
{
	uint32_t room = ring->heap_room ? ring->heap_room * 2 : BUCKETS_LEAST;
	struct ring_flow **heap;

	if (ring->flows < ring->heap_room)
		return 0;
	heap = realloc(ring->heap, room * sizeof(*heap));
	if (!heap)
		return -ENOMEM;
	ring->heap = heap;
	ring->heap_room = room;
	return 0;
}

static uint32_t frame_of(uint32_t mtu)
{
	return (uint32_t)an_least(mtu + ASSENT_ETH_LEN, AN_FRAME_MAX);
}

static int check_config(struct an_ring *ring, const struct an_flow_config *config, char *error,
			size_t error_len)
{
	uint16_t flow = assent_be16((uint16_t)config->flow);

	if (frame_of(config->mtu) > ring->port->frame_max) {
		snprintf(error, error_len, "the MTU is %u, and frames of %s have room for less",
			 config->mtu, ring->port->interface);
		return -EMSGSIZE;
	}
	if (find(ring, config->remote_cell, config->local_cell, flow)) {
		snprintf(error, error_len, "flow %u is driven already", config->flow);
		return -EBUSY;
	}
	if (config->class_ >= AN_CLASSES) {
		snprintf(error, error_len, "there is no class %u", config->class_);
		return -EINVAL;
	}
	if (!make_room(ring))
		return 0;
	snprintf(error, error_len, "out of memory");
	return -ENOMEM;
}

/* The filter first, the gate last: nothing is let in before there is room for it. */
static int add(struct an_ring *ring, struct ring_flow *f, const struct an_flow_config *config,
	       char *error, size_t error_len)
{
	uint64_t now = monotonic();
	int err = check_config(ring, config, error, error_len);

	if (err)
		return err;
	if (ring->flows >= ring->bucket_count)
		grow_table(ring);
	memcpy(f->flow.header.pair.src.bytes, config->local_cell, ASSENT_CELLID_LEN);
	memcpy(f->flow.header.pair.dst.bytes, config->remote_cell, ASSENT_CELLID_LEN);
	f->flow.header.flow = assent_be16((uint16_t)config->flow);
	chain(ring, f);
	ring->flows++;
	choose(ring, ring->port);
	choose(ring, ring->old);
	err =
	    an_flow_init(&f->flow, config, &ring->pool, open_of(ring->port), now, error, error_len);
	if (err) {
		LIST_REMOVE(f, chain);
		ring->flows--;
		choose(ring, ring->port);
		return err;
	}
	settle(ring, f, now);
	push_out(ring, now);
	return 0;
}

an_flow *an_ring_add(an_ring *ring, const struct an_flow_config *config, char *error,
		     size_t error_len)
{
	struct ring_flow *f = calloc(1, sizeof(*f));
	int err = -ENOMEM;

	if (f) {
		lock(ring);
		err = add(ring, f, config, error, error_len);
		leave(ring, monotonic());
	} else {
		snprintf(error, error_len, "out of memory");
	}
	if (!err)
		return &f->flow;
	free(f);
	return NULL;
}

/* Takes in what the gate had let through before it was shut. */
static void drain(struct an_ring *ring)
{
	uint64_t now;

	for (int i = 0; i < 1024 && turn(ring, &now); i++)
		;
}

static void remove_flow(struct an_ring *ring, struct ring_flow *f)
{
	not_ready(ring, f);
	heap_remove(ring, f);
	if (f->is_fired)
		TAILQ_REMOVE(&ring->fired, f, fired);
	LIST_REMOVE(f, chain);
	ring->flows--;
	if (ring->last == f)
		ring->last = NULL;
	an_flow_free(&f->flow);
	free(f);
}

void an_ring_remove(an_ring *ring, an_flow *flow)
{
	struct ring_flow *f = (struct ring_flow *)flow;

	lock(ring);
	f->gone = 1;
	while (f->users) {
		pthread_cond_broadcast(&ring->turns);
		kick(ring);
		wait_on(ring, &ring->turns, monotonic() + SWEEP_INTERVAL);
	}
	an_flow_shut(flow);
	drain(ring);
	remove_flow(ring, f);
	choose(ring, ring->port);
	choose(ring, ring->old);
	leave(ring, monotonic());
}

void an_ring_close(an_ring *ring)
{
	struct ring_flow *f;

	if (!ring)
		return;
	lock(ring);
	ring->closing = 1;
	while (ring->waiters || ring->drivers) {
		pthread_cond_broadcast(&ring->turns);
		pthread_cond_broadcast(&ring->driver);
		kick(ring);
		wait_on(ring, &ring->turns, monotonic() + SWEEP_INTERVAL);
	}
	for (uint32_t i = 0; i < ring->bucket_count; i++) {
		LIST_FOREACH(f, &ring->buckets[i], chain)
		{
			an_flow_shut(&f->flow);
		}
	}
	drain(ring);
	for (uint32_t i = 0; i < ring->bucket_count; i++) {
		while ((f = LIST_FIRST(&ring->buckets[i])))
			remove_flow(ring, f);
	}
	unlock(ring);
	if (ring->bell >= 0)
		close(ring->bell);
	free_ring(ring);
}

void an_ring_describe(an_ring *ring, struct an_ring_info *info)
{
	const struct an_port *port;

	memset(info, 0, sizeof(*info));
	lock(ring);
	port = ring->port;
	info->backend = port->backend;
	info->zero_copy = port->zero_copy;
	info->need_wakeup = port->need_wakeup;
	info->busy_poll = port->busy_poll;
	info->flows = ring->flows;
	info->foreign = ring->foreign;
	info->dropped = port->ops->dropped(ring->port);
	memcpy(info->interface, port->interface, sizeof(info->interface));
	memcpy(info->fallback_reason, ring->fallback_reason, sizeof(info->fallback_reason));
	unlock(ring);
}

int an_ring_fd(an_ring *ring)
{
	return ring->event;
}

void *an_ring_lent_line(an_ring *ring, uint32_t index)
{
	return ring->page && index < ring->page->lines ? &ring->page->line[index] : NULL;
}

/* -- moving -- */

/* Nobody is inside the port any more, nor comes there before `moving` is 0 again. */
static void hold(struct an_ring *ring)
{
	ring->moving = 1;
	while (ring->sleepers) {
		kick(ring);
		wait_on(ring, &ring->turns, monotonic() + SWEEP_INTERVAL);
	}
}

static int fits(struct an_ring *ring, const struct an_port *port, char *error, size_t error_len)
{
	for (uint32_t i = 0; i < ring->bucket_count; i++) {
		struct ring_flow *f;

		LIST_FOREACH(f, &ring->buckets[i], chain)
		{
			if (f->flow.payload_max + ASSENT_HEADER_LEN + ASSENT_ETH_LEN <=
			    port->frame_max)
				continue;
			snprintf(error, error_len,
				 "%s has an MTU that is too small for a flow's frames",
				 port->interface);
			return -EMSGSIZE;
		}
	}
	return 0;
}

/*
 * Where the gate now sends frames to the other kind of socket, the old interface needs one of that
 * kind too. AF_XDP to AF_PACKET: one is made. The other way, what finds no AF_XDP socket goes on to
 * the stack, where the old socket takes it.
 */
static struct an_port *successor(struct an_ring *ring, const struct an_port *port)
{
	struct an_ring_config config = ring->config;
	char ignored[128];

	if (ring->port->backend != AN_BACKEND_AF_XDP || port->backend == AN_BACKEND_AF_XDP)
		return NULL;
	config.backend = AN_BACKEND_AF_PACKET;
	return an_port_open_packet(&config, ignored, sizeof(ignored));
}

static void readdress(struct an_ring *ring, const uint8_t local_mac[6], uint64_t now)
{
	uint64_t longest = 0;

	for (uint32_t i = 0; i < ring->bucket_count; i++) {
		struct ring_flow *f;

		LIST_FOREACH(f, &ring->buckets[i], chain)
		{
			an_flow_move(&f->flow, local_mac, open_of(ring->port), now);
			be_ready(ring, f);
			longest = an_most(longest, f->flow.rtt.smooth);
		}
	}
	ring->old_until = now + an_most(AN_SILENCE_LIMIT, 4 * longest);
}

/* Puts `port` in the place of the ring's own. */
static void exchange(struct an_ring *ring, struct an_port *port, const uint8_t local_mac[6])
{
	struct an_port *next = successor(ring, port);
	struct an_port *previous = ring->port;
	uint64_t now;

	if (ring->old)
		close_port(ring, &ring->old);
	ring->old = previous;
	ring->port = port;
	ring->unflushed = 0;
	ring->broken = 0;
	choose(ring, port);
	choose(ring, next);
	readdress(ring, local_mac, monotonic());
	if (next) {
		an_wait_for_readers();
		drain(ring);
		close_port(ring, &ring->old);
		ring->old = next;
	}
	turn(ring, &now);
}

int an_ring_move(an_ring *ring, const struct an_ring_config *config, const uint8_t local_mac[6],
		 char *error, size_t error_len)
{
	char reason[sizeof(ring->fallback_reason)];
	struct an_port *port;
	int err;

	if (is_lent(config) || ring->page) {
		snprintf(error, error_len, "a lent ring stays where it is: borrow another one");
		return -ENOTSUP;
	}
	port = open_port(config, reason, sizeof(reason), error, error_len);
	if (!port)
		return -EADDRNOTAVAIL;
	lock(ring);
	err = fits(ring, port, error, error_len);
	if (!err) {
		hold(ring);
		exchange(ring, port, local_mac);
		set_config(ring, config);
		memcpy(ring->fallback_reason, reason, sizeof(reason));
		ring->moving = 0;
		pthread_cond_broadcast(&ring->turns);
		pthread_cond_broadcast(&ring->driver);
	}
	unlock(ring);
	if (err)
		port->ops->close(port);
	return err;
}
