// SPDX-License-Identifier: Apache-2.0
/*
 * AF_PACKET port, where AF_XDP is not to be had: a ring of TPACKET_V3 for what arrives, sendmmsg
 * for what leaves.
 *
 * The kernel hands a block over when it is full, or a millisecond after its first frame. Blocks are
 * of one page, so that frames which come one by one, a block each, find as many places as a replay
 * window has numbers.
 *
 * What the gate sends to an AF_XDP socket never comes here; what it leaves to the kernel's stack
 * may be another process's. A classic BPF filter passes over that, and over control frames.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "assent/wire.h"
#include "port.h"

#define BLOCK_SIZE 4096
#define RETIRE_MS 1
#define SEND_BUFFER (8 << 20)

struct port_packet {
	struct an_port port;
	uint8_t *ring;
	uint32_t blocks;
	uint32_t block;  /* at which to go on */
	uint32_t offset; /* in it, of the next frame */
	uint32_t left;   /* frames in it not yet lent; 0 = it has not been looked at */
	uint32_t done;   /* blocks before it that were lent to their end */
	uint64_t dropped;
	unsigned int tx_count;
	struct mmsghdr tx_messages[AN_BURST];
	struct iovec tx_vectors[AN_BURST];
	/* Frames begin two bytes into their place: the fabric header is aligned. */
	uint8_t tx_frames[AN_BURST][AN_FRAME_MAX + 2 + 62] __attribute__((aligned(64)));
};

static struct tpacket_block_desc *block_at(const struct port_packet *p, uint32_t index)
{
	return (struct tpacket_block_desc *)(p->ring + (size_t)index * BLOCK_SIZE);
}

static int is_ours(const struct port_packet *p, uint32_t index)
{
	return __atomic_load_n(&block_at(p, index)->hdr.bh1.block_status, __ATOMIC_ACQUIRE) &
	       TP_STATUS_USER;
}

/* Looks at the current block's first frame. 0: the kernel still has the block. */
static int begin_block(struct port_packet *p)
{
	const struct tpacket_block_desc *block = block_at(p, p->block);

	/* All blocks may be lent: the first of them must come back before it is read again. */
	if (p->done == p->blocks || !is_ours(p, p->block))
		return 0;
	p->left = block->hdr.bh1.num_pkts;
	p->offset = block->hdr.bh1.offset_to_first_pkt;
	return 1;
}

static void end_block(struct port_packet *p)
{
	p->block = (p->block + 1) % p->blocks;
	p->done++;
}

static unsigned int packet_rx(struct an_port *port, struct an_view *views, unsigned int max)
{
	struct port_packet *p = (struct port_packet *)port;
	unsigned int n = 0;

	while (n < max && (p->left || begin_block(p))) {
		const uint8_t *at = (const uint8_t *)block_at(p, p->block) + p->offset;
		const struct tpacket3_hdr *head = (const struct tpacket3_hdr *)at;

		if (p->left) {
			views[n].data = at + head->tp_mac;
			views[n].len = head->tp_snaplen;
			n++;
			p->offset += head->tp_next_offset;
			p->left--;
		}
		if (!p->left)
			end_block(p);
	}
	return n;
}

static void packet_rx_done(struct an_port *port)
{
	struct port_packet *p = (struct port_packet *)port;

	for (; p->done; p->done--) {
		uint32_t index = (p->block + p->blocks - p->done) % p->blocks;

		__atomic_store_n(&block_at(p, index)->hdr.bh1.block_status, TP_STATUS_KERNEL,
				 __ATOMIC_RELEASE);
	}
}

static int packet_flush(struct an_port *port)
{
	struct port_packet *p = (struct port_packet *)port;
	unsigned int done = 0;

	while (done < p->tx_count) {
		int n = sendmmsg(port->fd, p->tx_messages + done, p->tx_count - done, 0);

		if (n > 0)
			done += (unsigned int)n;
		else if (n < 0 && errno == ENOBUFS)
			done++; /* dropped on its way out, by a full queue or by the gate: lost */
		else if (errno != EINTR && errno != EAGAIN)
			break;
	}
	p->tx_count = 0;
	return 0;
}

static uint8_t *packet_tx_buffer(struct an_port *port)
{
	struct port_packet *p = (struct port_packet *)port;

	if (p->tx_count == AN_BURST)
		packet_flush(port);
	return p->tx_vectors[p->tx_count].iov_base;
}

static void packet_tx_push(struct an_port *port, uint8_t *buffer, uint32_t len)
{
	struct port_packet *p = (struct port_packet *)port;

	p->tx_vectors[p->tx_count++].iov_len = len;
}

static int packet_pending(const struct an_port *port)
{
	const struct port_packet *p = (const struct port_packet *)port;
	uint32_t block = __atomic_load_n(&p->block, __ATOMIC_RELAXED);

	return __atomic_load_n(&p->left, __ATOMIC_RELAXED) || is_ours(p, block);
}

/* Asked of the socket, which knows its own namespace. */
static int packet_gone(struct an_port *port)
{
	struct ifreq request = {.ifr_ifindex = (int)port->ifindex};
	int err;
	socklen_t len = sizeof(err);

	/* A link that went down left an error behind, which would keep poll awake. */
	getsockopt(port->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	return ioctl(port->fd, SIOCGIFNAME, &request) && errno == ENODEV;
}

static uint64_t packet_dropped(struct an_port *port)
{
	struct port_packet *p = (struct port_packet *)port;
	struct tpacket_stats_v3 stats = {0};
	socklen_t len = sizeof(stats);

	/* Asking sets the kernel's count back. */
	if (!getsockopt(port->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &len))
		p->dropped += stats.tp_drops;
	return p->dropped;
}

static void packet_close(struct an_port *port)
{
	struct port_packet *p = (struct port_packet *)port;

	if (p->ring)
		munmap(p->ring, (size_t)p->blocks * BLOCK_SIZE);
	if (port->fd >= 0)
		close(port->fd);
	free(port);
}

static const struct an_port_ops packet_ops = {
    .rx = packet_rx,
    .rx_done = packet_rx_done,
    .tx_buffer = packet_tx_buffer,
    .tx_push = packet_tx_push,
    .flush = packet_flush,
    .pending = packet_pending,
    .gone = packet_gone,
    .dropped = packet_dropped,
    .close = packet_close,
};

/* -- filters -- */

#define AT_FLOW (ASSENT_ETH_LEN + 40)
#define AT_DST (ASSENT_ETH_LEN + ASSENT_CELLID_LEN)
#define AT_SRC ASSENT_ETH_LEN
#define AT_ETHERTYPE 12

static uint32_t word_at(const uint8_t *bytes)
{
	uint32_t word;

	memcpy(&word, bytes, sizeof(word));
	return ntohl(word);
}

static int attach(int fd, struct sock_filter *code, unsigned short len)
{
	struct sock_fprog program = {len, code};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

static int attach_data_filter(int fd)
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, AT_FLOW),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
	    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
	    BPF_STMT(BPF_RET | BPF_K, 0),
	};

	return attach(fd, code, sizeof(code) / sizeof(code[0]));
}

/* The ends of CellIDs are as good as random: what slips through is passed over by the ring. */
int an_packet_choose(struct an_port *port, const struct an_choice *choices, uint32_t count)
{
	struct sock_filter code[AN_CHOICES * 7 + 1];
	uint32_t n = 0;

	if (port->backend != AN_BACKEND_AF_PACKET)
		return 0;
	if (count > AN_CHOICES)
		return attach_data_filter(port->fd);
	for (uint32_t i = 0; i < count; i++) {
		const struct sock_filter one[] = {
		    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, AT_FLOW),
		    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, choices[i].flow, 0, 5),
		    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_SRC + 12),
		    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word_at(choices[i].remote + 12), 0, 3),
		    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_DST + 12),
		    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word_at(choices[i].local + 12), 0, 1),
		    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		};
		memcpy(code + n, one, sizeof(one));
		n += sizeof(one) / sizeof(one[0]);
	}
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0);
	return attach(port->fd, code, (unsigned short)n);
}

/* The type is asked for as well: whoever has the socket may bind it to another one. */
int an_packet_confine(int fd, const uint8_t cell[16])
{
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, AT_ETHERTYPE),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ASSENT_ETHERTYPE, 0, 11),
	    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, AT_FLOW),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 9, 0),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_DST),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word_at(cell), 0, 7),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_DST + 4),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word_at(cell + 4), 0, 5),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_DST + 8),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word_at(cell + 8), 0, 3),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, AT_DST + 12),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word_at(cell + 12), 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
	    BPF_STMT(BPF_RET | BPF_K, 0),
	};
	const int on = 1;
	int err = attach(fd, code, sizeof(code) / sizeof(code[0]));

	if (err)
		return err;
	return setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &on, sizeof(on)) ? -errno : 0;
}

/* -- life -- */

static int set_up(int fd, const struct an_shape *shape)
{
	const struct tpacket_req3 request = {
	    .tp_block_size = BLOCK_SIZE,
	    .tp_block_nr = shape->rx_frames,
	    .tp_frame_size = BLOCK_SIZE,
	    .tp_frame_nr = shape->rx_frames,
	    .tp_retire_blk_tov = RETIRE_MS,
	};
	const int version = TPACKET_V3, on = 1, buffer = SEND_BUFFER;

	if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer)))
		return -errno;
	return attach_data_filter(fd);
}

int an_packet_socket(struct an_shape *shape, const char **step)
{
	const struct sockaddr_ll address = {
	    .sll_family = AF_PACKET,
	    .sll_protocol = htons(ASSENT_ETHERTYPE),
	    .sll_ifindex = (int)shape->ifindex,
	};
	int fd, err;

	/* Protocol 0 until bound: nothing is queued before the filter stands. */
	*step = "opening the socket";
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	*step = "setting up the socket";
	err = set_up(fd, shape);
	if (!err) {
		*step = "binding the socket";
		err = bind(fd, (const struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
	}
	if (!err)
		return fd;
	close(fd);
	return err;
}

/* The socket becomes the port's on success. */
static int use(struct port_packet *p, int fd, const struct an_shape *shape)
{
	void *ring = mmap(NULL, (size_t)shape->rx_frames * BLOCK_SIZE, PROT_READ | PROT_WRITE,
			  MAP_SHARED, fd, 0);

	if (ring == MAP_FAILED)
		return -errno;
	p->ring = ring;
	p->blocks = shape->rx_frames;
	p->port.fd = fd;
	for (int i = 0; i < AN_BURST; i++) {
		p->tx_vectors[i] = (struct iovec){p->tx_frames[i] + 2, 0};
		p->tx_messages[i].msg_hdr.msg_iov = &p->tx_vectors[i];
		p->tx_messages[i].msg_hdr.msg_iovlen = 1;
	}
	return 0;
}

static struct port_packet *new_port(const struct an_shape *shape)
{
	struct port_packet *p = aligned_alloc(64, (sizeof(*p) + 63) & ~(size_t)63);

	if (!p)
		return NULL;
	memset(p, 0, sizeof(*p));
	an_port_init(&p->port, &packet_ops, AN_BACKEND_AF_PACKET, shape);
	return p;
}

static struct an_port *finish(struct port_packet *p, int err, const char *interface,
			      const char *step, char *error, size_t error_len)
{
	if (!err)
		return &p->port;
	snprintf(error, error_len, "AF_PACKET on %.15s: %s: %s", interface, step, strerror(-err));
	if (p)
		packet_close(&p->port);
	return NULL;
}

struct an_port *an_port_open_packet(const struct an_ring_config *config, char *error,
				    size_t error_len)
{
	struct an_shape shape;
	struct port_packet *p = NULL;
	const char *step;
	int err = an_shape_init(&shape, config, AN_BACKEND_AF_PACKET, &step);
	int fd = -1;

	if (!err) {
		fd = an_packet_socket(&shape, &step);
		err = fd < 0 ? fd : 0;
	}
	if (!err) {
		step = "mapping the ring";
		p = new_port(&shape);
		err = p ? use(p, fd, &shape) : -ENOMEM;
		if (err)
			close(fd);
	}
	return finish(p, err, config->interface, step, error, error_len);
}

struct an_port *an_port_attach_packet(int fd, const struct an_shape *shape, char *error,
				      size_t error_len)
{
	struct port_packet *p = new_port(shape);
	int err = p ? use(p, fd, shape) : -ENOMEM;

	return finish(p, err, shape->interface, "mapping the ring", error, error_len);
}
