/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python drives: an endpoint of one flow, moved in batches. No Python runs per packet.
 *
 * An endpoint is a flow engine (flow.h: order, repair, credit; knows no socket) joined to a port
 * (port.h: an AF_XDP or AF_PACKET socket; knows no flow). One thread at a time may use it. All
 * calls that can fail return a negative errno and leave a sentence in the `error` buffer.
 */
#ifndef AN_NATIVE_H
#define AN_NATIVE_H

#include <stddef.h>
#include <stdint.h>

/* python: begin */

enum an_backend { AN_BACKEND_AF_XDP = 1, AN_BACKEND_AF_PACKET = 2 };

/* Why an_endpoint_run returned. */
enum an_status {
	AN_RUNNING = 0,  /* time is up, more to do */
	AN_SENT = 1,     /* the source is sent and receipted to its last byte */
	AN_RECEIVED = 2, /* the sink is full */
	AN_FAILED = -1,  /* see the error buffer; the flow cannot go on */
};

struct an_endpoint_config {
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
	char interface[16];
	uint32_t queue;
	int sockets_map; /* fd of the `sockets` map; -1 = do not try AF_XDP */
	int backend;     /* enum an_backend, or 0: AF_XDP and, where that fails, AF_PACKET */
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
};

typedef struct an_endpoint an_endpoint;

an_endpoint *an_endpoint_open(const struct an_endpoint_config *config, char *error,
			      size_t error_len);
/* The backend in use, and why it is not AF_XDP ("" where it is). */
int an_endpoint_backend(const an_endpoint *endpoint);
const char *an_endpoint_fallback_reason(const an_endpoint *endpoint);
/* The bytes to send next; they must stay in place until AN_SENT. */
void an_endpoint_send(an_endpoint *endpoint, const uint8_t *source, uint64_t len);
/* Where arriving bytes go; filled in order. */
void an_endpoint_receive(an_endpoint *endpoint, uint8_t *sink, uint64_t len);
/* Moves frames for about `milliseconds`, or until there is something to report. */
int an_endpoint_run(an_endpoint *endpoint, int milliseconds, char *error, size_t error_len);
/* Answers probes for `milliseconds` after the last frame heard, so that the peer can finish too.
 * AN_SENT: that was it. AN_RUNNING: the peer's rate holds back what it waits for; call again. */
int an_endpoint_linger(an_endpoint *endpoint, int milliseconds, char *error, size_t error_len);
void an_endpoint_stats(const an_endpoint *endpoint, struct an_stats *stats);
void an_endpoint_close(an_endpoint *endpoint);

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
/* Where the entries of a map lie that has been checked: for each, three offsets: of the key's text,
 * of its end, where the value begins, and of the value's end. Returns how many there are, or -1:
 * it is no map, or has more than max_pairs. */
int an_cbor_split(const uint8_t *buf, size_t len, uint32_t *spans, uint32_t max_pairs);

/* python: end */

#endif /* AN_NATIVE_H */
