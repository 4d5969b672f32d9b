// SPDX-License-Identifier: Apache-2.0
#include "frames.h"

#include <linux/if_ether.h>
#include <string.h>

#include "assent/credit.h"
#include "assent/replay.h"
#include "assent/tag.h"
#include "frames_lwf.h"
#include "frames_random.h"

#define SECOND 1000000000ULL
#define MILLISECOND 1000000ULL
#define SKEW_LIMIT (3600 * SECOND)
#define FAR_AHEAD (1ULL << 50)
#define ACTION_EVERY 48 /* frames */
#define KEPT 64
#define VLAN_LEN 4

static uint64_t began;
static frames_push push;
static uint64_t made;
static struct frames_frame kept[KEPT];

/* -- who there is to speak for -- */

struct peer {
	const struct assent_pair *pair;
	struct assent_session *session;
};

static struct peer pick_peer(void)
{
	struct host_map *sessions = host_map_named("sessions");
	uint32_t index = below(host_map_count(sessions));

	return (struct peer){
	    .pair = (const struct assent_pair *)(sessions->keys +
						 (size_t)index * sessions->head.key_size),
	    .session = host_map_value(sessions, index),
	};
}

static uint32_t pick_flow(const struct peer *peer)
{
	uint32_t count = peer->session->flow_count;

	return count > 1 ? 1 + below(count - 1) : 0;
}

static struct assent_flow *flow_of(const struct peer *peer, uint32_t number)
{
	return host_map_value(host_map_named("flows"), peer->session->flow_base + number);
}

static void push_session(const struct peer *peer)
{
	push(host_map_named("sessions"), peer->pair, peer->session);
}

static void push_flow(const struct peer *peer, uint32_t number)
{
	uint32_t slot = peer->session->flow_base + number;

	push(host_map_named("flows"), &slot, flow_of(peer, number));
}

/* -- frames -- */

static struct assent_header *header_in(struct frames_frame *frame)
{
	return (struct assent_header *)(frame->data + ETH_HLEN);
}

/* Signed as it lies, wherever it lies. */
static void sign(struct frames_frame *frame, const struct assent_sip *state)
{
	struct assent_header h;

	memcpy(&h, header_in(frame), sizeof(h));
	h.tag = assent_le64(assent_header_tag(state, &h));
	memcpy(header_in(frame), &h, sizeof(h));
}

static void put(struct frames_frame *frame, const struct assent_header *h)
{
	static const uint8_t ethernet[ETH_HLEN] = {
	    2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, ASSENT_ETHERTYPE >> 8, ASSENT_ETHERTYPE & 0xff,
	};

	memcpy(frame->data, ethernet, sizeof(ethernet));
	memcpy(header_in(frame), h, sizeof(*h));
	frame->len = ETH_HLEN + sizeof(*h) + assent_padded_len(assent_be16(h->payload_len));
	if (frame->len > sizeof(frame->data))
		frame->len = ETH_HLEN + sizeof(*h);
}

static uint32_t some_payload_len(void)
{
	static const uint32_t edges[] = {0, 0, 1, 63, 64, 65, 127, 128, 129, 1344, 1407, 1408};

	return percent(70) ? PICK(edges) : below(1409);
}

static uint64_t some_timestamp(const struct peer *peer)
{
	uint64_t peers_time = began + (uint64_t)peer->session->clock_offset;

	if (percent(96))
		return peers_time + below(1000000000);
	if (percent(50))
		return peers_time + (percent(50) ? 3 * SKEW_LIMIT : -3 * SKEW_LIMIT);
	return random_u64();
}

static struct assent_header base_header(const struct peer *peer, uint32_t flow, uint32_t seq)
{
	static const uint16_t flags[] = {
	    ASSENT_FLAG_DATA,
	    ASSENT_FLAG_DATA,
	    ASSENT_FLAG_DATA,
	    ASSENT_FLAG_DATA,
	    ASSENT_FLAG_DATA,
	    ASSENT_FLAG_NACK,
	    ASSENT_FLAG_FIN,
	    ASSENT_FLAG_DATA | ASSENT_FLAG_LAMP,
	    0,
	};
	const struct assent_flow *line = flow_of(peer, flow);
	struct assent_header h = {.pair = *peer->pair};
	uint64_t units = line->tx_granted >> line->grant_shift;

	h.seq = assent_be32(seq);
	h.flags = assent_be16(PICK(flags) | ASSENT_FLAG_BLOCK);
	h.payload_len = assent_be16(some_payload_len());
	h.flow = assent_be16(flow);
	h.grant = assent_be16((uint16_t)(units + below(4)));
	h.nack_slot = (__u32)random_u64();
	h.timestamp = assent_be64(some_timestamp(peer));
	if (percent(5)) {
		static const uint16_t ahead[] = {0x7ffe, 0x7fff, 0x8000, 0x8001, 0xffff};

		h.grant = assent_be16((uint16_t)(units + PICK(ahead)));
	}
	return h;
}

static const struct assent_sip *session_state(const struct peer *peer)
{
	return peer->session->flags & ASSENT_SESSION_ALTERNATE && percent(20)
		   ? &peer->session->alternate
		   : &peer->session->current;
}

static void in_sequence(struct frames_frame *frame)
{
	struct peer peer = pick_peer();
	uint32_t flow = percent(95) ? pick_flow(&peer) : 0;
	uint32_t seq = flow_of(&peer, flow)->rx_highest + 1 + (percent(20) ? below(80) : 0);
	struct assent_header h = base_header(&peer, flow, seq);

	put(frame, &h);
	sign(frame, session_state(&peer));
}

static void at_the_windows_edge(struct frames_frame *frame)
{
	struct peer peer = pick_peer();
	uint32_t flow = percent(90) ? pick_flow(&peer) : 0;
	const struct assent_flow *line = flow_of(&peer, flow);
	const uint32_t middles[] = {
	    line->rx_highest,
	    line->rx_highest - line->replay_len,
	    line->rx_highest - below(line->replay_len + 1u),
	    line->rx_highest - (line->replay_mask + 1u) * ASSENT_REPLAY_CHUNK_BITS,
	    line->rx_highest + (line->replay_mask + 1u) * ASSENT_REPLAY_CHUNK_BITS,
	    line->rx_highest + 0x80000000u,
	    0,
	};
	struct assent_header h = base_header(&peer, flow, PICK(middles) + below(5) - 2);

	put(frame, &h);
	sign(frame, session_state(&peer));
}

static void control(struct frames_frame *frame)
{
	struct peer peer = pick_peer();
	uint32_t seq = flow_of(&peer, 0)->rx_highest + 1 + below(3);
	struct assent_header h = base_header(&peer, 0, seq);

	put(frame, &h);
	sign(frame, session_state(&peer));
}

static void handshake(struct frames_frame *frame)
{
	static const uint16_t kinds[] = {ASSENT_FLAG_SYN, ASSENT_FLAG_ACK,
					 ASSENT_FLAG_SYN | ASSENT_FLAG_ACK};
	static const int64_t steps[] = {-1, 0, 1, 1, 1, 2, 1000};
	struct peer peer = pick_peer();
	struct assent_header h = base_header(&peer, 0, below(3));

	h.flags = assent_be16(PICK(kinds) | ASSENT_FLAG_BLOCK);
	h.timestamp = assent_be64(peer.session->handshake_newest + (uint64_t)PICK(steps));
	put(frame, &h);
	sign(frame, percent(90) ? &peer.session->admission : &peer.session->current);
}

/* Genuine, on a flow that is not open as often as not: what an observed session lets pass. */
static void on_any_flow(struct frames_frame *frame)
{
	struct peer peer = pick_peer();
	struct assent_header h = base_header(&peer, pick_flow(&peer), 1);
	uint64_t newest = peer.session->observed_newest;

	h.flow = assent_be16(percent(50) ? 1 + below(9) : 0xFFFF - below(2));
	if (percent(50))
		h.timestamp = assent_be64((newest ? newest : began) + below(3) - 1);
	put(frame, &h);
	sign(frame, session_state(&peer));
}

/* Forty bytes, as Ethernet pads them, around the newest number. */
static void bare(struct frames_frame *frame)
{
	static const uint16_t flags[] = {ASSENT_FLAG_DATA, ASSENT_FLAG_SYN, 0, 0x20, 0x100};
	struct peer peer = pick_peer();
	uint32_t newest = (uint32_t)(peer.session->bare_seen >> 32) * 32;
	uint32_t payload_len = percent(50) ? below(10) : below(200);
	struct assent_header h = {.pair = *peer.pair};

	h.seq = assent_be32(newest + below(80) - 16);
	h.flags = assent_be16(percent(90) ? ASSENT_FLAG_DATA : PICK(flags));
	h.payload_len = assent_be16((uint16_t)payload_len);
	put(frame, &h);
	frame->len = ETH_HLEN + ASSENT_BARE_LEN + payload_len;
	if (frame->len < ETH_HLEN + ASSENT_ETH_LEAST_PAYLOAD)
		frame->len = ETH_HLEN + ASSENT_ETH_LEAST_PAYLOAD;
	memset(frame->data + ETH_HLEN + ASSENT_BARE_LEN, 0, payload_len + 6);
	if (percent(5))
		frame->len += below(4) - 1;
}

static void alter_field(struct frames_frame *frame)
{
	struct assent_header h;
	static const uint16_t lens[] = {0, 1, 64, 65, 1408, 1409, 0x7fff, 0xffc0, 0xffc1, 0xffff};
	struct peer other = pick_peer();

	memcpy(&h, header_in(frame), sizeof(h));
	switch (below(12)) {
	case 0:
		h.pair.src.bytes[below(ASSENT_CELLID_LEN)] ^= 1 << below(8);
		break;
	case 1:
		h.pair.dst.bytes[below(ASSENT_CELLID_LEN)] ^= 1 << below(8);
		break;
	case 2:
		h.pair = *other.pair;
		break;
	case 3:
		h.pair.src = h.pair.dst;
		break;
	case 4:
		h.seq = (__u32)random_u64();
		break;
	case 5:
		h.flags = (__u16)random_u64();
		break;
	case 6:
		h.flags ^= assent_be16(1 << below(16));
		break;
	case 7:
		h.payload_len = assent_be16(PICK(lens));
		break;
	case 8:
		h.flow = assent_be16(percent(50) ? below(9) : (__u32)random_u64());
		break;
	case 9:
		h.grant = (__u16)random_u64();
		break;
	case 10:
		h.timestamp = random_u64();
		break;
	default:
		h.tag = random_u64();
		break;
	}
	memcpy(header_in(frame), &h, sizeof(h));
}

static void alter_length(struct frames_frame *frame)
{
	uint32_t len = percent(50) ? ETH_HLEN + below(frame->len - ETH_HLEN + 1)
				   : frame->len + 1 + below(ASSENT_BLOCK_LEN + 1);

	if (len > frame->len && len <= sizeof(frame->data))
		memset(frame->data + frame->len, 0, len - frame->len);
	if (len <= sizeof(frame->data))
		frame->len = len;
}

/* One or two VLAN tags, whole or cut off. */
static void put_vlan(struct frames_frame *frame)
{
	static const uint16_t types[] = {ETH_P_8021Q, ETH_P_8021Q, ETH_P_8021AD, ETH_P_QINQ1};
	uint16_t type = PICK(types);
	uint16_t tci = (uint16_t)random_u64();

	if (frame->len + VLAN_LEN > sizeof(frame->data))
		return;
	memmove(frame->data + 12 + VLAN_LEN, frame->data + 12, frame->len - 12);
	frame->data[12] = type >> 8;
	frame->data[13] = type & 0xff;
	memcpy(frame->data + 14, &tci, sizeof(tci));
	frame->len += VLAN_LEN;
	if (percent(20))
		put_vlan(frame);
	else if (percent(20))
		frame->len = ETH_HLEN + below(2 * VLAN_LEN + 4);
}

static void altered(struct frames_frame *frame)
{
	struct peer peer = pick_peer();

	in_sequence(frame);
	switch (below(6)) {
	case 0:
		for (uint32_t i = 1 + below(4); i; i--)
			frame->data[below(frame->len)] ^= 1 << below(8);
		break;
	case 1:
		frame->data[ETH_HLEN + below(ASSENT_HEADER_LEN)] ^= 1 << below(8);
		break;
	case 2:
		alter_length(frame);
		break;
	case 3:
		alter_field(frame);
		break;
	case 4:
		alter_field(frame);
		sign(frame, percent(90) ? &peer.session->current : &peer.session->admission);
		break;
	default:
		put_vlan(frame);
		break;
	}
}

static void noise(struct frames_frame *frame)
{
	frame->len = ETH_HLEN + (percent(50) ? below(2 * ASSENT_HEADER_LEN) : below(1500));
	for (uint32_t at = 0; at < frame->len; at += 8) {
		uint64_t word = random_u64();

		memcpy(frame->data + at, &word, sizeof(word));
	}
	if (percent(80)) {
		frame->data[12] = ASSENT_ETHERTYPE >> 8;
		frame->data[13] = ASSENT_ETHERTYPE & 0xff;
	}
	if (percent(30))
		put_vlan(frame);
}

static void again(struct frames_frame *frame)
{
	*frame = kept[below(KEPT)];
	if (!frame->len)
		noise(frame);
}

/* -- changes of the maps -- */

/* As if the peer had sent up to `seq`, all of it or nothing but the last. */
static void walk(const struct peer *peer, uint32_t number, uint32_t seq, int all)
{
	struct host_map *replay = host_map_named("replay");
	struct assent_flow *line = flow_of(peer, number);
	uint32_t words = (line->replay_mask + 1u) * ASSENT_REPLAY_WORDS;
	uint32_t newest = seq / ASSENT_REPLAY_WORD_BITS;

	if (!line->replay_len)
		return;
	for (uint32_t age = 0; age < words; age++) {
		uint32_t generation = (newest - age) & (UINT32_MAX / ASSENT_REPLAY_WORD_BITS);
		uint32_t at = generation & (words - 1);
		struct assent_replay_chunk *chunk =
		    host_map_value(replay, line->replay_base + at / ASSENT_REPLAY_WORDS);
		uint64_t seen = all ? UINT32_MAX : 0;

		if (!age)
			seen = all ? (2ULL << seq % ASSENT_REPLAY_WORD_BITS) - 1
				   : 1ULL << seq % ASSENT_REPLAY_WORD_BITS;
		chunk->word[at % ASSENT_REPLAY_WORDS] = (uint64_t)generation << 32 | seen;
	}
	for (uint32_t i = 0; i <= line->replay_mask; i++) {
		uint32_t index = line->replay_base + i;

		push(replay, &index, host_map_value(replay, index));
	}
	line->rx_highest = seq;
	push_flow(peer, number);
}

static void walk_somewhere(const struct peer *peer, uint32_t number)
{
	static const uint32_t places[] = {
	    0, 1, 31, 2047, 2048, 5000, 0x7fffffff, 0x80000000, 0xfffff800, 0xffffffe0, 0xffffffff,
	};

	walk(peer, number, percent(80) ? PICK(places) + below(3) - 1 : (uint32_t)random_u64(),
	     percent(50));
}

/*
 * The rate limits as time does not touch them: arrival times far ahead of now, each frame an hour
 * more; `frames` of them are within the bound that ends 2^62 ns from now.
 */
static uint64_t due_after(uint32_t frames)
{
	const struct assent_config *config = host_map_value(host_map_named("config"), 0);

	return began + config->control_burst - frames * config->control_interval +
	       config->control_interval / 2;
}

/* The same of the lamp allowance, whose bound a frame's blocks must not pass. */
static uint64_t lamp_after(uint32_t blocks)
{
	const struct assent_config *config = host_map_value(host_map_named("config"), 0);

	return began + config->lamp_burst - blocks * config->lamp_interval -
	       config->lamp_interval / 2;
}

/* Everything as it should be, and plenty of it. */
static void make_good(const struct peer *peer)
{
	struct assent_session *session = peer->session;

	session->flags |= ASSENT_SESSION_COVENANTED;
	session->flags &= ~(__u32)(ASSENT_SESSION_QUARANTINED | ASSENT_SESSION_OBSERVED |
				   ASSENT_SESSION_TERMS | ASSENT_SESSION_LEASED);
	session->payload_max = 0;
	session->handshake_due = session->control_due = began + FAR_AHEAD;
	session->lamp_due = session->bare_due = began + FAR_AHEAD;
	if (session->handshake_newest > began + FAR_AHEAD)
		session->handshake_newest = began;
	push_session(peer);
	for (uint32_t number = 1; number < session->flow_count; number++) {
		struct assent_flow *line = flow_of(peer, number);

		line->rx_granted = line->rx_spent + 5000;
		line->rx_open = percent(50) ? ASSENT_TO_STACK : ASSENT_TO_RING;
		if (line->tx_granted >> 48)
			line->tx_granted = 50;
		push_flow(peer, number);
	}
}

static void change_flow(const struct peer *peer, uint32_t number)
{
	static const uint32_t credit[] = {0, 1, 1, 2, 3, 22, 23, 24, 25};
	static const uint16_t lens[] = {1, 31, 32, 33, 2017, 2018, 2048};
	struct assent_flow *line = flow_of(peer, number);

	switch (below(7)) {
	case 0:
	case 1:
		line->rx_granted = line->rx_spent + PICK(credit);
		break;
	case 2:
		line->rx_granted = percent(50) ? 0 : line->rx_spent - 1;
		break;
	case 3:
		line->rx_open = (__u16)below(ASSENT_TO_RING + 1);
		break;
	case 4:
		line->tx_granted = percent(50) ? random_u64() : below(0x20000);
		break;
	case 5:
		line->grant_shift = (__u8)below(17);
		break;
	default:
		/* Never more than the ring holds; replay.h builds on that. */
		if (line->replay_len && line->replay_mask)
			line->replay_len = PICK(lens);
		break;
	}
	push_flow(peer, number);
}

/* Windows that are open or closed for as long as a run lasts, and a rate that has some blocks left.
 */
static void change_terms(struct assent_session *session)
{
	static const uint32_t limits[] = {0, 0, 1, 64, 1000, 1407};
	const struct assent_config *config = host_map_value(host_map_named("config"), 0);

	session->flags |= ASSENT_SESSION_TERMS;
	session->data_interval = percent(50) ? config->lamp_interval : 0;
	session->data_burst = config->lamp_burst;
	session->data_due = lamp_after(below(30));
	session->open_from = percent(80) ? below(2) : began + FAR_AHEAD;
	session->open_until = percent(80) ? 0 : percent(50) ? 1 : began + FAR_AHEAD;
	session->payload_limit = PICK(limits);
}

/* Gives the lease of covenants, or takes it away. */
static void change_lease(void)
{
	struct host_map *map = host_map_named("config");
	struct assent_config *config = host_map_value(map, 0);
	uint32_t only = 0;

	config->lease_until = percent(50) ? began + FAR_AHEAD : below(2);
	push(map, &only, config);
}

static void change_session(const struct peer *peer)
{
	struct assent_session *session = peer->session;

	static const uint16_t sizes[] = {1, 63, 64, 1000, 1407};

	switch (below(14)) {
	case 10:
		change_terms(session);
		break;
	case 11:
		session->flags ^= ASSENT_SESSION_LEASED;
		change_lease();
		break;
	case 12:
	case 13:
		session->flags ^= ASSENT_SESSION_CONTROL;
		break;
	case 6:
		session->flags ^= ASSENT_SESSION_OBSERVED;
		break;
	case 7:
		session->flags ^= ASSENT_SESSION_BARE;
		break;
	case 8:
		session->payload_max = PICK(sizes);
		break;
	case 9:
		session->lamp_due = lamp_after(below(30));
		session->bare_due = due_after(below(6));
		break;
	case 0:
		session->flags ^= ASSENT_SESSION_COVENANTED;
		break;
	case 1:
		session->flags ^= ASSENT_SESSION_QUARANTINED;
		break;
	case 2:
		session->skew_limit = session->skew_limit ? 0 : SKEW_LIMIT / MILLISECOND;
		break;
	case 3:
		session->clock_offset = (__s64)random_u64() >> (1 + below(40));
		break;
	case 4:
		session->handshake_due = due_after(below(6));
		session->control_due = due_after(below(6));
		break;
	default:
		session->handshake_newest = percent(20) ? random_u64() : began;
		break;
	}
	push_session(peer);
}

static void change_something(void)
{
	struct peer peer = pick_peer();
	uint32_t number = pick_flow(&peer);

	switch (below(8)) {
	case 0:
	case 1:
		change_flow(&peer, number);
		break;
	case 2:
		change_session(&peer);
		break;
	case 3:
		walk_somewhere(&peer, percent(80) ? number : 0);
		break;
	default:
		make_good(&peer);
		break;
	}
}

/* -- the supply -- */

void frames_begin(uint64_t seed, uint64_t now, frames_push pushes)
{
	struct host_map *sessions = host_map_named("sessions");

	/* Any seed, 0 too, becomes a state that the generator can leave. */
	random_state = seed * 0x9e3779b97f4a7c15ULL + 0x632be59bd9b4e019ULL;
	began = now;
	push = pushes;
	made = 0;
	memset(kept, 0, sizeof(kept));
	for (uint32_t i = 0; i < host_map_count(sessions); i++) {
		struct peer peer = {
		    .pair = (const struct assent_pair *)(sessions->keys +
							 (size_t)i * sessions->head.key_size),
		    .session = host_map_value(sessions, i),
		};

		if (peer.session->skew_limit)
			peer.session->skew_limit = SKEW_LIMIT / MILLISECOND;
		make_good(&peer);
	}
	frames_lwf_begin(seed, now, pushes);
}

void frames_next(struct frames_frame *frame)
{
	uint32_t kind = below(100);

	if (++made % ACTION_EVERY == 0)
		change_something();
	if (kind < 40)
		in_sequence(frame);
	else if (kind < 43)
		on_any_flow(frame);
	else if (kind < 45)
		bare(frame);
	else if (kind < 60)
		at_the_windows_edge(frame);
	else if (kind < 80)
		altered(frame);
	else if (kind < 85)
		handshake(frame);
	else if (kind < 90)
		control(frame);
	else if (kind < 93)
		again(frame);
	else if (kind < 96)
		frames_lwf_next(frame);
	else
		noise(frame);
	kept[made % KEPT] = *frame;
}
