// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The gate: decides on every frame that arrives at an interface, before the kernel's stack sees it.
 */
#include "gate.h"

SEC("xdp")
int gate(struct xdp_md *ctx)
{
	return gate_run(ctx);
}

char LICENSE[] SEC("license") = "GPL";
