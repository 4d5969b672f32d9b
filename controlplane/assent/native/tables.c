// SPDX-License-Identifier: Apache-2.0
/* What the control plane writes into the gate's tables by the thousand. */
#include <errno.h>
#include <linux/membarrier.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "assent/bloom.h"
#include "assent/credit.h"
#include "assent/tag.h"
#include "native.h"

_Static_assert(sizeof(struct assent_sip) == 32, "states lie side by side");
_Static_assert(sizeof(struct assent_pair) == 32, "so do pairs");

void an_pair_states(const uint8_t *keys, const uint8_t *pairs, size_t count, uint8_t *states)
{
	struct assent_header h = {0};
	struct assent_sip state;
	uint64_t half[2];

	for (size_t i = 0; i < count; i++) {
		memcpy(half, keys + i * sizeof(half), sizeof(half));
		memcpy(&h.pair, pairs + i * sizeof(h.pair), sizeof(h.pair));
		state = assent_pair_state(assent_le64(half[0]), assent_le64(half[1]), &h);
		memcpy(states + i * sizeof(state), &state, sizeof(state));
	}
	OPENSSL_cleanse(half, sizeof(half));
	OPENSSL_cleanse(&state, sizeof(state));
}

/* One pair's place in a filter: its word, and its bits there. */
struct place {
	__u32 index;
	__u64 bits;
};

static struct place place_of(const uint8_t *pair, __u64 descriptor, const uint64_t *seed)
{
	const __u64 seeds[2] = {seed[0], seed[1]};
	union {
		struct assent_pair pair;
		__u64 words[4];
	} aligned;
	__u64 hash;

	memcpy(&aligned.pair, pair, sizeof(aligned.pair));
	hash = assent_bloom_hash(&aligned.pair, seeds);
	return (struct place){assent_bloom_index(descriptor, hash), assent_bloom_bits(hash)};
}

void an_bloom_add(uint64_t *words, uint32_t first, uint32_t mask, const uint64_t *seed,
		  const uint8_t *pairs, size_t count)
{
	__u64 descriptor = assent_bloom_descriptor(first, mask);

	for (size_t i = 0; i < count; i++) {
		struct place at =
		    place_of(pairs + i * sizeof(struct assent_pair), descriptor, seed);

		__atomic_fetch_or(&words[at.index], at.bits, __ATOMIC_RELAXED);
	}
}

void an_bloom_look(const uint64_t *words, uint32_t first, uint32_t mask, const uint64_t *seed,
		   const uint8_t *pairs, size_t count, uint8_t *seen)
{
	__u64 descriptor = assent_bloom_descriptor(first, mask);

	for (size_t i = 0; i < count; i++) {
		struct place at =
		    place_of(pairs + i * sizeof(struct assent_pair), descriptor, seed);

		seen[i] = (words[at.index] & at.bits) == at.bits;
	}
}

_Static_assert(sizeof(struct assent_flow) == AN_LINE_LEN, "what Python strides by");

uint64_t an_line_credit(const void *line)
{
	const struct assent_flow *flow = line;
	uint64_t granted = __atomic_load_n(&flow->tx_granted, __ATOMIC_ACQUIRE);
	uint64_t spent = __atomic_load_n(&flow->tx_spent, __ATOMIC_ACQUIRE);

	return granted > spent ? granted - spent : 0;
}

void an_counter_raise(uint64_t *counter, uint64_t value)
{
	assent_counter_raise((__u64 *)counter, value);
}

uint64_t an_header_tag(const uint8_t *key, const uint8_t *header)
{
	struct assent_header h;
	struct assent_sip state;
	uint64_t half[2];

	memcpy(&h, header, sizeof(h));
	memcpy(half, key, sizeof(half));
	state = assent_pair_state(assent_le64(half[0]), assent_le64(half[1]), &h);
	OPENSSL_cleanse(half, sizeof(half));
	return assent_header_tag(&state, &h);
}

int an_wait_for_readers(void)
{
	/* The kernel's answer to this is synchronize_rcu(), and BPF programs run under RCU. */
	return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) ? -errno : 0;
}
