// SPDX-License-Identifier: Apache-2.0
#include "frames_lwf.h"

#include <linux/if_ether.h>
#include <string.h>

#include "assent/lwf.h"
#include "assent/wire.h"
#include "frames_random.h"

#define FAR_AHEAD (1ULL << 50)
#define ACTION_EVERY 16 /* frames */
#define KEPT 16
#define VLAN_LEN 4

static uint64_t began;
static frames_push push;
static uint64_t made;
static struct frames_frame kept[KEPT];

/* Some key of a map; of an empty one, and sometimes, nobody's. */
static struct assent_lwf_hint some_hint(const char *name)
{
	const struct host_map *map = host_map_named(name);
	struct assent_lwf_hint hint = {{0}};

	if (host_map_count(map) && percent(95))
		memcpy(&hint, map->keys + (size_t)below(host_map_count(map)) * sizeof(hint),
		       sizeof(hint));
	else if (percent(50))
		hint.bytes[below(sizeof(hint.bytes))] = 1 + (uint8_t)below(255);
	return hint;
}

static void put(struct frames_frame *frame, const struct assent_lwf_header *h, uint32_t len)
{
	static const uint8_t ethernet[ETH_HLEN] = {
	    2,
	    2,
	    2,
	    2,
	    2,
	    2,
	    4,
	    4,
	    4,
	    4,
	    4,
	    4,
	    ASSENT_LWF_ETHERTYPE >> 8,
	    ASSENT_LWF_ETHERTYPE & 0xff,
	};

	memset(frame->data, 0x5a, sizeof(frame->data));
	memcpy(frame->data, ethernet, sizeof(ethernet));
	memcpy(frame->data + ETH_HLEN, h, sizeof(*h));
	frame->len = ETH_HLEN + len;
	if (frame->len > sizeof(frame->data))
		frame->len = sizeof(frame->data);
}

static void some_frame(struct frames_frame *frame)
{
	static const uint8_t classes[] = {0, 1, 2, 2, 3, 4, 255, 255, 255};
	static const uint16_t services[] = {1, 2, 0x0800, 0x0B03, 5, 5, 5};
	static const uint32_t trailers[] = {
	    ASSENT_LWF_SHORT_TRAILER_LEN,
	    ASSENT_LWF_TRAILER_LEN,
	    ASSENT_LWF_TRAILER_LEN,
	};
	uint32_t payload_len = percent(50) ? below(5) : below(1200);
	struct assent_lwf_header h = {
	    .magic = assent_be32(ASSENT_LWF_MAGIC),
	    .dest = some_hint("lwf_routes"),
	    .source = some_hint(percent(90) ? "lwf_sources" : "lwf_routes"),
	    .sequence = (__u32)random_u64(),
	    .service_type = assent_be16(PICK(services)),
	    .payload_len = assent_be16(payload_len),
	    .frame_class = PICK(classes),
	    .version = percent(98) ? 1 + (__u8)below(2) : (__u8)below(256),
	    .flags = (__u8)random_u64(),
	    .timestamp = random_u64(),
	};
	uint32_t len = sizeof(h) + payload_len + PICK(trailers);

	if (percent(20))
		memset(&h.dest, 0, sizeof(h.dest));
	if (percent(10) && assent_lwf_class_len(h.frame_class) < sizeof(frame->data) - ETH_HLEN)
		len = assent_lwf_class_len(h.frame_class);
	put(frame, &h, len);
}

static void put_vlan(struct frames_frame *frame)
{
	static const uint16_t types[] = {ETH_P_8021Q, ETH_P_8021Q, ETH_P_8021Q, ETH_P_8021AD};
	uint16_t type = PICK(types);

	if (frame->len + VLAN_LEN > sizeof(frame->data))
		return;
	memmove(frame->data + 12 + VLAN_LEN, frame->data + 12, frame->len - 12);
	frame->data[12] = type >> 8;
	frame->data[13] = type & 0xff;
	frame->len += VLAN_LEN;
}

static void alter(struct frames_frame *frame)
{
	switch (below(5)) {
	case 0:
		frame->len = ETH_HLEN + below(frame->len - ETH_HLEN + 1);
		break;
	case 1:
		frame->data[ETH_HLEN + below(ASSENT_LWF_HEADER_LEN)] ^= 1 << below(8);
		break;
	case 2:
		frame->data[below(frame->len)] ^= 1 << below(8);
		break;
	default:
		put_vlan(frame);
		break;
	}
}

/* -- changes of the maps -- */

static void change_route(void)
{
	struct host_map *routes = host_map_named("lwf_routes");
	struct assent_lwf_route *route;
	uint32_t index;

	if (!host_map_count(routes))
		return;
	index = below(host_map_count(routes));
	route = host_map_value(routes, index);
	switch (below(5)) {
	case 0:
		route->expires = percent(30) ? 1 : 0;
		break;
	case 1:
		route->expires = began + FAR_AHEAD;
		break;
	case 2:
		route->flags = percent(20) ? ASSENT_LWF_ROUTE_LOCAL : 0;
		break;
	case 3:
		route->port = below(percent(80) ? 2 : 64);
		break;
	default:
		route->dst[below(6)] = (__u8)random_u64();
		route->src[below(6)] = (__u8)random_u64();
		break;
	}
	push(routes, routes->keys + (size_t)index * routes->head.key_size, route);
}

/* Far ahead of now, within a bound that lies as far ahead, or beyond it: see frames.c. */
static void change_source(uint32_t index, int spent)
{
	struct host_map *sources = host_map_named("lwf_sources");
	const struct assent_lwf_config *config = host_map_value(host_map_named("lwf_config"), 0);
	struct assent_lwf_source *source = host_map_value(sources, index);

	source->due = began + FAR_AHEAD;
	if (spent)
		source->due = began + config->register_burst + config->register_interval / 2 -
			      below(4) * config->register_interval;
	push(sources, sources->keys + (size_t)index * sources->head.key_size, source);
}

/* -- the supply -- */

void frames_lwf_begin(uint64_t seed, uint64_t now, frames_push pushes)
{
	random_state = (seed + 7) * 0x9e3779b97f4a7c15ULL + 0x632be59bd9b4e019ULL;
	began = now;
	push = pushes;
	made = 0;
	memset(kept, 0, sizeof(kept));
	for (uint32_t i = 0; i < host_map_count(host_map_named("lwf_sources")); i++)
		change_source(i, 0);
}

void frames_lwf_next(struct frames_frame *frame)
{
	uint32_t sources = host_map_count(host_map_named("lwf_sources"));

	if (++made % ACTION_EVERY == 0)
		change_route();
	if (made % ACTION_EVERY == 1 && sources)
		change_source(below(sources), percent(30));
	if (percent(15) && kept[made % KEPT].len) {
		*frame = kept[below(KEPT)];
		if (frame->len)
			return;
	}
	some_frame(frame);
	if (percent(15))
		alter(frame);
	kept[made % KEPT] = *frame;
}
