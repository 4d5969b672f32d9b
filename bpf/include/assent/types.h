/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Integer types, byte order and atomics for code that BPF programs, DPDK apps, the endpoint library
 * and host tests all compile. Nothing in this folder calls a map helper or touches an mbuf: whoever
 * includes these headers brings the tables and the clock.
 */
#ifndef ASSENT_TYPES_H
#define ASSENT_TYPES_H

#include <linux/types.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

#ifndef __noinline
#define __noinline __attribute__((noinline))
#endif

/*
 * What few frames come to. In BPF a global function: the verifier looks at it once, by itself,
 * knowing of its arguments only their types (so it asks for NULL), and its callers meet one number.
 */
#ifdef __bpf__
#define ASSENT_SLOW_PATH __noinline
#else
#define ASSENT_SLOW_PATH static __noinline __attribute__((unused))
#endif

#define assent_likely(x) __builtin_expect(!!(x), 1)
#define assent_unlikely(x) __builtin_expect(!!(x), 0)

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define assent_be16(x) ((__u16)__builtin_bswap16(x))
#define assent_be32(x) ((__u32)__builtin_bswap32(x))
#define assent_be64(x) ((__u64)__builtin_bswap64(x))
#define assent_le64(x) ((__u64)(x))
#else
#define assent_be16(x) ((__u16)(x))
#define assent_be32(x) ((__u32)(x))
#define assent_be64(x) ((__u64)(x))
#define assent_le64(x) ((__u64)__builtin_bswap64(x))
#endif

#define ASSENT_READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define ASSENT_WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))

/*
 * Full-barrier compare-and-swap, returns the value found. The __sync form is the one that clang's
 * BPF target turns into the BPF_CMPXCHG instruction (-mcpu=v3, kernel 5.12 and later).
 */
#define assent_cmpxchg(p, old, new) __sync_val_compare_and_swap((p), (old), (new))
/* Result unused: becomes a plain locked add, without the fetch. */
#define assent_atomic_add(p, v) ((void)__sync_fetch_and_add((p), (v)))

#endif /* ASSENT_TYPES_H */
