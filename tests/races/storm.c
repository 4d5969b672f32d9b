// SPDX-License-Identifier: Apache-2.0
/*
 * Genuine and hostile frames into one end of a cable, as fast as they come out of the other.
 *
 *     storm NETNS IFNAME NETNS IFNAME REMOTE LOCAL STRANGER KEY CLOCK_OFFSET
 *
 * The first namespace and interface send, the second ones listen behind the gate. Cells and key in
 * hexadecimal; the clock offset is the sender's clock minus the monotonic one, ns. Flow 1 of the
 * session must have credit, flow 2 none, and flow 3 must not exist. Numbers begin at 1.
 *
 * Goes on until stdin ends. Then prints one line for each kind of frame, with how many were sent,
 * and what came of those that should have come through:
 *
 *     lost     sent, and never seen behind the gate
 *     wrong    seen there, though not sent, not to be admitted, or not in its turn
 *     missed   frames that the listening socket had no room for: then the figures mean nothing
 *
 * No more than a few batches are under way at a time, so nothing on the cable is ever full.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "assent/tag.h"

#define BATCH 32
#define UNDER_WAY 96     /* frames; a veth's ring has room for 256 */
#define PATIENCE_MS 5000 /* after this much silence, what is awaited is lost */
#define ROOM (8 << 20)
#define FOREIGN 0x88B6 /* the other EtherType for local experiments: not ours */
#define REPLAY_DISTANCE 300

/* What a frame is; also the name of the verdict that it must meet. `foreign` meets none. */
#define KINDS(X)                                                                                   \
	X(admitted)                                                                                \
	X(foreign)                                                                                 \
	X(bad_tag)                                                                                 \
	X(replay)                                                                                  \
	X(unknown_source)                                                                          \
	X(unknown_flow)                                                                            \
	X(no_credit)                                                                               \
	X(malformed_flags)                                                                         \
	X(malformed_length)                                                                        \
	X(bare_frame)                                                                              \
	X(clock_skew)

enum kind {
#define X(name) KIND_##name,
	KINDS(X)
#undef X
	    KIND_COUNT
};

static const char *const names[] = {
#define X(name) #name,
    KINDS(X)
#undef X
};

struct frame {
	__u8 pad[2]; /* so that the header is aligned */
	struct ethhdr eth;
	struct assent_header header;
	struct {
		__u64 ordinal;
		__u64 kind;
		__u8 rest[48];
	} payload;
} __attribute__((packed, aligned(8)));

#define FRAME_LEN (sizeof(struct frame) - 2)

struct storm {
	int out, in;
	struct assent_pair pair;
	struct assent_cellid stranger;
	__u64 key[2];
	struct assent_sip state;
	__u64 clock_offset;
	__u64 random;
	__u32 seq;
	__u64 ordinal;
	__u64 sent[KIND_COUNT];
	/* ordinals that must come out, in order: a ring */
	__u64 awaited[2 * UNDER_WAY];
	__u64 first, last;
	__u64 received, lost, wrong, missed;
};

static void die(const char *what)
{
	fprintf(stderr, "storm: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void from_hex(const char *text, void *to, size_t len)
{
	__u8 *bytes = to;

	for (size_t i = 0; i < len; i++) {
		unsigned int byte;

		if (sscanf(text + 2 * i, "%2x", &byte) != 1) {
			fprintf(stderr, "storm: %s is not hexadecimal\n", text);
			exit(2);
		}
		bytes[i] = (__u8)byte;
	}
}

static int packet_socket(const char *netns, const char *ifname, int protocol)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol)};
	int ns = open(netns, O_RDONLY | O_CLOEXEC), fd, room = ROOM;

	if (ns < 0 || setns(ns, CLONE_NEWNET))
		die(netns);
	close(ns);
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	to.sll_ifindex = (int)if_nametoindex(ifname);
	if (fd < 0 || !to.sll_ifindex ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) ||
	    bind(fd, (struct sockaddr *)&to, sizeof(to)))
		die(ifname);
	return fd;
}

static __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

static enum kind pick(struct storm *s)
{
	s->random = s->random * 6364136223846793005ULL + 1442695040888963407ULL;
	/* Half of them genuine. */
	return s->random >> 63 ? KIND_admitted : (enum kind)((s->random >> 33) % KIND_COUNT);
}

/* Writes a frame of that kind; returns how many bytes of it go out. */
static size_t make(struct storm *s, struct frame *frame, enum kind kind)
{
	struct assent_header *h = &frame->header;
	struct assent_sip state = s->state;
	size_t len = FRAME_LEN;

	memset(frame, 0, sizeof(*frame));
	memset(frame->eth.h_dest, 0xff, ETH_ALEN); /* whatever the interface's address */
	frame->eth.h_source[0] = 2;
	frame->eth.h_proto = htons(kind == KIND_foreign ? FOREIGN : ASSENT_ETHERTYPE);
	frame->payload.ordinal = ++s->ordinal;
	frame->payload.kind = kind;
	h->pair = s->pair;
	h->flags = assent_be16(ASSENT_FLAG_DATA | ASSENT_FLAG_BLOCK);
	h->payload_len = assent_be16(sizeof(frame->payload));
	h->flow = assent_be16(1);
	h->timestamp = assent_be64(now() + s->clock_offset);
	/* The number that comes next: where the frame is refused, it is still to come. */
	h->seq = assent_be32(s->seq + 1);
	switch (kind) {
	case KIND_admitted:
		s->seq++;
		break;
	case KIND_replay:
		/* Of this session, or of before its first frame. */
		h->seq = assent_be32(s->seq > REPLAY_DISTANCE ? s->seq - REPLAY_DISTANCE : 0);
		break;
	case KIND_unknown_source:
		h->pair.src = s->stranger;
		state = assent_pair_state(s->key[0], s->key[1], h);
		break;
	case KIND_unknown_flow:
		h->flow = assent_be16(3);
		break;
	case KIND_no_credit:
		h->flow = assent_be16(2);
		break;
	case KIND_malformed_flags:
		h->flags |= assent_be16(0x0200);
		break;
	case KIND_malformed_length:
		len -= 16;
		break;
	case KIND_bare_frame:
		h->flags = assent_be16(ASSENT_FLAG_DATA);
		break;
	case KIND_clock_skew:
		h->timestamp = assent_be64(now() + s->clock_offset - 3600 * 1000000000ULL);
		break;
	default:
		break;
	}
	h->tag = assent_le64(assent_header_tag(&state, h));
	if (kind == KIND_bad_tag)
		h->tag ^= 1;
	return len;
}

static void await(struct storm *s, __u64 ordinal)
{
	s->awaited[s->last++ % (2 * UNDER_WAY)] = ordinal;
}

/* A frame came out. Those before it that are still awaited never will: the cable keeps order. */
static void take(struct storm *s, const struct frame *frame)
{
	__u16 type = ntohs(frame->eth.h_proto);
	__u64 ordinal = frame->payload.ordinal;

	if (type != ASSENT_ETHERTYPE && type != FOREIGN)
		return; /* the kernel's own */
	for (__u64 at = s->first; at < s->last; at++) {
		if (s->awaited[at % (2 * UNDER_WAY)] == ordinal) {
			s->lost += at - s->first;
			s->first = at + 1;
			s->received++;
			return;
		}
	}
	s->wrong++;
}

/* Takes in what has come out. */
static void receive(struct storm *s)
{
	static struct frame frames[BATCH];
	struct mmsghdr messages[BATCH];
	struct iovec places[BATCH];
	int count;

	for (;;) {
		memset(messages, 0, sizeof(messages));
		for (int i = 0; i < BATCH; i++) {
			places[i] = (struct iovec){&frames[i].eth, FRAME_LEN};
			messages[i].msg_hdr =
			    (struct msghdr){.msg_iov = &places[i], .msg_iovlen = 1};
		}
		count = recvmmsg(s->in, messages, BATCH, MSG_DONTWAIT, NULL);
		if (count < 0 && errno != EAGAIN)
			die("receiving");
		for (int i = 0; i < count; i++)
			take(s, &frames[i]);
		if (count < BATCH)
			return;
	}
}

/* Waits until no more than `allowed` frames are awaited. */
static void settle(struct storm *s, __u64 allowed)
{
	struct pollfd ready = {.fd = s->in, .events = POLLIN};

	receive(s);
	while (s->last - s->first > allowed) {
		if (poll(&ready, 1, PATIENCE_MS) == 0) {
			s->lost += s->last - s->first;
			s->first = s->last;
			return;
		}
		receive(s);
	}
}

static void blow(struct storm *s)
{
	static struct frame frames[BATCH];
	struct mmsghdr messages[BATCH] = {};
	struct iovec places[BATCH];
	int done = 0;

	for (int i = 0; i < BATCH; i++) {
		/* The last one comes out, and says that all before it are through. */
		enum kind kind = i == BATCH - 1 ? KIND_admitted : pick(s);

		places[i] = (struct iovec){&frames[i].eth, make(s, &frames[i], kind)};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &places[i], .msg_iovlen = 1};
		s->sent[kind]++;
		if (kind == KIND_admitted || kind == KIND_foreign)
			await(s, s->ordinal);
	}
	while (done < BATCH) {
		int count = sendmmsg(s->out, messages + done, (unsigned int)(BATCH - done), 0);

		if (count < 0)
			die("sending");
		done += count;
	}
}

static int is_over(void)
{
	char byte;

	return read(STDIN_FILENO, &byte, 1) == 0;
}

int main(int argc, char **argv)
{
	static struct storm s;
	struct assent_header h = {};
	struct tpacket_stats stats;
	socklen_t len = sizeof(stats);

	if (argc != 10) {
		fprintf(stderr, "storm: nine arguments are needed, see its source\n");
		return 2;
	}
	s.out = packet_socket(argv[1], argv[2], 0);
	s.in = packet_socket(argv[3], argv[4], ETH_P_ALL);
	from_hex(argv[5], &s.pair.src, sizeof(s.pair.src));
	from_hex(argv[6], &s.pair.dst, sizeof(s.pair.dst));
	from_hex(argv[7], &s.stranger, sizeof(s.stranger));
	from_hex(argv[8], s.key, sizeof(s.key));
	s.clock_offset = strtoull(argv[9], NULL, 0);
	h.pair = s.pair;
	s.key[0] = assent_le64(s.key[0]);
	s.key[1] = assent_le64(s.key[1]);
	s.state = assent_pair_state(s.key[0], s.key[1], &h);
	s.random = 1;
	if (fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK))
		die("stdin");

	while (!is_over()) {
		blow(&s);
		settle(&s, UNDER_WAY - 2 * BATCH);
	}
	settle(&s, 0);
	if (getsockopt(s.in, SOL_PACKET, PACKET_STATISTICS, &stats, &len))
		die("asking about the listener");
	for (int i = 0; i < KIND_COUNT; i++)
		printf("%s %llu\n", names[i], (unsigned long long)s.sent[i]);
	printf("received %llu\nlost %llu\nwrong %llu\nmissed %u\n", (unsigned long long)s.received,
	       (unsigned long long)s.lost, (unsigned long long)s.wrong, stats.tp_drops);
	return 0;
}
