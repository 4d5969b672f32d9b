// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "maps.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAPS_MAX 64

static struct host_map maps[MAPS_MAX];
static unsigned int map_count;

static void give_up(const char *what, const char *which)
{
	fprintf(stderr, "maps: %s: %s\n", what, which);
	exit(2);
}

int host_map_is_hash(const struct host_map *map)
{
	return map->head.type == BPF_MAP_TYPE_HASH || map->head.type == BPF_MAP_TYPE_LRU_HASH;
}

int host_map_forgets(const struct host_map *map)
{
	return map->head.type == BPF_MAP_TYPE_LRU_HASH;
}

int host_map_has_keys(const struct host_map *map)
{
	return host_map_is_hash(map) || map->head.type == BPF_MAP_TYPE_DEVMAP;
}

int host_map_is_per_cpu(const struct host_map *map)
{
	return map->head.type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

int host_map_has_values(const struct host_map *map)
{
	return host_map_has_keys(map) || host_map_is_per_cpu(map) ||
	       map->head.type == BPF_MAP_TYPE_ARRAY;
}

uint32_t host_map_count(const struct host_map *map)
{
	return host_map_has_keys(map) ? map->head.count : map->head.max_entries;
}

void *host_map_value(const struct host_map *map, uint32_t index)
{
	return map->values + (size_t)index * map->stride;
}

static void take(void *to, size_t size, FILE *file, const char *path)
{
	if (size && fread(to, size, 1, file) != 1)
		give_up("the snapshot ends early", path);
}

static void load_entries(struct host_map *map, FILE *file, const char *path)
{
	uint32_t key_size = map->head.key_size;

	for (uint32_t i = 0; i < map->head.count; i++) {
		uint32_t index = i;
		uint8_t key[256];

		if (key_size > sizeof(key))
			give_up("keys are too long", map->head.name);
		take(key, key_size, file, path);
		if (host_map_has_keys(map))
			memcpy(map->keys + (size_t)i * key_size, key, key_size);
		else
			memcpy(&index, key, sizeof(index));
		if (index >= map->head.max_entries)
			give_up("an entry beyond the end", map->head.name);
		take(host_map_value(map, index), map->head.value_size, file, path);
	}
}

static void load_map(struct host_map *map, FILE *file, const char *path)
{
	if (!memchr(map->head.name, 0, sizeof(map->head.name)))
		give_up("not a snapshot", path);
	map->variable = dlsym(RTLD_DEFAULT, map->head.name);
	map->stride = (map->head.value_size + 7) & ~7u;
	if (host_map_has_values(map)) {
		map->keys = calloc(map->head.max_entries, map->head.key_size);
		map->values = calloc(map->head.max_entries, map->stride);
		if (!map->keys || !map->values)
			give_up("no memory", map->head.name);
	}
	load_entries(map, file, path);
}

unsigned int host_maps_load(const char *path, struct host_map **all)
{
	FILE *file = fopen(path, "rb");
	struct host_map_head head;

	if (!file)
		give_up("cannot be read", path);
	while (fread(&head, sizeof(head), 1, file) == 1) {
		if (map_count == MAPS_MAX)
			give_up("too many maps", path);
		maps[map_count].head = head;
		load_map(&maps[map_count++], file, path);
	}
	fclose(file);
	if (!map_count)
		give_up("no maps", path);
	*all = maps;
	return map_count;
}

struct host_map *host_map_named(const char *name)
{
	for (unsigned int i = 0; i < map_count; i++) {
		if (!strcmp(maps[i].head.name, name))
			return &maps[i];
	}
	give_up("no such map", name);
	return NULL;
}

static struct host_map *map_at(const void *variable)
{
	for (unsigned int i = 0; i < map_count; i++) {
		if (maps[i].variable == variable)
			return &maps[i];
	}
	give_up("gate.h declares a map that the snapshot lacks", "");
	return NULL;
}

static void *find(const struct host_map *map, const void *key)
{
	for (uint32_t index = 0; index < map->head.count; index++) {
		if (!memcmp(map->keys + (size_t)index * map->head.key_size, key,
			    map->head.key_size))
			return host_map_value(map, index);
	}
	return NULL;
}

long host_map_insert(const void *variable, const void *key, const void *value, uint64_t flags)
{
	struct host_map *map = map_at(variable);
	void *found = find(map, key);

	if (!host_map_is_hash(map) || (flags != BPF_ANY && flags != BPF_NOEXIST))
		give_up("an update that is not known here", map->head.name);
	if (found && flags == BPF_NOEXIST)
		return -EEXIST;
	if (!found) {
		if (map->head.count == map->head.max_entries && host_map_forgets(map))
			give_up("nobody knows what is forgotten", map->head.name);
		if (map->head.count == map->head.max_entries)
			return -E2BIG;
		memcpy(map->keys + (size_t)map->head.count * map->head.key_size, key,
		       map->head.key_size);
		found = host_map_value(map, map->head.count++);
	}
	memcpy(found, value, map->head.value_size);
	return 0;
}

void host_map_clear(struct host_map *map)
{
	map->head.count = 0;
}

void *host_map_lookup(const void *variable, const void *key)
{
	const struct host_map *map = map_at(variable);
	uint32_t index;

	if (host_map_has_keys(map))
		return find(map, key);
	if (!host_map_has_values(map))
		return NULL; /* no socket is bound here */
	memcpy(&index, key, sizeof(index));
	return index < map->head.max_entries ? host_map_value(map, index) : NULL;
}
