/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A lent ring. An application without privileges gets a bound socket, the memory of its frames, a
 * page with a line for each of its flows, and two eventfds. The gate's `flows` map it does not get:
 * there it could write the books of others.
 *
 * On its page the engine keeps the books of its flows as it would in the gate's map. What the gate
 * writes there it writes itself, from the frames that were admitted. What it writes for the gate is
 * a wish: the lender holds it against the gate's own line and carries it out.
 *
 * taken       The engine asks for a grant by raising it: blocks consumed and not held. The lender
 *             grants that, or what has arrived where it is less, and the gate's window; and says in
 *             `confirmed_granted` what it granted. Only that is announced to the peer, for the gate
 *             would refuse what goes beyond. The page's rx_granted is nobody's but the engine's.
 * rx_open     The lender opens the gate for the flow, to the kind of socket that it lent, and shuts
 *             it.
 * tx_seq, tx_spent, rx_next
 *             The lender keeps the gate's line in step, so that no number is used twice by whoever
 *             drives the flow next, should the application die. tx_seq and tx_spent only rise.
 * tx_pending  In the gate's line it is set for as long as the flow is lent and open: were lender
 *             and application both gone, the numbers used since the last look would not be known.
 * voided      Blocks that voids stood for, in sum; the lender adds them to rx_spent, which stays
 *             within what is granted.
 *
 * In the other direction the lender copies the windows, replay_len (0: the session is over) and
 * tx_granted, which control frames raise too.
 *
 * An application that lies on its page harms its own flows: their peers find their frames refused,
 * or its memory too small for what it invited.
 */
#ifndef AN_LEND_H
#define AN_LEND_H

#include "assent/tables.h"
#include "port.h"

struct an_lent_line {
	struct assent_flow line;
	uint64_t confirmed_granted; /* lender: rx_granted of the gate, as of the last answer */
	uint64_t voided;            /* application */
	uint64_t taken;             /* application: blocks consumed that are not held */
	uint64_t reserved[5];
};

#define AN_LENT_MAGIC 0x41734c32u /* and version */

struct an_lent_page {
	uint32_t magic;
	uint32_t lines;
	uint32_t backend; /* enum an_backend */
	uint32_t reserved;
	struct an_shape shape;
	uint8_t padding[128 - 16 - sizeof(struct an_shape)];
	struct an_lent_line line[];
};

_Static_assert(sizeof(struct an_lent_line) == 128, "two cache lines");
_Static_assert(sizeof(struct an_lent_page) == 128, "lines are aligned");

#endif /* AN_LEND_H */
