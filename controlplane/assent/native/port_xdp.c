// SPDX-License-Identifier: Apache-2.0
/*
 * AF_XDP port. One UMEM serves both directions: its first half belongs to the fill and receive
 * rings, its second half to transmission.
 *
 * The receive half holds more frames than a replay window has numbers, and every frame is given
 * back as soon as the engine has copied it. So a sender that keeps to its window can never find the
 * ring full: what the gate has admitted is never lost here.
 */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <xdp/xsk.h>

#include "port.h"

#define FRAME_SIZE XSK_UMEM__DEFAULT_FRAME_SIZE
#define RX_FRAMES 4096
#define TX_FRAMES 2048
#define AREA_SIZE ((size_t)(RX_FRAMES + TX_FRAMES) * FRAME_SIZE)

struct port_xdp {
	struct an_port port;
	struct xsk_umem *umem;
	struct xsk_socket *socket;
	struct xsk_ring_prod fill;
	struct xsk_ring_cons completion;
	struct xsk_ring_cons rx;
	struct xsk_ring_prod tx;
	uint8_t *area;
	uint32_t rx_index;
	uint32_t tx_pending; /* pushed, not yet completed */
	uint32_t tx_free_count;
	uint64_t tx_free[TX_FRAMES];
	uint32_t queue;
	int sockets_map;
};

static unsigned int xdp_rx(struct an_port *port, struct an_view *views, unsigned int max)
{
	struct port_xdp *p = (struct port_xdp *)port;
	unsigned int n = xsk_ring_cons__peek(&p->rx, max, &p->rx_index);

	for (unsigned int i = 0; i < n; i++) {
		const struct xdp_desc *desc = xsk_ring_cons__rx_desc(&p->rx, p->rx_index + i);

		views[i].data = p->area + desc->addr;
		views[i].len = desc->len;
	}
	return n;
}

static void xdp_rx_done(struct an_port *port, unsigned int count)
{
	struct port_xdp *p = (struct port_xdp *)port;
	uint32_t fill_index;

	/* The fill ring has a place for every receive frame, so this reservation cannot fail. */
	if (count && xsk_ring_prod__reserve(&p->fill, count, &fill_index) == count) {
		for (unsigned int i = 0; i < count; i++) {
			uint64_t addr = xsk_ring_cons__rx_desc(&p->rx, p->rx_index + i)->addr;

			*xsk_ring_prod__fill_addr(&p->fill, fill_index + i) =
			    addr & ~(uint64_t)(FRAME_SIZE - 1);
		}
		xsk_ring_prod__submit(&p->fill, count);
	}
	xsk_ring_cons__release(&p->rx, count);
	if (xsk_ring_prod__needs_wakeup(&p->fill))
		recvfrom(p->port.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static void reap_completions(struct port_xdp *p)
{
	uint32_t index;
	unsigned int n = xsk_ring_cons__peek(&p->completion, TX_FRAMES, &index);

	for (unsigned int i = 0; i < n; i++)
		p->tx_free[p->tx_free_count++] =
		    *xsk_ring_cons__comp_addr(&p->completion, index + i);
	xsk_ring_cons__release(&p->completion, n);
	p->tx_pending -= n;
}

static uint8_t *xdp_tx_buffer(struct an_port *port)
{
	struct port_xdp *p = (struct port_xdp *)port;

	if (!p->tx_free_count)
		reap_completions(p);
	return p->tx_free_count ? p->area + p->tx_free[p->tx_free_count - 1] : NULL;
}

static void xdp_tx_push(struct an_port *port, uint8_t *buffer, uint32_t len)
{
	struct port_xdp *p = (struct port_xdp *)port;
	struct xdp_desc *desc;
	uint32_t index;

	/* The ring is as long as there are transmit frames: a lent buffer always has its place. */
	if (xsk_ring_prod__reserve(&p->tx, 1, &index) != 1)
		return;
	p->tx_free_count--;
	p->tx_pending++;
	desc = xsk_ring_prod__tx_desc(&p->tx, index);
	desc->addr = (uint64_t)(buffer - p->area);
	desc->len = len;
	desc->options = 0;
	xsk_ring_prod__submit(&p->tx, 1);
}

static void xdp_flush(struct an_port *port)
{
	struct port_xdp *p = (struct port_xdp *)port;

	reap_completions(p);
	/* Copy mode sends a bounded number of frames per call. */
	for (int i = 0; i < 64 && p->tx_pending && xsk_ring_prod__needs_wakeup(&p->tx); i++) {
		if (sendto(p->port.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN &&
		    errno != EBUSY && errno != ENOBUFS)
			break;
		reap_completions(p);
	}
}

static void xdp_close(struct an_port *port)
{
	struct port_xdp *p = (struct port_xdp *)port;

	if (p->socket) {
		bpf_map_delete_elem(p->sockets_map, &p->queue);
		xsk_socket__delete(p->socket);
	}
	if (p->umem)
		xsk_umem__delete(p->umem);
	if (p->area)
		munmap(p->area, AREA_SIZE);
	free(p);
}

static const struct an_port_ops xdp_ops = {
    .rx = xdp_rx,
    .rx_done = xdp_rx_done,
    .tx_buffer = xdp_tx_buffer,
    .tx_push = xdp_tx_push,
    .flush = xdp_flush,
    .close = xdp_close,
};

static int setup(struct port_xdp *p, const char *interface, const char **step)
{
	const struct xsk_umem_config umem_config = {
	    .fill_size = RX_FRAMES,
	    .comp_size = TX_FRAMES,
	    .frame_size = FRAME_SIZE,
	    .frame_headroom = 0,
	};
	const struct xsk_socket_config socket_config = {
	    .rx_size = RX_FRAMES,
	    .tx_size = TX_FRAMES,
	    .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
	    .xdp_flags = XDP_FLAGS_DRV_MODE,
	    .bind_flags = XDP_USE_NEED_WAKEUP,
	};
	uint32_t index;
	int err;

	*step = "reserving memory";
	p->area = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p->area == MAP_FAILED) {
		p->area = NULL;
		return -errno;
	}
	*step = "registering memory";
	err =
	    xsk_umem__create(&p->umem, p->area, AREA_SIZE, &p->fill, &p->completion, &umem_config);
	if (err)
		return err;
	*step = "binding the socket";
	err = xsk_socket__create(&p->socket, interface, p->queue, p->umem, &p->rx, &p->tx,
				 &socket_config);
	if (err) {
		p->socket = NULL;
		return err;
	}
	p->port.fd = xsk_socket__fd(p->socket);

	*step = "filling the receive ring";
	if (xsk_ring_prod__reserve(&p->fill, RX_FRAMES, &index) != RX_FRAMES)
		return -ENOSPC;
	for (uint32_t i = 0; i < RX_FRAMES; i++)
		*xsk_ring_prod__fill_addr(&p->fill, index + i) = (uint64_t)i * FRAME_SIZE;
	xsk_ring_prod__submit(&p->fill, RX_FRAMES);
	for (uint32_t i = 0; i < TX_FRAMES; i++)
		p->tx_free[i] = (uint64_t)(RX_FRAMES + i) * FRAME_SIZE;
	p->tx_free_count = TX_FRAMES;

	*step = "entering the gate's table of sockets";
	return xsk_socket__update_xskmap(p->socket, p->sockets_map);
}

struct an_port *an_port_open_xdp(const char *interface, uint32_t queue, int sockets_map,
				 char *error, size_t error_len)
{
	struct port_xdp *p = calloc(1, sizeof(*p));
	const char *step = "allocating";
	int err = p ? 0 : -ENOMEM;

	if (p) {
		p->port.ops = &xdp_ops;
		p->port.fd = -1;
		p->queue = queue;
		p->sockets_map = sockets_map;
		err = setup(p, interface, &step);
	}
	if (err) {
		snprintf(error, error_len, "AF_XDP on %s, queue %u: %s: %s", interface, queue, step,
			 strerror(-err));
		if (p)
			xdp_close(&p->port);
		return NULL;
	}
	return &p->port;
}
