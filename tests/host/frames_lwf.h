/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LWF frames for the relay whose maps are loaded (maps.h), in the manner of frames.h: to ways that
 * there are and to none, of all versions and lengths, again and again; and changes of the ways and
 * of what sources have used.
 */
#ifndef FRAMES_LWF_H
#define FRAMES_LWF_H

#include "frames.h"

void frames_lwf_begin(uint64_t seed, uint64_t now, frames_push push);
void frames_lwf_next(struct frames_frame *frame);

#endif /* FRAMES_LWF_H */
