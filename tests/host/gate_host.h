/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bpf/gate.h, the whole gate, compiled for this process: what is called in the kernel's place is in
 * gate_host.c, its maps are those of maps.h.
 */
#ifndef GATE_HOST_H
#define GATE_HOST_H

#include <stdint.h>

#define GATE_HOST_FRAME_MAX 4096
#define GATE_HOST_NOT_OURS (-1)
/* What BPF_PROG_TEST_RUN shows a program by default: the loopback's only queue. */
#define GATE_HOST_IFINDEX 1

struct gate_host_result {
	int action; /* enum xdp_action */
	int reason; /* enum assent_reason, of the counter that moved; or GATE_HOST_NOT_OURS */
	int frame_changed;
	const uint8_t *after; /* the frame as the gate left it, until the next run */
};

extern uint64_t gate_host_now; /* monotonic, ns */

/* One arriving frame. */
struct gate_host_result gate_host_run(const uint8_t *frame, uint32_t len);

/* Takes the oldest event that the gate has emitted: its size, or 0. Older ones than the last 4,096
 * are lost. */
uint32_t gate_host_take_event(void *event, uint32_t room);

#endif /* GATE_HOST_H */
