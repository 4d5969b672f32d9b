/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A port moves whole Ethernet frames between an endpoint and one interface, in bursts.
 *
 * Frames lent by `rx` stay valid until `rx_done`. `tx_buffer` lends room for one frame or returns
 * NULL when none is free; `tx_push` gives it to the interface; `flush` makes the kernel look.
 */
#ifndef AN_PORT_H
#define AN_PORT_H

#include <stddef.h>
#include <stdint.h>

#define AN_BURST 64
#define AN_FRAME_MAX 3840 /* what a 4-KiB AF_XDP frame holds behind its headroom */

struct an_view {
	const uint8_t *data;
	uint32_t len;
};

struct an_port;

struct an_port_ops {
	unsigned int (*rx)(struct an_port *port, struct an_view *views, unsigned int max);
	void (*rx_done)(struct an_port *port, unsigned int count);
	uint8_t *(*tx_buffer)(struct an_port *port);
	void (*tx_push)(struct an_port *port, uint8_t *buffer, uint32_t len);
	void (*flush)(struct an_port *port);
	void (*close)(struct an_port *port);
};

struct an_port {
	const struct an_port_ops *ops;
	int fd; /* readable when frames wait */
};

/* Both return a port, or NULL with a sentence in `error`. */
struct an_port *an_port_open_xdp(const char *interface, uint32_t queue, int sockets_map,
				 char *error, size_t error_len);
struct an_port *an_port_open_packet(const char *interface, uint16_t flow,
				    const uint8_t local_cell[16], char *error, size_t error_len);

#endif /* AN_PORT_H */
