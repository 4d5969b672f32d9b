/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port moves whole Ethernet frames between a ring and one interface, in bursts.
 *
 * Frames lent by `rx` stay valid until `rx_done`, which gives all of them back. `tx_buffer` lends
 * room for one frame or returns NULL when none is free; `tx_push` gives it to the interface;
 * `flush` makes the kernel look. One thread at a time; but `pending` may be asked beside any other
 * call than `close`.
 *
 * A frame that the gate has admitted is lost for good if it finds no room here, for its number is
 * spent. So a port has room for more frames than a replay window has numbers, and takes in nothing
 * but data that the gate sends its way.
 */
#ifndef AN_PORT_H
#define AN_PORT_H

#include <stddef.h>
#include <stdint.h>

#include "native.h"

#define AN_BURST 64
#define AN_FRAME_MAX 3840 /* what a 4-KiB AF_XDP frame holds behind its headroom */

struct an_view {
	const uint8_t *data;
	uint32_t len;
};

struct an_port;

struct an_port_ops {
	unsigned int (*rx)(struct an_port *port, struct an_view *views, unsigned int max);
	void (*rx_done)(struct an_port *port);
	/* Its byte 14, where the fabric header begins, is 16-byte aligned. */
	uint8_t *(*tx_buffer)(struct an_port *port);
	void (*tx_push)(struct an_port *port, uint8_t *buffer, uint32_t len);
	/* Not 0: the kernel has not taken all yet; flush again in a while. */
	int (*flush)(struct an_port *port);
	/* Do frames wait to be taken? Costs no system call. */
	int (*pending)(const struct an_port *port);
	/* Is the interface gone? One that is down is not. */
	int (*gone)(struct an_port *port);
	/* Frames that found no room, so far. */
	uint64_t (*dropped)(struct an_port *port);
	void (*close)(struct an_port *port);
};

struct an_port {
	const struct an_port_ops *ops;
	int fd; /* readable when frames wait */
	int backend;
	int zero_copy;
	int need_wakeup;
	int busy_poll;
	uint32_t frame_max; /* bytes of a frame, Ethernet header included */
	uint32_t ifindex;
	char interface[16];
};

/* How the memory of a port is laid out: what a lender tells a borrower. */
struct an_shape {
	uint32_t frame_size; /* AF_PACKET: of a block */
	uint32_t rx_frames;  /* AF_PACKET: blocks */
	uint32_t tx_frames;  /* AF_XDP */
	uint32_t ifindex;
	uint32_t mtu;
	uint32_t zero_copy;
	char interface[16];
};

void an_port_init(struct an_port *port, const struct an_port_ops *ops, int backend,
		  const struct an_shape *shape);
/* All return a port, or NULL with a sentence in `error`. */
struct an_port *an_port_open_xdp(const struct an_ring_config *config, char *error,
				 size_t error_len);
struct an_port *an_port_open_packet(const struct an_ring_config *config, char *error,
				    size_t error_len);
/* The same on a socket (and memory) that was lent; on success both are the port's. */
struct an_port *an_port_attach_xdp(int fd, int umem, const struct an_shape *shape, char *error,
				   size_t error_len);
struct an_port *an_port_attach_packet(int fd, const struct an_shape *shape, char *error,
				      size_t error_len);

/* A flow, as far as a filter needs to know it. */
struct an_choice {
	const uint8_t *local;
	const uint8_t *remote;
	uint16_t flow;
};
#define AN_CHOICES 64

/* Leaves an AF_PACKET port the frames of these flows, or, of more than AN_CHOICES, of all. */
int an_packet_choose(struct an_port *port, const struct an_choice *choices, uint32_t count);

/*
 * A lender's half: the sockets, or a negative errno with where it went wrong in `step`. One of
 * AF_XDP is bound by itself, and says then whether it is without copies.
 */
int an_shape_init(struct an_shape *shape, const struct an_ring_config *config, int backend,
		  const char **step);
size_t an_shape_size(const struct an_shape *shape); /* bytes of an AF_XDP port's memory */
int an_xdp_socket(const struct an_shape *shape, void *area, const char **step);
int an_xdp_bind(int fd, const struct an_ring_config *config, struct an_shape *shape,
		const char **step);
int an_packet_socket(struct an_shape *shape, const char **step);
/* Leaves the socket nothing but the data that comes to that cell, for good. */
int an_packet_confine(int fd, const uint8_t cell[16]);

#endif /* AN_PORT_H */
