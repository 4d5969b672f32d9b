/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python drives: rings of flows, moved in batches. No Python runs per packet.
 *
 * A ring is flow engines (flow.h: order, repair, credit; know no socket) joined to a port (port.h:
 * an AF_XDP or AF_PACKET socket; knows no flow). Calls with an `error` buffer leave a sentence in
 * it where they fail, and return a negative errno, or NULL.
 */
#ifndef AN_NATIVE_H
#define AN_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* python: begin */

enum an_backend { AN_BACKEND_AF_XDP = 1, AN_BACKEND_AF_PACKET = 2 };

/* What an application may ask of a flow. Both sides of a flow know it: it is agreed on in DEFINE.
 */
enum an_delivery { AN_ORDERED = 0, AN_UNORDERED = 1, AN_BEST_EFFORT = 2 };
/* Strict priority, 0 first; round robin inside a class. */
enum an_class { AN_URGENT = 0, AN_TENSOR = 1, AN_STANDARD = 2, AN_BULK = 3 };
#define AN_CLASSES 4

enum an_ready {
	AN_READABLE = 1, /* a part of a message, or the end, can be read */
	AN_WRITABLE = 2, /* credit and window for one frame */
	AN_DRAINED = 4,  /* all that was written is receipted; best effort: sent */
	AN_ENDED = 8,    /* the peer's end was read */
	AN_BROKEN = 16,  /* see an_ring_error */
};

/* Flags of a write: leave the last frame open for the message that follows. */
#define AN_COALESCE 1

struct an_flow_config {
	uint8_t local_cell[16];
	uint8_t remote_cell[16];
	uint8_t local_mac[6];
	uint8_t remote_mac[6];
	uint8_t tx_payload_key[32];
	uint8_t rx_payload_key[32];
	uint8_t tx_header_key[16];
	uint32_t epoch;
	uint32_t flow;
	uint32_t mtu;                  /* of the interface: bytes after the Ethernet header */
	uint64_t rx_blocks_per_second; /* what the peer is granted in a second; 0 = not paced */
	void *line;                    /* the flow's 64-byte line in the mmapped `flows` map */
	uint32_t delivery;             /* enum an_delivery */
	uint32_t class_;               /* enum an_class */
	uint32_t receipt_fraction;     /* of the window, at most one receipt each; 0 = 8 */
	uint32_t lamp;                 /* may send under LAMP where no credit stands */
	uint64_t rtt_hint;             /* ns; 0 = not known */
	uint32_t lent;                 /* `line` is one of a lent page: see lend.h */
	int doorbell;                  /* eventfd that tells the lender of wishes; lent only */
};

/* A part of a message, where it lies. */
struct an_span {
	const uint8_t *data;
	uint64_t len;
};

struct an_stats {
	uint64_t tx_frames;
	uint64_t tx_bytes; /* on the wire, Ethernet header included */
	uint64_t rx_frames;
	uint64_t rx_bytes;
	uint64_t tx_payload; /* plain bytes receipted by the peer */
	uint64_t rx_payload; /* plain bytes delivered in order */
	uint64_t retransmissions;
	uint64_t nacks_sent;
	uint64_t nacks_received;
	uint64_t receipts_sent;
	uint64_t probes_sent;
	uint64_t credit_waits; /* times that sending stopped for want of credit */
	uint64_t foreign;      /* frames of other flows, passed over */
	uint64_t aead_failures;
	uint64_t gaps_sent;
	uint64_t gaps_received;
	uint64_t voids_sent;
	uint64_t voids_received;
	uint64_t lamps_sent;
	uint64_t moves;  /* times that the peer came from another address */
	uint64_t rtt_ns; /* smoothed */
	uint64_t messages_sent;
	uint64_t messages_received;
};

/*
 * A ring: one port and the flows that this process drives through it. Any thread may call; each
 * call locks the ring. What is written leaves before the call returns, as far as there is room;
 * what arrives is taken in by whoever drives: a thread inside an_ring_wait, or else an_ring_drive.
 */
typedef struct an_ring an_ring;
typedef struct an_flow an_flow;

struct an_ring_config {
	char interface[16];
	uint32_t queue;
	int sockets_map;       /* fd of the `sockets` map; -1 = do not try AF_XDP */
	int backend;           /* enum an_backend, or 0: AF_XDP and, where that fails, AF_PACKET */
	uint32_t busy_poll_us; /* that the kernel polls the device for; 0 = it is interrupted */
	uint32_t spin_us;      /* that a driver looks for frames before it sleeps, while that pays;
				* 0 = AN_SPIN_US */
	uint32_t rx_frames;    /* that wait unread at the most; 0 = AN_RX_FRAMES */
	int lent_fds[4];       /* socket, UMEM (-1 for AF_PACKET), bell, page; all -1 = not lent */
};
#define AN_RX_FRAMES 16384
#define AN_SPIN_US 30

struct an_ring_info {
	int backend;
	int zero_copy;
	int need_wakeup; /* the kernel says when it wants to be called */
	int busy_poll;
	uint32_t flows;
	uint64_t foreign; /* frames of flows that are not here */
	uint64_t dropped; /* frames that the kernel had no room for */
	char interface[16];
	char fallback_reason[256]; /* why it is not AF_XDP; "" where it is */
};

/* Where it is lent, the file descriptors are the ring's from success on. */
an_ring *an_ring_open(const struct an_ring_config *config, char *error, size_t error_len);
/* Shuts and drains all flows first. No other thread may be inside a call but an_ring_wait's, which
 * end with -ESHUTDOWN. */
void an_ring_close(an_ring *ring);
void an_ring_describe(an_ring *ring, struct an_ring_info *info);
/* An eventfd, readable when an armed watch came true or the port broke; reading it resets it. */
int an_ring_fd(an_ring *ring);
/* The body of the driver thread's loop: moves frames for about so long, sleeps while nothing is to
 * be done, stands back while a thread inside an_ring_wait drives. 0; -ENETDOWN: the interface is
 * gone, until an_ring_move. */
int an_ring_drive(an_ring *ring, int milliseconds, char *error, size_t error_len);
/* Ends a sleep of an_ring_drive. */
void an_ring_wake(an_ring *ring);
/* Takes in all that has arrived by now. */
void an_ring_catch_up(an_ring *ring);
/* The peer has consumed all numbers of a flow before `awaited`; it has said so elsewhere. */
void an_ring_taken(an_ring *ring, an_flow *flow, uint32_t awaited);
/* To another interface. The flows go on, and each tells its peer at once. */
int an_ring_move(an_ring *ring, const struct an_ring_config *config, const uint8_t local_mac[6],
		 char *error, size_t error_len);
an_flow *an_ring_add(an_ring *ring, const struct an_flow_config *config, char *error,
		     size_t error_len);
/* Shuts it, takes in what the gate had let through before, and frees it. */
void an_ring_remove(an_ring *ring, an_flow *flow);
/* A lent flow's line: what an_flow_config.line takes. NULL: there is none of that number. */
void *an_ring_lent_line(an_ring *ring, uint32_t index);
int64_t an_ring_write(an_ring *ring, an_flow *flow, const struct an_span *spans, uint32_t count,
		      uint64_t skip, uint32_t flags);
int64_t an_ring_write_many(an_ring *ring, an_flow *flow, const uint8_t *base, uint32_t size,
			   const uint32_t *lengths, uint32_t count, uint32_t flags);
int64_t an_ring_read(an_ring *ring, an_flow *flow, uint8_t *buf, uint64_t len, int *end);
int64_t an_ring_read_many(an_ring *ring, an_flow *flow, uint8_t *buf, uint64_t len,
			  uint32_t *lengths, uint32_t max);
int an_ring_finish(an_ring *ring, an_flow *flow);
uint32_t an_ring_message_max(an_ring *ring, an_flow *flow);
/* Drives the ring until one of the bits (enum an_ready) is there: which ones; 0: time is up; a
 * negative errno with a sentence: the flow or the port is broken. Less than 0 ms: for ever. */
int an_ring_wait(an_ring *ring, an_flow *flow, uint32_t wanted, int milliseconds, char *error,
		 size_t error_len);
/* Those of the bits that are there now. Where none is, the ring's eventfd is signalled once when
 * one comes true. */
uint32_t an_ring_watch(an_ring *ring, an_flow *flow, uint32_t wanted);
/* Whose watches came true since the last call; at most `max` of them. */
uint32_t an_ring_fired(an_ring *ring, an_flow **flows, uint32_t max);
/* 0, or why the flow cannot go on. */
int an_ring_error(an_ring *ring, an_flow *flow, char *error, size_t error_len);
void an_ring_stats(an_ring *ring, an_flow *flow, struct an_stats *stats);
/* Writes and waits until a whole message is taken or time is up: bytes taken so far, `skip` of them
 * before. */
int64_t an_ring_send_all(an_ring *ring, an_flow *flow, const struct an_span *spans, uint32_t count,
			 uint64_t skip, uint32_t flags, int milliseconds, char *error,
			 size_t error_len);
/* Reads and waits until a message is whole, `buf` is full, or time is up: bytes in `buf`, `have` of
 * them before. -EPIPE: the peer has ended. */
int64_t an_ring_recv_all(an_ring *ring, an_flow *flow, uint8_t *buf, uint64_t len, uint64_t have,
			 int *end, int milliseconds, char *error, size_t error_len);

/*
 * A loan: a ring for an application without privileges. The lender keeps the gate's lines and
 * checks what the application wishes written there (lend.h). One thread.
 */
typedef struct an_loan an_loan;

struct an_loan_info {
	int backend;
	int zero_copy;
	uint32_t lines;
	/* To be passed to the application; they stay the loan's. */
	int socket;
	int umem; /* -1 for AF_PACKET */
	int bell; /* rung for the application */
	int page;
	int doorbell; /* rung by the application */
	char interface[16];
	char fallback_reason[256];
};

an_loan *an_loan_open(const struct an_ring_config *config, uint32_t lines, char *error,
		      size_t error_len);
void an_loan_describe(const an_loan *loan, struct an_loan_info *info);
/* Lends the flow whose line in the gate is `line`, as number `index`. The gate is opened for it
 * when the application opens it. */
int an_loan_lend(an_loan *loan, uint32_t index, const uint8_t local_cell[16], uint32_t flow,
		 void *line, char *error, size_t error_len);
/* To be called when the doorbell is readable, and once a second: grants what is wished and due,
 * tells of what has changed in the gate. How many lines changed. */
int an_loan_apply(an_loan *loan);
/* Applies what was wished last, shuts the gate for the flow, and forgets it. */
void an_loan_take_back(an_loan *loan, uint32_t index);
void an_loan_close(an_loan *loan);

#define AN_LINE_LEN 64 /* bytes of a flow's line */
/* Blocks that may be sent on the flow of a line now. */
uint64_t an_line_credit(const void *line);
/* Raises a cumulative counter in shared memory, never lowers it. */
void an_counter_raise(uint64_t *counter, uint64_t value);

/* Tables of the gate, filled in one go. Keys are 16 bytes each, pairs 32, states 32. */
void an_pair_states(const uint8_t *keys, const uint8_t *pairs, size_t count, uint8_t *states);
void an_bloom_add(uint64_t *words, uint32_t first, uint32_t mask, const uint64_t *seed,
		  const uint8_t *pairs, size_t count);
/* Returns when no program that was running in the kernel at the call is running any more. */
int an_wait_for_readers(void);
/* seen[i] = 0: the filter does not have this pair, so the session table does not either. */
void an_bloom_look(const uint64_t *words, uint32_t first, uint32_t mask, const uint64_t *seed,
		   const uint8_t *pairs, size_t count, uint8_t *seen);
/* CellIDs (16 bytes) of Ed25519 public keys (32 bytes). */
void an_cell_ids(const uint8_t *public_keys, size_t count, uint8_t *ids);
/* Admission keys (16 bytes) under pre-shared keys (32 bytes), from a pair's first cell to its
 * second. Returns a negative errno. */
int an_admission_keys(const uint8_t *psks, const uint8_t *pairs, size_t count, uint8_t *keys);
/* Reads the entries of those keys for which found[i] is not 0; where there is none, found[i]
 * becomes 0 and the value stays as it is. Returns a negative errno. */
int an_map_lookup(int fd, const uint8_t *keys, size_t key_size, size_t count, uint8_t *values,
		  size_t value_size, uint8_t *found);

/*
 * Entries of the session table, 320 bytes each, changed in place. Columns have `count` rows;
 * departing keys are read where has_departing[i] is not 0, and are "none" elsewhere. `rows`: which
 * entry a row is about.
 */
struct an_pair_columns {
	const uint8_t *pairs;         /* 32: remote, local */
	const uint8_t *admission;     /* 16 */
	const uint8_t *departing;     /* 16 */
	const uint8_t *has_departing; /* 1 */
	const uint32_t *policy;       /* enum assent_session_flag, of `policy_mask` */
	const uint64_t *data_interval;
	const uint64_t *data_burst;
	const uint64_t *open_from;
	const uint64_t *open_until;
	const uint32_t *payload_limit;
	uint32_t policy_mask;
};
struct an_session_columns {
	const uint32_t *rows;
	const uint8_t *pairs;         /* 32: remote, local */
	const uint8_t *arriving;      /* 16 */
	const uint8_t *departing;     /* 16 */
	const uint8_t *has_departing; /* 1 */
	const uint32_t *session_id;
	const int64_t *clock_offset;
	const uint32_t *skew_limit; /* ms */
	const uint16_t *payload_max;
	const uint16_t *flow_count;
	const uint32_t *flow_base;
	uint32_t policy_mask;
};
void an_pack_pairs(uint8_t *entries, const struct an_pair_columns *columns, size_t count);
void an_pack_sessions(uint8_t *entries, const struct an_session_columns *columns, size_t count);
void an_set_tallies(uint8_t *entries, const uint32_t *rows, const uint32_t *tallies, size_t count);
/* Lines of sessions that are alike: those of the first one, `flows` of them, for each; the base of
 * flow f's replay ring in session i is bases[f * count + i], where that flow is open. */
void an_pack_flows(uint8_t *lines, const uint8_t *alike, size_t flows, const uint32_t *bases,
		   size_t count);

/* How the entries of a session table differ from what they should be. */
enum an_difference {
	AN_SAME = 0,
	AN_ABSENT = 1,    /* there is no such entry */
	AN_ADMISSION = 2, /* another admission key */
	AN_POLICY = 3,    /* other flags, of those in `policy_mask`, or other limits */
};
void an_compare_pairs(const uint8_t *entries, const uint8_t *found,
		      const struct an_pair_columns *columns, size_t count, uint8_t *differences);
/* alive[i]: the entry is there and holds the live session of that number. */
void an_compare_sessions(const uint8_t *entries, const uint8_t *found, const uint32_t *session_ids,
			 size_t count, uint8_t *alive);
/* The tag of a 64-byte header under a 16-byte key, for tools that make frames one by one. */
uint64_t an_header_tag(const uint8_t *key, const uint8_t *header);

/* Records, in the plaintext of a sealed DATA payload (docs/wire-fabric.md). */
#define AN_RECORD_MORE 0x8000 /* the message goes on in the next data frame's first record */
#define AN_RECORD_END 0x4000  /* no message follows, ever */
enum an_records_fault {
	AN_RECORDS_FINE = 0,
	AN_RECORDS_SHORT,     /* it ends within the head of a record */
	AN_RECORDS_OVERRUN,   /* a record runs over the end */
	AN_RECORDS_END,       /* an end that carries something */
	AN_RECORDS_FOLLOWED,  /* a record after the last one */
	AN_RECORDS_UNORDERED, /* a message that goes on, where each fits a frame */
};
/* What keeps it from being records to its last byte. */
enum an_records_fault an_records_fault(const uint8_t *plain, size_t len, int ordered);
/* Three numbers a record: where its bytes begin, how many, and its flags. Returns how many records;
 * -1: it is not records to its last byte, or there are more than `max`. */
int an_records_split(const uint8_t *plain, size_t len, int ordered, uint32_t *records,
		     uint32_t max);

/*
 * GAPS: the numbers that a receiver misses, as ranges that rise. The plaintext of the frame is one
 * control tag: tag 5, length, ref 0, the CBOR map {"gaps": [first, count, skip, count, skip,
 * count...]}, where `skip` numbers are there between two ranges; then zeros to whole blocks.
 */
#define AN_GAPS_MAX 120      /* ranges that are written into a frame */
#define AN_GAPS_READ_MAX 128 /* and that are read */
struct an_gap {
	uint32_t first;
	uint32_t count;
};
/* Writes the first of the ranges, as many as fit: *written of them. Returns the bytes. */
uint32_t an_gaps_encode(const struct an_gap *gaps, uint32_t count, uint8_t *out, uint32_t room,
			uint32_t *written);
/* How many ranges there are; -1 where it is not a GAPS tag to the bit. */
int an_gaps_decode(const uint8_t *plain, uint32_t len, struct an_gap *gaps);

/* Deterministic CBOR within bounds (cbor.c). Returns enum an_cbor_fault. */
enum an_cbor_fault {
	AN_CBOR_FINE = 0,
	AN_CBOR_SHORT,      /* it ends early */
	AN_CBOR_TRAILING,   /* bytes after the end */
	AN_CBOR_TAG,        /* a CBOR tag */
	AN_CBOR_INDEFINITE, /* an indefinite length */
	AN_CBOR_SIMPLE,     /* a simple value other than false, true and null */
	AN_CBOR_LONG_FORM,  /* a number, a length or a float that has a shorter form */
	AN_CBOR_UTF8,       /* text that is not UTF-8 */
	AN_CBOR_KEY_KIND,   /* a key that is not text */
	AN_CBOR_UNSORTED,   /* a key out of order */
	AN_CBOR_KEY_TWICE,
	AN_CBOR_DEPTH, /* deeper than max_depth, or than AN_CBOR_DEPTH_MAX */
	AN_CBOR_ITEMS, /* more than max_items */
};
#define AN_CBOR_DEPTH_MAX 16
int an_cbor_check(const uint8_t *buf, size_t len, uint32_t max_depth, uint32_t max_items);
/* The same, but that a map which is the value of one key of the outermost map has unsigned numbers
 * for keys: `numbered` is that key as it is encoded. */
int an_cbor_check_numbered(const uint8_t *buf, size_t len, uint32_t max_depth, uint32_t max_items,
			   const uint8_t *numbered, size_t numbered_len);
/* Where the entries of a map lie that has been checked: for each, three offsets: of the key's text,
 * of its end, where the value begins, and of the value's end. Returns how many there are, or -1:
 * it is no map, or has more than max_pairs. */
int an_cbor_split(const uint8_t *buf, size_t len, uint32_t *spans, uint32_t max_pairs);

/* python: end */

#endif /* AN_NATIVE_H */
