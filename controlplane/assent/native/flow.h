/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One flow of a session: messages each way, repaired by NACKs and paid in advance.
 *
 * Sans-IO: frames and time go in, frames come out. What the gate does on arrival (tag, replay
 * window, charge, taking in the grant) is not done again here; a frame that arrives is one that was
 * admitted.
 *
 * Theory of operation
 *
 * Every frame takes the next sequence number, those without payload too. A frame is charged when it
 * is first sent and kept until it is receipted; sent again, it is paid for already.
 *
 * Receipts are the grants themselves. The receiver consumes frames in the order of their numbers
 * and raises its grant by what each cost, so (granted - window) is the cost of all it has consumed,
 * and every frame that ended at or below that sum is done. A frame without messages is consumed
 * when it arrives, one with messages when they are read; where messages may overtake one another
 * they are read as they arrive, but consumed in order all the same. A grant rides on any frame. A
 * header-only frame is sent for its sake alone when a fraction of the window has been consumed
 * unannounced, or when the peer asks.
 *
 * A peer may be held to a rate. Then what was consumed is granted again only as time passes: each
 * block an interval after the one before, and an interval after it was consumed at the earliest.
 * What is not yet granted is held, and (granted - window) is the cost of all that was consumed and
 * is no longer held: a receipt, a little later. Nothing is saved up while the peer is idle, for the
 * window is its burst already. The gate reckons the same rate when frames arrive, which is before
 * they are consumed, and grants follow its reckoning; so whoever spends only what it was granted
 * is never over the rate there. A header-only frame is sent when enough of what was held is
 * granted, or a second has passed; and to a peer that asked, once more when nothing is held.
 *
 * A gap in what arrives is asked for at once: one missing number in a header-only NACK, more in a
 * GAPS frame, which lists ranges of all that is missing. Asks are frames too, and a lost one is a
 * gap to the other side; so an ask is repeated under its own number, a few times in a round trip,
 * which costs nothing and is seen only where it was lost. What has not come after a round trip is
 * asked for anew. A sender overlooks what asks for a number that it sent again less than a round
 * trip ago. Frames that leave anyway name the first missing number for free.
 *
 * A sender that goes quiet with unreceipted frames sends a probe: DATA with no payload. It is the
 * next number, so a lost tail shows as a gap before it, and it is always answered with the grant.
 * As with asks, a copy goes after it. Probes cost credit, so they are patient with a peer whose
 * grants come slowly but do come.
 *
 * What is not worth sending again is given up with a void: a header-only frame under the old
 * number, which names what that number had cost. It closes the gap, and the credit comes back.
 * Best-effort flows answer every NACK so, all flows one for a GAPS frame. Where grants are told in
 * units of many blocks, what follows the last whole unit would never be receipted; there, a void
 * under a new number that fills the unit up takes a probe's place.
 *
 * What goes under LAMP costs no credit, so no grant receipts it. It is answered with an ACK, which
 * names the last number that was consumed in order; every frame under LAMP names it too.
 *
 * Liveness. The last blocks of credit are kept by rank: data leaves all of the reserve, NACKs leave
 * half of it, probes a quarter, and only receipts, each of which gives the peer credit, may spend
 * the rest. Numbers are kept in the same way. Who hears nothing and can ask for nothing sends its
 * unreceipted frames again in turn: that costs nothing, and each either dies as a replay or fills a
 * gap and carries the newest grant. Who has consumed data unannounced and hears nothing says so
 * unasked; who is done repeats itself a few times, for the peer may still wait to hear it. So no
 * loss can leave both sides mute.
 *
 * A header-only frame is repaired like any other: what is sent again under its number is again
 * header-only. So both directions stay whole, whoever carries the data.
 *
 * Time. Every interval follows from the round trip as it was measured (flow_time.h), so that the
 * same rules hold at ten microseconds and at twenty minutes.
 *
 * Memory. Slots (one for each number in use) lie in rings that grow as they are needed and shrink
 * when the flow is idle; payloads lie in buffers of the pool (pool.h).
 */
#ifndef AN_FLOW_H
#define AN_FLOW_H

#include "aead.h"
#include "assent/credit.h"
#include "assent/tables.h"
#include "assent/tag.h"
#include "flow_time.h"
#include "native.h"
#include "pool.h"
#include "port.h"

#define AN_CREDIT_RESERVE 64  /* blocks that data never touches; of a small window, a quarter */
#define AN_NUMBER_RESERVE 64  /* numbers, likewise */
#define AN_LAG_NUMBERS 64     /* of a replay window: so far behind a frame may yet be admitted */
#define AN_RECOVERY_ROUNDS 10 /* how often one that is done repeats itself */
#define AN_RECOVERY_PAIR 2    /* frames each time */
#define AN_RECOVERY_BURST 32  /* frames sent again, unasked, in one go */
#define AN_LAMPS 4            /* frames under LAMP that wait for their ACK */
#define AN_LAMP_BLOCKS 16     /* that a frame under LAMP may cost */
#define AN_INHERITED 16       /* numbers of an earlier engine that are asked for at a time */
#define AN_WRITE_BURST 64     /* frames that one write fills at the most */
#define AN_SLOTS_IDLE 8       /* slots of a ring that is not in use */

enum an_tx_state {
	AN_TX_WANTED = 0x01,    /* the peer misses it */
	AN_TX_TWICE = 0x02,     /* it was sent more than once */
	AN_TX_ACKED = 0x04,     /* a frame under LAMP, consumed */
	AN_TX_PROBE = 0x08,     /* it is answered at once */
	AN_TX_UNAWAITED = 0x10, /* nobody waits for its receipt */
};

struct an_tx_slot {
	uint64_t paid_until; /* cumulative cost up to and including this frame */
	uint64_t sent_at;
	struct an_buffer *payload; /* sealed; NULL where there is none, or it is not kept */
	uint32_t cost;
	uint32_t nack_slot; /* of a NACK or a void: what it says */
	uint32_t rx_next;   /* as it was when this was last sent */
	uint16_t flags;
	uint16_t message_bytes;
	uint16_t grant; /* the field, as it was last sent */
	uint8_t state;  /* enum an_tx_state */
};

enum an_rx_state {
	AN_RX_PRESENT = 0x01,
	AN_RX_READ = 0x02,  /* or there was nothing in it to read */
	AN_RX_PROBE = 0x04, /* it wants to be answered */
};

struct an_rx_slot {
	struct an_buffer *payload; /* opened, until it is read */
	uint32_t cost;
	uint16_t flags;
	uint8_t state; /* enum an_rx_state */
};

/* What is read of a frame so far. */
struct an_cursor {
	uint16_t offset; /* of the next byte, in the plaintext */
	uint16_t left;   /* of the record at hand */
	uint8_t record;  /* its head was read */
	uint8_t more;    /* the message goes on after it */
	uint8_t inside;  /* a part of the message was read */
};

struct an_flow {
	/* fixed */
	struct assent_flow *line;
	struct an_lent_line *lent; /* the same, where it is lent; else NULL */
	struct an_pool *pool;
	struct assent_header header; /* template: pair, flow, BLOCK */
	uint8_t ethernet[ASSENT_ETH_LEN];
	uint8_t delivery; /* enum an_delivery */
	uint8_t class_;   /* enum an_class */
	struct assent_sip tx_state;
	struct an_aead seal;
	struct an_aead open;
	uint32_t payload_max; /* bytes a frame's payload may have, AEAD tag included */
	uint32_t number_max;  /* numbers in use at a time */
	uint32_t receipt_fraction;
	uint32_t unit; /* blocks that grants are told in */
	uint64_t pace; /* ns that a block must wait for its grant; 0 = not held to a rate */
	int doorbell;  /* of a lent line; else -1 */
	uint8_t lamp;  /* may send under LAMP */

	/* how it ended, if it has */
	uint8_t tx_finished;  /* the end is written */
	uint8_t rx_end_known; /* the peer's end came, and `rx_end_seq` brought it */
	int broken;           /* negative errno */
	char why[112];

	/* sending */
	struct an_buffer *queue_head; /* plaintexts that wait for a number */
	struct an_buffer *queue_tail;
	struct an_buffer *building; /* one that has room left */
	uint32_t queue_count;       /* `building` among them */
	uint32_t queue_cost;        /* blocks: theirs */
	uint64_t message_done;      /* bytes of the message at hand that are taken */
	uint8_t message_open;
	uint8_t waiting_for_credit;
	uint32_t tx_origin;      /* first number of this engine */
	uint32_t tx_base;        /* oldest number not receipted */
	uint32_t tx_next;        /* next number to use */
	uint32_t tx_dear;        /* frames that cost more than a block among them */
	uint32_t tx_unsettled;   /* and those of them whose receipt is awaited */
	uint32_t tx_lamps;       /* frames under LAMP among them, not yet acked */
	uint32_t tx_wanted;      /* numbers among them that the peer misses */
	uint32_t tx_wanted_from; /* none before it */
	uint32_t inherited[AN_INHERITED];
	uint32_t inherited_count;
	uint64_t tx_quiet_since;
	uint64_t tx_sent_at;      /* when a frame last left for the first time */
	uint64_t tx_granted_seen; /* as of tx_granted_at, when a grant last came, or was due */
	uint64_t tx_granted_at;
	uint64_t tx_grant_gap; /* ns between grants while waiting for them, smoothed */
	uint64_t probe_interval;
	uint32_t probe_seq;   /* the last probe */
	uint8_t probe_copies; /* that are still to be sent of it */
	uint64_t recovery_interval;
	uint32_t recovery_rounds; /* since the peer was heard */
	uint32_t recovery_cursor; /* next number to send again unasked */
	uint32_t recovery_left;   /* how many of this burst remain */
	uint64_t progress_at;     /* when the peer was last heard, or work last began */
	uint64_t confirmed;       /* what the peer surely knows that it was granted */
	uint32_t confirmed_next;  /* and that was consumed: what came before this number */

	/* receiving */
	uint32_t rx_next;    /* next number to consume */
	uint32_t rx_end;     /* one past the highest number seen */
	uint32_t rx_missing; /* numbers in [rx_next, rx_end) not yet here */
	uint32_t rx_end_seq; /* the number that brought the peer's end */
	struct an_cursor cursor;
	struct an_buffer *ready_head; /* unordered: frames in the order in which they came */
	struct an_buffer *ready_tail;
	uint64_t rx_consumed;  /* blocks, since the session began */
	uint64_t rx_announced; /* rx_granted as last told */
	uint64_t rx_rung;      /* what was taken when the doorbell last rang */
	uint32_t rx_unannounced_frames;
	uint8_t rx_unannounced_data; /* whether data was among them */
	uint8_t rx_ack_due;     /* a frame under LAMP was consumed, and its sender does not know */
	uint8_t answer_due;     /* a probe waits for the grant */
	uint8_t rx_held_data;   /* whether data is among what is held */
	uint8_t rx_held_probe;  /* or a probe */
	uint64_t rx_held;       /* blocks consumed whose grant is not due yet */
	uint64_t rx_held_until; /* when the last of them is due */
	uint64_t announced_at;
	uint32_t timed_seq;   /* a number whose answer is timed; with timed_at */
	uint64_t timed_at;    /* when it was asked for; 0 = none is timed */
	uint64_t timed_stamp; /* the newest timestamp of the peer then */
	uint64_t newest_stamp;
	uint64_t asked_at;    /* when asks, or copies of them, were last due */
	uint64_t ask_anew_at; /* when what is missing still is asked for anew */
	uint32_t ask_from;    /* our numbers of the last round of asks */
	uint32_t ask_to;
	uint32_t ask_cursor;     /* where the round goes on */
	uint32_t ask_end;        /* gaps before it were asked for */
	uint32_t ask_unanswered; /* rounds since the peer was heard */
	uint8_t asking;          /* a round is not at its end */
	uint8_t ask_copies;      /* of the last round */
	uint8_t gap_new;         /* there is a gap that was not asked for */
	uint64_t heard_at;
	uint64_t expects_since; /* somebody waits for the peer; 0 = nobody */

	struct an_rtt rtt;
	struct an_stats stats;
	struct an_tx_slot *tx;
	struct an_rx_slot *rx;
	uint32_t tx_slots; /* a power of two */
	uint32_t rx_slots;
};

/*
 * The pool outlives the flow. `open` is what becomes of the line's rx_open: from here on the gate
 * lets the flow's frames through.
 */
int an_flow_init(struct an_flow *flow, const struct an_flow_config *config, struct an_pool *pool,
		 uint32_t open, uint64_t now, char *error, size_t error_len);
/* Tells the gate that nobody takes this flow's frames any more; before the port is closed. */
void an_flow_shut(struct an_flow *flow);
void an_flow_free(struct an_flow *flow);
/* The local end is at another address now: the next frame, due at once, says so. */
void an_flow_move(struct an_flow *flow, const uint8_t local_mac[6], uint32_t open, uint64_t now);

/*
 * Somebody waits for the peer to write, or no longer does. Then a silent peer is asked now and
 * then, and one that does not answer is gone, as it is for who waits for a receipt.
 */
void an_flow_expect(struct an_flow *flow, int expects, uint64_t now);
/* The peer has consumed all numbers before that one; it has said so in another way than here. */
void an_flow_taken(struct an_flow *flow, uint32_t awaited);

/*
 * Takes in one admitted frame, Ethernet header included, that is of this flow and as long as its
 * header says. Negative errno with a sentence where the flow is broken.
 */
int an_flow_input(struct an_flow *flow, const uint8_t *frame, uint32_t len, uint64_t now,
		  char *error, size_t error_len);
/* Writes the next frame due, if any: its length, or 0. `buffer` takes AN_FRAME_MAX bytes, and sits
 * 2 bytes past a multiple of 8. */
uint32_t an_flow_output(struct an_flow *flow, uint8_t *buffer, uint64_t now, uint64_t wall);
/*
 * When an_flow_output is due, though nothing arrives nor is written or read till then; at `now` or
 * before exactly where it is due at once. UINT64_MAX: never.
 */
uint64_t an_flow_deadline(const struct an_flow *flow, uint64_t now);
/* -ENOTCONN when the session is over or the gate was rebuilt; -ETIMEDOUT when there is work and the
 * peer has been silent; what an_flow_input said where the flow is broken. */
int an_flow_check(const struct an_flow *flow, uint64_t now, char *error, size_t error_len);

/*
 * One message, scattered; `skip` bytes of it were taken before. Returns how many bytes are taken
 * now: a message is taken whole when they add up, and until then no other can be begun. An empty
 * message returns 0. -EAGAIN: credit, or the window, allows nothing. -EMSGSIZE: it does not fit one
 * frame, and this flow's messages must. -EPIPE: the end is written. -EINVAL: `skip` is not what was
 * taken.
 *
 * AN_COALESCE: messages share frames. The last one stays open for the next message, and leaves when
 * there is nothing else to send. At most AN_WRITE_BURST frames are filled in a call.
 */
int64_t an_flow_write(struct an_flow *flow, const struct an_span *spans, uint32_t count,
		      uint64_t skip, uint32_t flags, uint64_t now);
/* Messages that lie back to back in `base`; without `lengths` each has `size` bytes. Returns how
 * many were taken, each whole, or why the first was not; -EMSGSIZE: it is too long for that, and
 * an_flow_write takes it in parts. Without AN_COALESCE each has frames of its own. */
int64_t an_flow_write_many(struct an_flow *flow, const uint8_t *base, uint32_t size,
			   const uint32_t *lengths, uint32_t count, uint32_t flags, uint64_t now);
/* The end, after all that was written. 0; -EAGAIN: there is no credit yet; -EINVAL: a message is
 * taken in part. */
int an_flow_finish(struct an_flow *flow, uint64_t now);

/*
 * Bytes of the message at hand; *end becomes 1 where they are its last, else 0. Reading is what
 * consumes, and grants. -EAGAIN: there is nothing; -EPIPE: the peer has ended; -EPROTO, -EBADMSG:
 * the flow is broken.
 */
int64_t an_flow_read(struct an_flow *flow, uint8_t *buf, uint64_t len, int *end, uint64_t now);
/* Whole messages, packed back to back: how many, and their lengths. -EMSGSIZE: the first is longer
 * than `len`, or longer than what has come of it shows; an_flow_read takes it in parts. */
int64_t an_flow_read_many(struct an_flow *flow, uint8_t *buf, uint64_t len, uint32_t *lengths,
			  uint32_t max, uint64_t now);

/* Bytes that a message of one frame has at the most. */
uint32_t an_flow_message_max(const struct an_flow *flow);
/* enum an_ready */
uint32_t an_flow_ready(const struct an_flow *flow);
void an_flow_stats(const struct an_flow *flow, struct an_stats *stats);

#endif /* AN_FLOW_H */
