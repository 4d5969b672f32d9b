// SPDX-License-Identifier: Apache-2.0
/*
 * libFuzzer target: any bytes as a frame, at gate_identify() (bpf/frame.h): what is it, where does
 * its header begin, is it tagged as nobody may?
 *
 * Claims: the sanitizers' (the frame is of its very length); the answer is that of the plain rules
 * below, written another way; nothing of the frame is changed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "assent/types.h"
#include "frame.h"

static void claim(int holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "fuzz_frame: not so: %s\n", what);
		abort();
	}
}

static unsigned int type_at(const uint8_t *data, size_t offset)
{
	return (unsigned int)data[offset] << 8 | data[offset + 1];
}

static int is_tag(unsigned int type)
{
	return type == ASSENT_VLAN_ETHERTYPE || type == ASSENT_S_VLAN_ETHERTYPE;
}

static int is_ours(unsigned int type)
{
	return type == ASSENT_ETHERTYPE || type == ASSENT_LWF_ETHERTYPE;
}

/* Counts the tags; returns the type below them, or a tag's where the frame ends too early. */
static unsigned int below_tags(const uint8_t *data, size_t size, unsigned int *tags)
{
	unsigned int type = type_at(data, 12);

	for (*tags = 0; is_tag(type) && size >= 18 + 4 * (size_t)*tags; ++*tags)
		type = type_at(data, 16 + 4 * (size_t)*tags);
	return type;
}

static void check(const struct gate_frame *frame, const uint8_t *data, size_t size,
		  enum assent_reason reason)
{
	unsigned int tags, type;

	if (size < ASSENT_ETH_LEN) {
		claim(!reason && !frame->type, "without an Ethernet header it is nobody's");
		return;
	}
	type = below_tags(data, size, &tags);
	if (tags == 0) {
		claim(!reason && frame->offset == ASSENT_ETH_LEN, "an untagged frame is taken");
		claim(bpf_ntohs(frame->type) == type, "its type is what it says");
	} else if (tags > GATE_VLAN_DEPTH || (tags == GATE_VLAN_DEPTH && is_tag(type))) {
		claim(reason == ASSENT_DROP_STACKED_VLAN, "nobody tags that deep");
	} else if (is_tag(type)) {
		claim(!reason, "what ends within its tags is nobody's");
	} else {
		int may = tags == 1 && type_at(data, 12) == ASSENT_VLAN_ETHERTYPE;

		claim(bpf_ntohs(frame->type) == type, "the type is that below the tags");
		claim(reason ==
			  (is_ours(type) && !may ? ASSENT_DROP_STACKED_VLAN : ASSENT_ADMITTED),
		      "ours are under one 802.1Q tag at most, and others pass");
		if (!reason && is_ours(type))
			claim(frame->offset == ASSENT_ETH_LEN + ASSENT_VLAN_LEN,
			      "the header follows the tag");
	}
	if (!reason && is_ours(bpf_ntohs(frame->type)))
		claim(frame->offset <= size, "a header begins within the frame");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct gate_frame frame = {0};
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	frame.data = copy;
	frame.data_end = copy + size;
	check(&frame, data, size, gate_identify(&frame));
	claim(!memcmp(copy, data, size), "a frame is not changed");
	free(copy);
	return 0;
}
