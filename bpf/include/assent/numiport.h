/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Numiport on the wire: layout, limits and faults. docs/numiport.md is the prose.
 */
#ifndef ASSENT_NUMIPORT_H
#define ASSENT_NUMIPORT_H

#include "types.h"

/* python: begin */

/* Why a datagram is refused; what is counted. A number, once released, keeps its meaning. */
enum assent_numi_fault {
	ASSENT_NUMI_TAKEN = 0,
	ASSENT_NUMI_MALFORMED,     /* not a packet to the bit */
	ASSENT_NUMI_HDR_MAC_FAIL,  /* no header MAC where there must be one, or a wrong one */
	ASSENT_NUMI_AEAD_FAIL,     /* its payload cannot be opened */
	ASSENT_NUMI_REPLAY,        /* seen before */
	ASSENT_NUMI_STALE_SLOT,    /* of a slot that has left the replay window */
	ASSENT_NUMI_FUTURE_SLOT,   /* of a slot that is too far ahead */
	ASSENT_NUMI_UNKNOWN_PEER,  /* from nobody that is known, and no handshake */
	ASSENT_NUMI_UNKNOWN_PSK,   /* names a key that is not, or no longer, accepted */
	ASSENT_NUMI_NO_COOKIE,     /* must echo a cookie first */
	ASSENT_NUMI_BAD_COOKIE,    /* echoes one that was not given to it, or is too old */
	ASSENT_NUMI_AMPLIFICATION, /* an answer would be more than its asker has paid for */
	ASSENT_NUMI_FAULTS,
};

/* python: end */

#endif /* ASSENT_NUMIPORT_H */
