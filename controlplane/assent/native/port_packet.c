// SPDX-License-Identifier: Apache-2.0
/*
 * AF_PACKET port, where AF_XDP is not to be had. A classic BPF filter leaves only this flow's
 * frames for this cell. The receive buffer is made large enough for a whole replay window: frames
 * that the gate has admitted must not be lost behind it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "assent/wire.h"
#include "port.h"

#define RX_BUFFER (32 << 20)

struct port_packet {
	struct an_port port;
	unsigned int tx_count;
	struct mmsghdr rx_messages[AN_BURST];
	struct mmsghdr tx_messages[AN_BURST];
	struct iovec rx_vectors[AN_BURST];
	struct iovec tx_vectors[AN_BURST];
	uint8_t rx_frames[AN_BURST][AN_FRAME_MAX];
	uint8_t tx_frames[AN_BURST][AN_FRAME_MAX];
};

static unsigned int packet_rx(struct an_port *port, struct an_view *views, unsigned int max)
{
	struct port_packet *p = (struct port_packet *)port;
	int n =
	    recvmmsg(port->fd, p->rx_messages, max < AN_BURST ? max : AN_BURST, MSG_DONTWAIT, NULL);

	for (int i = 0; i < n; i++) {
		views[i].data = p->rx_frames[i];
		views[i].len = p->rx_messages[i].msg_len;
	}
	return n > 0 ? (unsigned int)n : 0;
}

static void packet_rx_done(struct an_port *port, unsigned int count)
{
}

static void packet_flush(struct an_port *port)
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
}

static uint8_t *packet_tx_buffer(struct an_port *port)
{
	struct port_packet *p = (struct port_packet *)port;

	if (p->tx_count == AN_BURST)
		packet_flush(port);
	return p->tx_frames[p->tx_count];
}

static void packet_tx_push(struct an_port *port, uint8_t *buffer, uint32_t len)
{
	struct port_packet *p = (struct port_packet *)port;

	p->tx_vectors[p->tx_count++].iov_len = len;
}

static void packet_close(struct an_port *port)
{
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
    .close = packet_close,
};

/* Accept frames whose destination cell and flow are ours; the kernel passes over all others. */
static int set_filter(int fd, uint16_t flow, const uint8_t cell[16])
{
	const unsigned int dst = ASSENT_ETH_LEN + ASSENT_CELLID_LEN;
	uint32_t word[4];
	struct sock_filter code[] = {
	    BPF_STMT(BPF_LD | BPF_H | BPF_ABS, ASSENT_ETH_LEN + 40),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, flow, 0, 9),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, dst),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 7),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, dst + 4),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 5),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, dst + 8),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
	    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, dst + 12),
	    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
	    BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
	    BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	memcpy(word, cell, sizeof(word));
	for (int i = 0; i < 4; i++)
		code[3 + 2 * i].k = ntohl(word[i]);
	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program));
}

static int setup(struct port_packet *p, const char *interface, uint16_t flow,
		 const uint8_t cell[16], const char **step)
{
	struct sockaddr_ll address = {
	    .sll_family = AF_PACKET,
	    .sll_protocol = htons(ASSENT_ETHERTYPE),
	};
	const int size = RX_BUFFER;
	const int on = 1;

	*step = "finding the interface";
	address.sll_ifindex = (int)if_nametoindex(interface);
	if (!address.sll_ifindex)
		return -errno;
	/* Protocol 0 until bound: nothing is queued before the filter stands. */
	*step = "opening the socket";
	p->port.fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (p->port.fd < 0)
		return -errno;
	*step = "setting up the socket";
	if (set_filter(p->port.fd, flow, cell) ||
	    setsockopt(p->port.fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) ||
	    setsockopt(p->port.fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)))
		return -errno;
	*step = "binding the socket";
	return bind(p->port.fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
}

struct an_port *an_port_open_packet(const char *interface, uint16_t flow,
				    const uint8_t local_cell[16], char *error, size_t error_len)
{
	struct port_packet *p = calloc(1, sizeof(*p));
	const char *step = "allocating";
	int err = p ? 0 : -ENOMEM;

	if (p) {
		p->port.ops = &packet_ops;
		p->port.fd = -1;
		for (int i = 0; i < AN_BURST; i++) {
			p->rx_vectors[i] = (struct iovec){p->rx_frames[i], AN_FRAME_MAX};
			p->tx_vectors[i] = (struct iovec){p->tx_frames[i], 0};
			p->rx_messages[i].msg_hdr.msg_iov = &p->rx_vectors[i];
			p->rx_messages[i].msg_hdr.msg_iovlen = 1;
			p->tx_messages[i].msg_hdr.msg_iov = &p->tx_vectors[i];
			p->tx_messages[i].msg_hdr.msg_iovlen = 1;
		}
		err = setup(p, interface, flow, local_cell, &step);
	}
	if (err) {
		snprintf(error, error_len, "AF_PACKET on %s: %s: %s", interface, step,
			 strerror(-err));
		if (p)
			packet_close(&p->port);
		return NULL;
	}
	return &p->port;
}
