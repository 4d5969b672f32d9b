/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One flow of a session: a reliable, ordered byte stream each way, repaired by NACKs and paid in
 * advance.
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
 * Receipts are the grants themselves. The receiver consumes frames in order and raises its grant by
 * what each cost, so (granted - window) is the cost of all it has consumed, and every frame that
 * ended at or below that sum is done. A grant rides on any frame. A header-only frame is sent for
 * its sake alone when an eighth of the window has been consumed unannounced, or when the peer asks.
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
 * A gap in what arrives is a NACK at once, one header-only frame a missing number, repeated while
 * the gap lasts; frames that leave anyway name the first missing number for free.
 *
 * A sender that goes quiet with unreceipted frames sends a probe: DATA with no payload. It is the
 * next number, so a lost tail shows as a gap before it, and it is always answered with the grant.
 * Probes cost credit, so they are patient with a peer whose grants come slowly but do come.
 *
 * Liveness. The last blocks of credit are kept by rank: data leaves all of the reserve, NACKs leave
 * half of it, probes a quarter, and only receipts, each of which gives the peer credit, may spend
 * the rest. Who hears nothing and can ask for nothing sends its unreceipted frames again in turn:
 * that costs nothing, and each either dies as a replay or fills a gap and carries the newest grant.
 * Who has consumed data unannounced and hears nothing says so unasked; who is done repeats itself a
 * few times, for the peer may still wait to hear it. So no loss can leave both sides mute.
 *
 * A header-only frame is repaired like any other: what is sent again under its number is again
 * header-only. So both directions stay whole, whoever carries the data.
 */
#ifndef AN_FLOW_H
#define AN_FLOW_H

#include "aead.h"
#include "assent/credit.h"
#include "assent/tables.h"
#include "assent/tag.h"
#include "native.h"
#include "port.h"

#define AN_WINDOW 2048        /* frames kept each way; the default replay window */
#define AN_CREDIT_RESERVE 64  /* blocks that data never touches; of a small window, a quarter */
#define AN_RECOVERY_ROUNDS 10 /* how often one that is done repeats itself */
#define AN_RECOVERY_PAIR 2    /* frames each time */
#define AN_RECOVERY_BURST 32  /* frames sent again, unasked, in one go */
#define AN_NACK_INTERVAL 2000000ULL   /* ns between two NACKs for one number */
#define AN_NACK_BURST 64              /* NACK frames in one go */
#define AN_RESEND_INTERVAL 1000000ULL /* ns within which a second NACK is an echo */
#define AN_PROBE_INTERVAL 5000000ULL  /* ns of quiet before the first probe; doubles */
#define AN_PROBE_INTERVAL_MAX 1000000000ULL
#define AN_RECOVERY_INTERVAL 20000000ULL /* ns of quiet before a burst; doubles */
#define AN_RECOVERY_INTERVAL_MAX 100000000ULL
#define AN_SILENCE_LIMIT 30000000000ULL /* ns: the seed's 30 s */
#define AN_SECOND 1000000000ULL
#define AN_PACE_INTERVAL 10000000ULL   /* ns between two grants to one held to a rate */
#define AN_PACE_INTERVAL_MAX AN_SECOND /* the same, of a rate so low that little comes together */
#define AN_PATIENCE_MAX 4000000000ULL  /* ns that a slow peer may take, and is not asked */

struct an_tx_slot {
	uint64_t paid_until; /* cumulative cost up to and including this frame */
	uint64_t sent_at;
	uint32_t plain_len;
	uint32_t frame_len; /* Ethernet header included */
	uint8_t *frame;     /* 8-byte aligned at the fabric header */
};

struct an_rx_slot {
	uint64_t nack_at; /* when it was last asked for */
	uint32_t payload_len;
	uint16_t flags;
	uint16_t present;
	uint8_t *payload;
};

struct an_flow {
	/* fixed */
	struct assent_flow *line;
	struct assent_header header; /* template: pair, flow, BLOCK */
	uint8_t ethernet[ASSENT_ETH_LEN];
	struct assent_sip tx_state;
	struct an_aead seal;
	struct an_aead open;
	uint32_t payload_max;  /* bytes a frame's payload may have, AEAD tag included */
	uint64_t receipt_step; /* blocks granted unannounced that are worth a frame */
	uint64_t pace;         /* ns that a block must wait for its grant; 0 = not held to a rate */
	uint64_t pace_frame;   /* the same of a whole frame */

	/* sending */
	const uint8_t *source;
	uint64_t source_len;
	uint64_t source_sent;       /* handed to the window */
	uint32_t tx_origin;         /* first number of this endpoint */
	uint32_t tx_base;           /* oldest number not receipted */
	uint32_t tx_next;           /* next number to use */
	uint32_t tx_data_pending;   /* frames with payload among [tx_base, tx_next) */
	uint32_t resend[AN_WINDOW]; /* queue of numbers that the peer misses */
	uint32_t resend_head;
	uint32_t resend_count;
	uint64_t tx_quiet_since;
	uint64_t tx_sent_at; /* when a frame last left */
	uint64_t
	    tx_granted_seen; /* as of tx_granted_at, when a grant last came, or was first due */
	uint64_t tx_granted_at;
	uint64_t tx_grant_gap; /* ns between grants while waiting for them, smoothed */
	uint64_t probe_interval;
	uint64_t recovery_interval;
	uint32_t recovery_rounds; /* since the peer was heard */
	uint32_t recovery_cursor; /* next number to send again unasked */
	uint32_t recovery_left;   /* how many of this burst remain */
	uint32_t reserve;         /* blocks; see Liveness */
	uint64_t progress_at;     /* when the peer was last heard, or work last began */
	int waiting_for_credit;

	/* receiving */
	uint8_t *sink;
	uint64_t sink_len;
	uint64_t sink_filled;
	uint32_t rx_next;      /* next number to deliver */
	uint32_t rx_end;       /* one past the highest number seen */
	uint32_t rx_missing;   /* numbers in [rx_next, rx_end) not yet here */
	uint64_t rx_announced; /* rx_granted as last told */
	uint32_t rx_unannounced_frames;
	int rx_unannounced_data; /* whether data was among them */
	int answer_due;          /* a probe waits for the grant */
	uint64_t rx_held;        /* blocks consumed whose grant is not due yet */
	uint64_t rx_held_until;  /* when the last of them is due */
	int rx_held_data;        /* whether data is among them */
	int rx_held_probe;       /* or a probe */
	uint64_t announced_at;
	uint32_t nack_cursor; /* where the next round of NACKs goes on */
	uint64_t nack_round_at;
	uint64_t heard_at;

	struct an_stats stats;
	struct an_tx_slot inherited; /* room for a number of an earlier endpoint */
	struct an_tx_slot *tx;
	struct an_rx_slot *rx;
	uint8_t *buffers;
};

int an_flow_init(struct an_flow *flow, const struct an_endpoint_config *config, uint64_t now,
		 char *error, size_t error_len);
/* Tells the gate that nobody takes this flow's frames any more; before the port is closed. */
void an_flow_shut(struct an_flow *flow);
void an_flow_free(struct an_flow *flow);

/* Takes in one admitted frame, Ethernet header included. Negative errno where the flow is broken.
 */
int an_flow_input(struct an_flow *flow, const uint8_t *data, uint32_t len, uint64_t now,
		  char *error, size_t error_len);
/* Delivers what is in order and fits the sink. */
int an_flow_deliver(struct an_flow *flow, char *error, size_t error_len);
/* Writes the next frame due, if any: its length, or 0. `buffer` takes AN_FRAME_MAX bytes. */
uint32_t an_flow_output(struct an_flow *flow, uint8_t *buffer, uint64_t now, uint64_t wall);
/* ns until there is a grant to tell of that is held now; UINT64_MAX where none is. */
uint64_t an_flow_wait(const struct an_flow *flow, uint64_t now);
/* Lets go of what the peer's grant says is consumed. */
void an_flow_take_receipts(struct an_flow *flow, uint64_t now);
/* -ENOTCONN when the session is over or the gate was rebuilt; -ETIMEDOUT when there is work and the
 * peer has been silent.
 */
int an_flow_check(const struct an_flow *flow, uint64_t now, char *error, size_t error_len);

static inline int an_flow_all_sent(const struct an_flow *flow)
{
	return flow->source_sent == flow->source_len && !flow->tx_data_pending;
}

static inline int an_flow_sink_full(const struct an_flow *flow)
{
	return flow->sink_len && flow->sink_filled == flow->sink_len;
}

#endif /* AN_FLOW_H */
