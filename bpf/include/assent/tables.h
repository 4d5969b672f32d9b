/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the dataplane keeps. Each field says who writes it; fields are grouped by cache line and by
 * how often they change. Python reads these layouts from the BTF of the compiled gate.
 */
#ifndef ASSENT_TABLES_H
#define ASSENT_TABLES_H

#include "siphash.h"
#include "wire.h"

/* locals[cell]: a cell that lives on this host. Control plane writes. */
struct assent_local {
	__u32 index; /* stable small number of the cell on this host */
	__u32 flags;
};

enum assent_session_flag {
	ASSENT_SESSION_ESTABLISHED = 0x1, /* `current` holds a live header key */
	ASSENT_SESSION_ALTERNATE = 0x2,   /* `alternate` holds a live header key too */
	ASSENT_SESSION_COVENANTED = 0x4,  /* the local cell agreed to hear from the remote one */
	ASSENT_SESSION_QUARANTINED = 0x8, /* and has suspended that */
	ASSENT_SESSION_OBSERVED = 0x10,   /* what policy refuses is admitted, counted and told */
	ASSENT_SESSION_BARE = 0x20,    /* its 40-byte UTCP frames are admitted: no tag, no proof */
	ASSENT_SESSION_CONTROL = 0x40, /* its flow 0 is admitted whatever consent says */
	ASSENT_SESSION_TERMS = 0x80,   /* line 4 holds limits */
	ASSENT_SESSION_LEASED = 0x100, /* its data ends with config's `lease_until` */
};

/*
 * sessions[(remote, local)], keyed by the first 32 bytes of an arriving header.
 *
 * The entry exists from the moment that a peer is provisioned, so that handshake frames can be told
 * from junk; it becomes a session when ESTABLISHED is set. The control plane replaces it whole (the
 * kernel swaps a hash element by pointer). A reader that still holds an element which was replaced
 * and then reused for another pair checks the tag with another pair's state and refuses the frame:
 * the race fails closed.
 */
struct assent_session {
	/* line 0: all that a verdict on an established session reads */
	struct assent_sip current; /* state after src and dst under the header key */
	__u32 flags;               /* enum assent_session_flag */
	__u32 flow_base;           /* slot of flow 0 in `flows`; flow f lives at flow_base + f */
	__u16 flow_count;          /* flows 0 .. flow_count-1 may exist */
	__u16 payload_max;         /* bytes that a data frame may carry; 0 = what fits */
	__u32 session_id;          /* names this session in events and in the control plane */
	__s64 clock_offset;        /* sender's clock minus our monotonic clock, ns */
	__u32 skew_limit;          /* ms either way; 0 = not checked */
	__u32 tally;               /* slot in `tallies` */
	/* line 1: keys for moments of change */
	struct assent_sip alternate; /* the neighbouring epoch's header key, in its grace window */
	struct assent_sip admission; /* handshake frames: key from the pre-shared key */
	/* line 2: written by the gate, compare-and-swap; `_due` are theoretical arrival times of a
	 * rate limit, monotonic ns */
	__u64 handshake_newest; /* timestamp of the newest handshake frame admitted */
	__u64 handshake_due;
	__u64 control_due; /* flow 0 within a session */
	__u64 lamp_due;    /* frames with LAMP, by blocks */
	__u64 bare_due;    /* 40-byte frames */
	__u64 bare_seen;   /* one word of a replay window, for them */
	__u64
	    observed_newest; /* timestamp of the newest frame admitted on a flow that is not open */
	__u64 reserved;
	/* line 3: the other direction, for frames that leave through the kernel's stack */
	struct assent_sip departing;           /* state after local and remote, our header key */
	struct assent_sip departing_admission; /* the same, for our handshake frames */
	/* line 4: what a covenant's terms say of the sender's data, read where TERMS is set.
	 * Control plane writes, but for `data_due` */
	__u64 data_interval; /* ns that a block costs; 0 = no rate */
	__u64 data_burst;    /* ns that the sender may run ahead */
	__u64 data_due;      /* theoretical arrival time, monotonic ns; gate */
	__u64 open_from;     /* monotonic ns before which it is refused; 0 = no bound */
	__u64 open_until;    /* and from which on; 0 = no bound */
	__u32 payload_limit; /* bytes that a frame may carry; 0 = no limit */
	__u32 terms_reserved[5];
};

/* Whether an endpoint takes the frames of a data flow, and where. */
enum assent_open {
	ASSENT_SHUT = 0,
	ASSENT_TO_STACK = 1, /* an AF_PACKET socket behind the kernel's stack */
	ASSENT_TO_RING = 2,  /* the AF_XDP socket of the queue that they arrive on */
};

/*
 * A flow's `rx_open` says besides at which interface the endpoint is, so that a frame that comes to
 * another one (a switch may send it to all) is refused and can come again: admitted there, it would
 * be lost for good. The lower bits of the interface's number do; 0 = any.
 */
#define ASSENT_OPEN_KINDS 4
#define ASSENT_OPEN_PLACES (0x10000 / ASSENT_OPEN_KINDS)

static __always_inline __u16 assent_open_at(__u32 kind, __u32 ifindex)
{
	return (__u16)(kind | ifindex % ASSENT_OPEN_PLACES * ASSENT_OPEN_KINDS);
}

static __always_inline __u32 assent_open_kind(__u32 rx_open)
{
	return rx_open % ASSENT_OPEN_KINDS;
}

/* Is there an endpoint for what arrives at that interface? 0: wherever that is. */
static __always_inline int assent_is_open(__u32 rx_open, __u32 ifindex)
{
	__u32 place = rx_open / ASSENT_OPEN_KINDS, here = ifindex % ASSENT_OPEN_PLACES;

	return assent_open_kind(rx_open) != ASSENT_SHUT && (!place || !here || place == here);
}

/*
 * flows[slot]: one flow's accounting, one cache line, cumulative counters only. Shared with the
 * endpoint by mmap, so neither side needs a system call to read or write it. All credit is counted
 * in 64-byte blocks since the session began; what may still be sent is granted - spent.
 *
 * `tx_granted` and `rx_granted` only ever rise (compare-and-swap to the larger value), which makes
 * a second writer harmless.
 */
struct assent_flow {
	__u64 rx_granted;  /* promised to the peer; endpoint, control plane */
	__u64 rx_spent;    /* arrived and charged; gate */
	__u64 tx_granted;  /* promised by the peer; gate, from arriving `grant` fields */
	__u64 tx_spent;    /* sent for the first time; endpoint, or egress for raw senders */
	__u32 rx_highest;  /* highest seq admitted; gate */
	__u32 tx_seq;      /* last seq used; as tx_spent. Survives it, so no nonce is used twice */
	__u32 rx_window;   /* blocks that rx_granted began with; control plane */
	__u32 tx_window;   /* blocks that tx_granted began with; control plane */
	__u32 replay_base; /* first chunk in `replay`; control plane */
	__u16 replay_len;  /* sequence numbers in the replay window; 0 = flow not open */
	__u8 replay_mask;  /* chunks in the ring, minus one */
	__u8 grant_shift;  /* unit of the `grant` field: 64 << grant_shift bytes */
	__u32 rx_next;     /* next seq to deliver in order; endpoint */
	__u16 rx_open;     /* assent_open_at(): where its frames are taken; endpoint */
	__u16 tx_pending;  /* data is sent and not yet receipted; endpoint */
};

/*
 * replay[chunk]: part of a flow's replay window, a ring of words. A word holds 32 sequence numbers:
 * the high half says which 32 (seq >> 5), the low half which of them were seen. See replay.h.
 */
#define ASSENT_REPLAY_WORDS 64
#define ASSENT_REPLAY_WORD_BITS 32
#define ASSENT_REPLAY_CHUNK_BITS (ASSENT_REPLAY_WORDS * ASSENT_REPLAY_WORD_BITS)
#define ASSENT_REPLAY_MAX 8192

struct assent_replay_chunk {
	__u64 word[ASSENT_REPLAY_WORDS];
};

#define ASSENT_SOCKET_INTERFACES 64
#define ASSENT_SOCKET_QUEUES 64

/*
 * sockets[slot]: the AF_XDP socket of a receive queue. Endpoints write, each its own entry where
 * there is none. Interfaces whose numbers are alike here share their entries: the second socket
 * finds its place taken.
 */
static __always_inline __u32 assent_socket_slot(__u32 ifindex, __u32 queue)
{
	return ifindex % ASSENT_SOCKET_INTERFACES * ASSENT_SOCKET_QUEUES +
	       queue % ASSENT_SOCKET_QUEUES;
}

#define ASSENT_HOMES 4

/*
 * config[0]: what applies to all cells of the gate. Control plane writes; a write stores the fields
 * that it does not change as they were.
 */
struct assent_config {
	/* lines 0 and 1: read for every frame */
	__u64 bloom;         /* see bloom.h */
	__u64 bloom_seed[2]; /* secret; made with the gate */
	__u64
	    home_count; /* of the local cells; more than ASSENT_HOMES: they are in `locals` alone */
	struct assent_cellid home[ASSENT_HOMES]; /* the local cells, where they are few */
	__u64 lamp_interval;                     /* ns that a block under LAMP costs a sender */
	__u64 lamp_burst;                        /* ns that a sender may run ahead */
	__u64 handshake_interval;                /* ns a handshake frame costs a peer */
	__u64 handshake_burst;
	/* line 2 */
	__u64 control_interval; /* flow 0, and bare frames */
	__u64 control_burst;
	__u64 lease_until;    /* monotonic ns from which on leased sessions' data is refused */
	__u64 event_interval; /* least ns between two events of one reason on one CPU */
	__u64 event_reasons;  /* bit r: somebody wants to hear of reason r */
	__u64 event_cells;    /* how many of event_cell[]; 0 = of all cells */
	struct assent_cellid event_cell[ASSENT_HOMES]; /* only frames from or to these */
};

#define ASSENT_INTERFACE_SLOTS 1024

/*
 * interfaces[ifindex % ASSENT_INTERFACE_SLOTS]: which block of `counters` an interface counts in.
 * Block 0 is shared by all that have none of their own. Control plane writes.
 */
struct assent_interface {
	__u32 ifindex; /* whose entry it is: another one may have come to the same slot */
	__u32 block;
};

enum assent_direction {
	ASSENT_ARRIVING = 0,
	ASSENT_LEAVING = 1,
};

#define ASSENT_COUNTER_STRIDE 64 /* reasons there may ever be */

/*
 * counters[(interface * 2 + direction) * ASSENT_COUNTER_STRIDE + reason], one per CPU. Gate writes.
 * Of a refusal, events + suppressed = frames + observed.
 */
struct assent_counter {
	__u64 frames;
	__u64 bytes;
	__u64 observed;   /* frames that were admitted all the same: their session is observed */
	__u64 events;     /* how many of all those were told on the event ring */
	__u64 suppressed; /* and how many were not */
	__u64 told;       /* `suppressed` as of the last event */
	__u64 next_event; /* monotonic ns before which no further event is told */
	__u64 reserved;
};

#define ASSENT_TALLY_REASONS 30

/*
 * tallies[slot], one per CPU: verdicts on the frames of one pair. Slot 0 is shared by all that have
 * none of their own. Gate writes.
 */
struct assent_tally {
	__u64 bytes;                        /* of admitted frames */
	__u64 observed;                     /* admitted frames that policy would have refused */
	__u64 frames[ASSENT_TALLY_REASONS]; /* by reason */
};

#define ASSENT_EVENT_HEAD_LEN 106 /* Ethernet, one VLAN tag, and an LWF header */

/* events: one frame that was refused, or would have been. */
struct assent_event {
	__u64 time;       /* monotonic ns */
	__u64 suppressed; /* of this reason, interface and CPU, since the last event */
	__u32 reason;
	__u32 ifindex;
	__u32 session_id; /* 0 where no session was found */
	__u32 frame_len;
	__u8 direction; /* enum assent_direction */
	__u8 observed;  /* admitted: its session is observed */
	__u8 head_len;
	__u8 block; /* of `counters`, that it was counted in */
	__u8 head[ASSENT_EVENT_HEAD_LEN];
	__u16 cpu;
};

_Static_assert(sizeof(struct assent_session) == 320, "five cache lines");
_Static_assert(__builtin_offsetof(struct assent_session, alternate) == 64, "line 1");
_Static_assert(__builtin_offsetof(struct assent_session, handshake_newest) == 128, "line 2");
_Static_assert(sizeof(struct assent_flow) == 64, "one cache line");
_Static_assert(sizeof(struct assent_replay_chunk) == 512, "eight cache lines");
_Static_assert(__builtin_offsetof(struct assent_session, departing) == 192, "line 3");
_Static_assert(__builtin_offsetof(struct assent_session, data_interval) == 256, "line 4");
_Static_assert(__builtin_offsetof(struct assent_config, control_interval) == 128, "line 2");
_Static_assert(sizeof(struct assent_counter) == 64, "one cache line");
_Static_assert(sizeof(struct assent_tally) == 256, "four cache lines");
_Static_assert(sizeof(struct assent_event) == 144, "no implicit padding");

#endif /* ASSENT_TABLES_H */
