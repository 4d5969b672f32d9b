/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The native parts of Numiport as Python sees them: the codec here, and each other part in a header
 * of its own, whose lines between the two marks below Python sees as well.
 */
#ifndef NUMI_NUMI_H
#define NUMI_NUMI_H

#include <stddef.h>
#include <stdint.h>

#include "assent/numiport.h"

/* python: begin */

/* What a fault (enum assent_numi_fault) is counted as; NULL: there is none of that number. */
const char *numi_fault_name(uint32_t fault);

/* python: end */

#endif /* NUMI_NUMI_H */
