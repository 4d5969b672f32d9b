/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host's gate: the verdict of bpf/include/assent/verdict.h on every fabric frame that arrives,
 * with the host's own tables behind it, and what an endpoint keeps beside them: which flow takes a
 * frame.
 */
#ifndef SIM_GATE_H
#define SIM_GATE_H

#include "world.h"

#define SIM_ETHERNET_LEN 14

struct assent_flow;

struct sim_gate *sim_gate_new(uint32_t hosts, uint32_t flows_per_pair);
void sim_gate_free(struct sim_gate *gate);
/* Runs the verdict, charges and marks; `number` is the flow's. */
int sim_gate_admits(struct sim_world *world, const struct sim_frame *frame, uint16_t *number);
/* Opens a flow's line; NULL where there is no such flow or no session. */
struct assent_flow *sim_gate_open(struct sim_gate *gate, const struct sim_flow_config *config);
void sim_gate_bind(struct sim_gate *gate, uint32_t peer, uint32_t number, struct sim_flow *flow);
struct sim_flow *sim_gate_flow(const struct sim_gate *gate, uint32_t peer, uint32_t number);
/* Blocks a second that the peer may send, with the window as its burst. */
void sim_gate_set_rate(struct sim_gate *gate, uint32_t peer, uint64_t rate, uint64_t window);
const uint8_t *sim_gate_cell(const struct sim_gate *gate);

#endif /* SIM_GATE_H */
