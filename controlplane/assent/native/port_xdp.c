// SPDX-License-Identifier: Apache-2.0
/*
 * AF_XDP port. One UMEM serves both directions, and all flows of the ring: its first part belongs
 * to the fill and receive rings, the rest to transmission. Every received frame is given back as
 * soon as the engine has copied it.
 *
 * Whoever makes the socket registers the memory and sizes the rings (an_xdp_socket), and binds it
 * (an_xdp_bind); whoever uses it maps the rings. That is one process, which maps before it binds,
 * or a lender and a borrower.
 */
#include <errno.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <xdp/xsk.h>

#include "assent/tables.h"
#include "port.h"

/* Newer than the headers of some systems. */
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif
#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9
#endif

#define SEND_BUFFER (8 << 20)
/* Frames begin so far into their place that the fabric header, 14 bytes on, is aligned. */
#define TX_OFFSET 2
/* A queue that was just let go is free after the kernel's next grace period. */
#define BIND_TRIES 10
#define BIND_INTERVAL 10000000L /* ns */

struct port_xdp {
	struct an_port port;
	struct xsk_ring_prod fill;
	struct xsk_ring_cons completion;
	struct xsk_ring_cons rx;
	struct xsk_ring_prod tx;
	void *ring_maps[4];
	size_t ring_sizes[4];
	struct an_shape shape;
	uint8_t *area;
	uint32_t rx_index;
	uint32_t rx_taken;
	uint32_t tx_unsubmitted;
	uint32_t tx_pending; /* submitted, not yet completed */
	uint32_t tx_free_count;
	int is_gone;
	uint64_t *tx_free;
};

static unsigned int xdp_rx(struct an_port *port, struct an_view *views, unsigned int max)
{
	struct port_xdp *p = (struct port_xdp *)port;
	unsigned int n = xsk_ring_cons__peek(&p->rx, max, &p->rx_index);

	/* A call is what makes the kernel poll the device, or start it again. */
	if (!n && (p->port.busy_poll || xsk_ring_prod__needs_wakeup(&p->fill))) {
		recvfrom(p->port.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
		n = xsk_ring_cons__peek(&p->rx, max, &p->rx_index);
	}
	for (unsigned int i = 0; i < n; i++) {
		const struct xdp_desc *desc = xsk_ring_cons__rx_desc(&p->rx, p->rx_index + i);

		views[i].data = p->area + desc->addr;
		views[i].len = desc->len;
		__builtin_prefetch(views[i].data);
		__builtin_prefetch(views[i].data + 64);
	}
	p->rx_taken = n;
	return n;
}

static void xdp_rx_done(struct an_port *port)
{
	struct port_xdp *p = (struct port_xdp *)port;
	uint32_t count = p->rx_taken;
	uint32_t fill_index;

	/* The fill ring has a place for every receive frame, so this reservation cannot fail. */
	if (!count || xsk_ring_prod__reserve(&p->fill, count, &fill_index) != count)
		return;
	for (unsigned int i = 0; i < count; i++) {
		uint64_t addr = xsk_ring_cons__rx_desc(&p->rx, p->rx_index + i)->addr;

		*xsk_ring_prod__fill_addr(&p->fill, fill_index + i) =
		    addr & ~(uint64_t)(p->shape.frame_size - 1);
	}
	xsk_ring_prod__submit(&p->fill, count);
	xsk_ring_cons__release(&p->rx, count);
	p->rx_taken = 0;
	if (p->port.zero_copy && xsk_ring_prod__needs_wakeup(&p->fill))
		recvfrom(p->port.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static void reap_completions(struct port_xdp *p)
{
	uint32_t index;
	unsigned int n = xsk_ring_cons__peek(&p->completion, p->shape.tx_frames, &index);

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
	p->tx_unsubmitted++;
	desc = xsk_ring_prod__tx_desc(&p->tx, index);
	desc->addr = (uint64_t)(buffer - p->area);
	desc->len = len;
	desc->options = 0;
}

/* Frames that the kernel has not looked at yet. */
static uint32_t tx_waiting(const struct port_xdp *p)
{
	return p->tx.cached_prod - __atomic_load_n(p->tx.consumer, __ATOMIC_ACQUIRE);
}

static int xdp_flush(struct an_port *port)
{
	struct port_xdp *p = (struct port_xdp *)port;

	xsk_ring_prod__submit(&p->tx, p->tx_unsubmitted);
	p->tx_pending += p->tx_unsubmitted;
	p->tx_unsubmitted = 0;
	/* Copy mode sends a bounded number of frames per call. */
	for (int i = 0; i < 64 && tx_waiting(p) && xsk_ring_prod__needs_wakeup(&p->tx); i++) {
		if (sendto(p->port.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN &&
		    errno != EBUSY && errno != ENOBUFS)
			break;
		reap_completions(p);
	}
	return tx_waiting(p) && xsk_ring_prod__needs_wakeup(&p->tx);
}

static int xdp_pending(const struct an_port *port)
{
	const struct port_xdp *p = (const struct port_xdp *)port;

	/* What the kernel has produced and nobody has taken: no state of ours is touched. */
	return __atomic_load_n(p->rx.producer, __ATOMIC_ACQUIRE) !=
	       __atomic_load_n(p->rx.consumer, __ATOMIC_RELAXED);
}

/* The kernel says so once, and poll never does. */
static int xdp_gone(struct an_port *port)
{
	struct port_xdp *p = (struct port_xdp *)port;
	int err = 0;
	socklen_t len = sizeof(err);

	if (!getsockopt(port->fd, SOL_SOCKET, SO_ERROR, &err, &len) && err == ENETDOWN)
		p->is_gone = 1;
	return p->is_gone;
}

static uint64_t xdp_dropped(struct an_port *port)
{
	struct xdp_statistics s = {0};
	socklen_t len = sizeof(s);

	if (getsockopt(port->fd, SOL_XDP, XDP_STATISTICS, &s, &len))
		return 0;
	return s.rx_dropped + s.rx_ring_full;
}

static void xdp_close(struct an_port *port)
{
	struct port_xdp *p = (struct port_xdp *)port;

	for (int i = 0; i < 4; i++) {
		if (p->ring_maps[i])
			munmap(p->ring_maps[i], p->ring_sizes[i]);
	}
	/* The kernel takes a socket that is gone out of the gate's table. */
	if (port->fd >= 0)
		close(port->fd);
	if (p->area)
		munmap(p->area, an_shape_size(&p->shape));
	free(p->tx_free);
	free(p);
}

static const struct an_port_ops xdp_ops = {
    .rx = xdp_rx,
    .rx_done = xdp_rx_done,
    .tx_buffer = xdp_tx_buffer,
    .tx_push = xdp_tx_push,
    .flush = xdp_flush,
    .pending = xdp_pending,
    .gone = xdp_gone,
    .dropped = xdp_dropped,
    .close = xdp_close,
};

/* -- making a socket -- */

size_t an_shape_size(const struct an_shape *shape)
{
	return ((size_t)shape->rx_frames + shape->tx_frames) * shape->frame_size;
}

static int set_option(int fd, int level, int option, uint32_t value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) ? -errno : 0;
}

static int set_rings(int fd, const struct an_shape *shape, void *area)
{
	const struct xdp_umem_reg umem = {
	    .addr = (uint64_t)(uintptr_t)area,
	    .len = an_shape_size(shape),
	    .chunk_size = shape->frame_size,
	};
	int err = setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) ? -errno : 0;

	if (!err)
		err = set_option(fd, SOL_XDP, XDP_UMEM_FILL_RING, shape->rx_frames);
	if (!err)
		err = set_option(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, shape->tx_frames);
	if (!err)
		err = set_option(fd, SOL_XDP, XDP_RX_RING, shape->rx_frames);
	if (!err)
		err = set_option(fd, SOL_XDP, XDP_TX_RING, shape->tx_frames);
	return err;
}

/* Zero copy where the driver has it, else copies. A queue has one socket. */
static int bind_queue(int fd, struct an_shape *shape, uint32_t queue)
{
	struct sockaddr_xdp address = {
	    .sxdp_family = AF_XDP,
	    .sxdp_ifindex = shape->ifindex,
	    .sxdp_queue_id = queue,
	};
	const struct timespec interval = {.tv_nsec = BIND_INTERVAL};
	int err = -EBUSY;

	for (int i = 0; i < BIND_TRIES && err == -EBUSY; i++) {
		if (i)
			nanosleep(&interval, NULL);
		address.sxdp_flags = XDP_USE_NEED_WAKEUP | XDP_ZEROCOPY;
		err = bind(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
		shape->zero_copy = !err;
		if (!err || err == -EBUSY)
			continue;
		address.sxdp_flags = XDP_USE_NEED_WAKEUP | XDP_COPY;
		err = bind(fd, (struct sockaddr *)&address, sizeof(address)) ? -errno : 0;
	}
	return err;
}

/* What makes it faster where the kernel knows it; nothing fails for want of these. */
static int tune(int fd, const struct an_ring_config *config, const struct an_shape *shape)
{
	const int buffer = SEND_BUFFER;

	set_option(fd, SOL_XDP, XDP_MAX_TX_SKB_BUDGET, shape->tx_frames / 4);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
	if (!config->busy_poll_us)
		return 0;
	return !set_option(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, 1) &&
	       !set_option(fd, SOL_SOCKET, SO_BUSY_POLL, config->busy_poll_us) &&
	       !set_option(fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, AN_BURST);
}

int an_xdp_socket(const struct an_shape *shape, void *area, const char **step)
{
	int fd, err;

	*step = "opening the socket";
	fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	*step = "registering memory";
	err = set_rings(fd, shape, area);
	if (!err)
		return fd;
	close(fd);
	return err;
}

int an_xdp_bind(int fd, const struct an_ring_config *config, struct an_shape *shape,
		const char **step)
{
	uint32_t slot = assent_socket_slot(shape->ifindex, config->queue);
	int err;

	*step = "binding the socket";
	tune(fd, config, shape);
	err = bind_queue(fd, shape, config->queue);
	if (err)
		return err;
	*step = "entering the gate's table of sockets";
	return bpf_map_update_elem(config->sockets_map, &slot, &fd, BPF_NOEXIST) ? -errno : 0;
}

/* -- using one -- */

static void *map_ring(struct port_xdp *p, int index, const struct xdp_ring_offset *offsets,
		      size_t entries_size, off_t at)
{
	void *map;

	p->ring_sizes[index] = offsets->desc + entries_size;
	map = mmap(NULL, p->ring_sizes[index], PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		   p->port.fd, at);
	if (map == MAP_FAILED)
		return NULL;
	p->ring_maps[index] = map;
	return map;
}

static int map_producer(struct port_xdp *p, int index, const struct xdp_ring_offset *offsets,
			uint32_t size, size_t entry_size, off_t at, struct xsk_ring_prod *ring)
{
	uint8_t *map = map_ring(p, index, offsets, size * entry_size, at);

	if (!map)
		return -errno;
	ring->mask = size - 1;
	ring->size = size;
	ring->producer = (uint32_t *)(map + offsets->producer);
	ring->consumer = (uint32_t *)(map + offsets->consumer);
	ring->flags = (uint32_t *)(map + offsets->flags);
	ring->ring = map + offsets->desc;
	ring->cached_prod = *ring->producer;
	ring->cached_cons = *ring->consumer + size;
	return 0;
}

static int map_consumer(struct port_xdp *p, int index, const struct xdp_ring_offset *offsets,
			uint32_t size, size_t entry_size, off_t at, struct xsk_ring_cons *ring)
{
	uint8_t *map = map_ring(p, index, offsets, size * entry_size, at);

	if (!map)
		return -errno;
	ring->mask = size - 1;
	ring->size = size;
	ring->producer = (uint32_t *)(map + offsets->producer);
	ring->consumer = (uint32_t *)(map + offsets->consumer);
	ring->flags = (uint32_t *)(map + offsets->flags);
	ring->ring = map + offsets->desc;
	ring->cached_prod = *ring->producer;
	ring->cached_cons = *ring->consumer;
	return 0;
}

static int map_rings(struct port_xdp *p)
{
	struct xdp_mmap_offsets offsets;
	socklen_t len = sizeof(offsets);
	uint32_t rx = p->shape.rx_frames, tx = p->shape.tx_frames;
	int err = getsockopt(p->port.fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &len) ? -errno : 0;

	if (!err)
		err = map_producer(p, 0, &offsets.fr, rx, sizeof(uint64_t),
				   (off_t)XDP_UMEM_PGOFF_FILL_RING, &p->fill);
	if (!err)
		err = map_consumer(p, 1, &offsets.cr, tx, sizeof(uint64_t),
				   (off_t)XDP_UMEM_PGOFF_COMPLETION_RING, &p->completion);
	if (!err)
		err = map_consumer(p, 2, &offsets.rx, rx, sizeof(struct xdp_desc),
				   XDP_PGOFF_RX_RING, &p->rx);
	if (!err)
		err = map_producer(p, 3, &offsets.tx, tx, sizeof(struct xdp_desc),
				   XDP_PGOFF_TX_RING, &p->tx);
	return err;
}

static int fill(struct port_xdp *p)
{
	const uint32_t frame = p->shape.frame_size;
	uint32_t index;

	if (xsk_ring_prod__reserve(&p->fill, p->shape.rx_frames, &index) != p->shape.rx_frames)
		return -ENOSPC;
	for (uint32_t i = 0; i < p->shape.rx_frames; i++)
		*xsk_ring_prod__fill_addr(&p->fill, index + i) = (uint64_t)i * frame;
	xsk_ring_prod__submit(&p->fill, p->shape.rx_frames);
	p->tx_free_count = p->shape.tx_frames;
	for (uint32_t i = 0; i < p->tx_free_count; i++)
		p->tx_free[i] = (uint64_t)(p->shape.rx_frames + i) * frame + TX_OFFSET;
	return 0;
}

static struct port_xdp *new_port(const struct an_shape *shape)
{
	struct port_xdp *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	an_port_init(&p->port, &xdp_ops, AN_BACKEND_AF_XDP, shape);
	p->port.need_wakeup = 1;
	p->shape = *shape;
	p->tx_free = calloc(shape->tx_frames, sizeof(*p->tx_free));
	if (p->tx_free)
		return p;
	free(p);
	return NULL;
}

static int ready(struct port_xdp *p, const char **step)
{
	int err;

	*step = "mapping the rings";
	err = map_rings(p);
	if (err)
		return err;
	*step = "filling the receive ring";
	return fill(p);
}

/* Before 6.4 a kernel lets rings be mapped until the socket is bound, and not from then on. */
static int open_own(struct port_xdp *p, const struct an_ring_config *config, const char **step)
{
	int err;

	*step = "reserving memory";
	p->area = mmap(NULL, an_shape_size(&p->shape), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->area == MAP_FAILED) {
		p->area = NULL;
		return -errno;
	}
	madvise(p->area, an_shape_size(&p->shape), MADV_HUGEPAGE);
	p->port.fd = an_xdp_socket(&p->shape, p->area, step);
	if (p->port.fd < 0)
		return p->port.fd;
	err = ready(p, step);
	if (!err)
		err = an_xdp_bind(p->port.fd, config, &p->shape, step);
	p->port.zero_copy = (int)p->shape.zero_copy;
	p->port.busy_poll = config->busy_poll_us != 0;
	return err;
}

static struct an_port *failed(struct port_xdp *p, const char *interface, const char *step, int err,
			      char *error, size_t error_len)
{
	snprintf(error, error_len, "AF_XDP on %.15s: %s: %s", interface, step, strerror(-err));
	if (p)
		xdp_close(&p->port);
	return NULL;
}

struct an_port *an_port_open_xdp(const struct an_ring_config *config, char *error, size_t error_len)
{
	struct an_shape shape;
	struct port_xdp *p = NULL;
	const char *step;
	int err = an_shape_init(&shape, config, AN_BACKEND_AF_XDP, &step);

	if (!err) {
		step = "allocating";
		p = new_port(&shape);
		err = p ? open_own(p, config, &step) : -ENOMEM;
	}
	if (err)
		return failed(p, config->interface, step, err, error, error_len);
	return &p->port;
}

struct an_port *an_port_attach_xdp(int fd, int umem, const struct an_shape *shape, char *error,
				   size_t error_len)
{
	struct port_xdp *p = new_port(shape);
	const char *step = "allocating";
	int err = p ? 0 : -ENOMEM;

	if (!err) {
		step = "mapping memory";
		p->area =
		    mmap(NULL, an_shape_size(shape), PROT_READ | PROT_WRITE, MAP_SHARED, umem, 0);
		if (p->area == MAP_FAILED) {
			p->area = NULL;
			err = -errno;
		}
	}
	if (!err) {
		p->port.fd = fd;
		err = ready(p, &step);
		if (err)
			p->port.fd = -1; /* still the caller's */
	}
	if (err)
		return failed(p, shape->interface, step, err, error, error_len);
	close(umem); /* the mapping holds it */
	return &p->port;
}
