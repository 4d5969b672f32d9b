// SPDX-License-Identifier: Apache-2.0
/* What ports of both kinds need to know of an interface. */
#include "port.h"

#include <errno.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "assent/wire.h"

#define SMALL_FRAME 2048
#define LARGE_FRAME 4096
#define TX_FRAMES 2048
#define XDP_HEADROOM 256 /* what the kernel keeps in front of each frame of an AF_XDP ring */

static int interface_mtu(const char *interface, uint32_t *mtu)
{
	struct ifreq request = {0};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int err;

	if (fd < 0)
		return -errno;
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
	err = ioctl(fd, SIOCGIFMTU, &request) ? -errno : 0;
	close(fd);
	*mtu = (uint32_t)request.ifr_mtu;
	return err;
}

int an_shape_init(struct an_shape *shape, const struct an_ring_config *config, int backend,
		  const char **step)
{
	uint32_t frames = config->rx_frames ? config->rx_frames : AN_RX_FRAMES;
	int err;

	memset(shape, 0, sizeof(*shape));
	snprintf(shape->interface, sizeof(shape->interface), "%.15s", config->interface);
	*step = "finding the interface";
	shape->ifindex = if_nametoindex(shape->interface);
	if (!shape->ifindex)
		return -errno;
	err = interface_mtu(shape->interface, &shape->mtu);
	if (err)
		return err;
	*step = "choosing sizes";
	if (frames & (frames - 1) || frames < AN_BURST)
		return -EINVAL; /* rings of AF_XDP are powers of two long */
	shape->tx_frames = TX_FRAMES;
	if (shape->mtu + ASSENT_ETH_LEN + ASSENT_VLAN_LEN <= SMALL_FRAME - XDP_HEADROOM) {
		shape->frame_size = SMALL_FRAME;
		/* A block holds two frames as large as the interface's, in the same memory. */
		shape->rx_frames = backend == AN_BACKEND_AF_PACKET ? frames / 2 : frames;
	} else {
		shape->frame_size = LARGE_FRAME;
		shape->rx_frames = frames;
	}
	return 0;
}

void an_port_init(struct an_port *port, const struct an_port_ops *ops, int backend,
		  const struct an_shape *shape)
{
	port->ops = ops;
	port->fd = -1;
	port->backend = backend;
	port->zero_copy = (int)shape->zero_copy;
	port->ifindex = shape->ifindex;
	port->frame_max =
	    shape->frame_size == SMALL_FRAME ? SMALL_FRAME - XDP_HEADROOM : AN_FRAME_MAX;
	snprintf(port->interface, sizeof(port->interface), "%.15s", shape->interface);
}
