/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring: flow engines (flow.h: order, repair, credit; know no socket) joined to one port (port.h:
 * an AF_XDP or AF_PACKET socket; knows no flow).
 *
 * Theory of operation
 *
 * Work. Only flows with something to do are touched. Those that have a frame to send are in the
 * ready list of their class; all others are in a heap, under the time when they are due though
 * nothing arrives. That time may be too early, never too late: it is put off when it comes. Classes
 * have strict priority; inside a class each flow sends a few frames in its turn.
 *
 * Who drives. Frames are taken in by the thread that waits for them: a caller of an_ring_wait moves
 * frames itself until it has what it wants, so that no answer passes from one thread to another.
 * The driver thread stands back meanwhile, and for a moment after; a caller that comes again and
 * again never meets it. Of several callers one drives, and hands over when it leaves.
 *
 * Sleep. Whoever drives sleeps in ppoll, without the lock, and has said until when. A thread that
 * makes something due before that wakes it; what a thread writes it sends itself.
 *
 * The eventfd tells those who do not wait in a thread: each armed watch once.
 *
 * Moving. The new port is there before the old one goes, and the old one stays for as long as
 * frames may be under way to it: what the gate admits is taken in, wherever it arrives.
 */
#ifndef AN_RING_H
#define AN_RING_H

#include <pthread.h>
#include <sys/queue.h>

#include "flow.h"
#include "lend.h"
#include "native.h"
#include "port.h"

struct ring_flow {
	struct an_flow flow; /* first: an an_flow is one of these */
	LIST_ENTRY(ring_flow) chain;
	TAILQ_ENTRY(ring_flow) ready;
	TAILQ_ENTRY(ring_flow) fired;
	TAILQ_ENTRY(ring_flow) touched;
	uint64_t due;     /* in the heap: no later than that */
	uint32_t heap_at; /* place in the heap, from 1; 0 = not there */
	uint32_t users;   /* threads that wait for it */
	uint32_t unsent;  /* bytes written and left open for more, or so */
	int failed;       /* what an_flow_check said last */
	uint8_t is_ready;
	uint8_t is_fired;
	uint8_t is_touched;
	uint8_t watched; /* enum an_ready: armed */
	uint8_t expects; /* somebody waited for the peer to write, and has read nothing since */
	uint8_t gone;    /* being removed */
};

LIST_HEAD(ring_chain, ring_flow);
TAILQ_HEAD(ring_list, ring_flow);

struct an_ring {
	pthread_mutex_t lock;
	pthread_cond_t turns;  /* for callers of an_ring_wait that do not drive, and for quiet */
	pthread_cond_t driver; /* for the driver thread, standing back */
	struct an_port *port;
	struct an_port *old; /* that frames may still arrive at; or NULL */
	struct an_ring_config config;
	char fallback_reason[256];
	int event; /* eventfd: watches */
	int wake;  /* eventfd: ends sleep */
	int bell;  /* eventfd: the lender has changed the page; -1 = not lent */
	struct an_lent_page *page;
	struct an_pool pool;

	/* flows */
	struct ring_chain *buckets;
	uint32_t bucket_count; /* a power of two */
	uint32_t flows;
	struct ring_flow *last; /* that a frame was for */
	struct ring_list ready[AN_CLASSES];
	uint32_t ready_count;
	struct ring_list fired;
	struct ring_flow **heap;
	uint32_t heap_count;
	uint32_t heap_room;
	uint64_t foreign;

	/* time */
	uint64_t sweep_at;
	uint32_t sweep_bucket;
	uint64_t old_until;

	/* threads */
	uint32_t wanted;   /* waiting for the lock; atomic */
	uint32_t waiters;  /* inside an_ring_wait */
	uint32_t sleepers; /* inside ppoll */
	uint32_t drivers;  /* inside an_ring_drive */
	int is_taken;      /* a waiter drives */
	int is_called;     /* an_ring_drive is to return */
	int is_kicked;     /* sleep is being ended */
	int stands_deep;   /* the driver thread waits for a signal */
	int unflushed;     /* the kernel has not taken all frames */
	int moving;        /* the port must not be used outside the lock */
	int closing;
	int broken; /* negative errno: the interface is gone */
	int broken_told;
	uint32_t spin_failures;
	uint32_t spin_skips;  /* sleeps without, before it is tried again */
	uint64_t sleep_until; /* of whoever sleeps: the earliest */
	uint64_t driven_at;   /* by a waiter, last */
};

#endif /* AN_RING_H */
