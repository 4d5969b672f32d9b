/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gate's maps in this process's memory.
 *
 * What maps there are, how large, and what is in them comes from a snapshot file that
 * tests/packet/twin.py writes of a loaded gate; nothing here knows a map by name. A map that gate.h
 * declares is found by the address of its variable, so whoever links this exports its symbols
 * (-rdynamic).
 *
 * Snapshot, in the host's byte order, once a map: struct host_map_head, then `count` times a key
 * and a value. Of per-CPU maps it has the sum of all CPUs, and here they have one; rings and
 * sockets have no contents.
 */
#ifndef HOST_MAPS_H
#define HOST_MAPS_H

#include <stdint.h>

struct host_map_head {
	char name[32];
	uint32_t type; /* enum bpf_map_type */
	uint32_t key_size;
	uint32_t value_size;
	uint32_t max_entries;
	uint32_t count;
};

struct host_map {
	struct host_map_head head;
	const void *variable; /* that gate.h declares; NULL where it declares none */
	uint32_t stride;      /* of values: they are 8-byte aligned, as in the kernel */
	uint8_t *keys;        /* of a map that has no entry for some keys */
	uint8_t *values;
};

/* All of them; ends the process where the file is not as it should be. Returns how many. */
unsigned int host_maps_load(const char *path, struct host_map **maps);
struct host_map *host_map_named(const char *name);

void *host_map_lookup(const void *variable, const void *key);
/* As the helper does it: 0, or a negative errno. Only BPF_NOEXIST is known, and only hashes are
 * written. One that forgets by itself must be emptied before it has to. */
long host_map_insert(const void *variable, const void *key, const void *value, uint64_t flags);
void host_map_clear(struct host_map *map);
/* Of an array, or of a hash in no order: entry `index`, below host_map_count(). */
uint32_t host_map_count(const struct host_map *map);
void *host_map_value(const struct host_map *map, uint32_t index);

int host_map_is_hash(const struct host_map *map);
int host_map_forgets(const struct host_map *map);
/* Entries are found by `keys`: hashes, and maps of devices. */
int host_map_has_keys(const struct host_map *map);
int host_map_is_per_cpu(const struct host_map *map);
int host_map_has_values(const struct host_map *map);

#endif /* HOST_MAPS_H */
