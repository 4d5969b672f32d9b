/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An endless supply of frames for the gate whose maps are loaded (maps.h): valid ones in sequence,
 * at the edges of window and credit, altered, handshakes, other protocols, noise; and between them
 * changes of what stands in the maps, as a control plane and an endpoint would make them and worse.
 *
 * It knows no keys: a session's entry holds the hash's state, which is all that a tag needs. The
 * same seed gives the same frames, timestamps aside.
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdint.h>

#include "maps.h"

struct frames_frame {
	uint8_t data[2048];
	uint32_t len;
};

/* Called for each entry that the generator has changed in the host's map. */
typedef void (*frames_push)(struct host_map *map, const void *key, const void *value);

/* `now`: monotonic, ns; good for some minutes. */
void frames_begin(uint64_t seed, uint64_t now, frames_push push);
void frames_next(struct frames_frame *frame);

#endif /* FRAMES_H */
