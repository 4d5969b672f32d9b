// SPDX-License-Identifier: Apache-2.0
#include "numi.h"

const char *numi_fault_name(uint32_t fault)
{
	static const char *const names[ASSENT_NUMI_FAULTS] = {
	    [ASSENT_NUMI_TAKEN] = "taken",
	    [ASSENT_NUMI_MALFORMED] = "malformed",
	    [ASSENT_NUMI_HDR_MAC_FAIL] = "hdr_mac_fail",
	    [ASSENT_NUMI_AEAD_FAIL] = "aead_fail",
	    [ASSENT_NUMI_REPLAY] = "replay",
	    [ASSENT_NUMI_STALE_SLOT] = "stale_slot",
	    [ASSENT_NUMI_FUTURE_SLOT] = "future_slot",
	    [ASSENT_NUMI_UNKNOWN_PEER] = "unknown_peer",
	    [ASSENT_NUMI_UNKNOWN_PSK] = "unknown_psk",
	    [ASSENT_NUMI_NO_COOKIE] = "no_cookie",
	    [ASSENT_NUMI_BAD_COOKIE] = "bad_cookie",
	    [ASSENT_NUMI_AMPLIFICATION] = "amplification",
	};

	return fault < ASSENT_NUMI_FAULTS ? names[fault] : 0;
}
