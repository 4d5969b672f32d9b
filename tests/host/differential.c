// SPDX-License-Identifier: Apache-2.0
/*
 * The same frames through the gate in the kernel (BPF_PROG_TEST_RUN) and the gate compiled for this
 * process (gate_host.c, under ASan and UBSan), on tables with the same contents.
 *
 *     snapshot of a private gate's maps --> host's maps --> gate_host_run --+
 *     frame --+------------------------------------------------------------ = ? --> difference
 *             +----> the gate's maps, by descriptor ------> test_run -------+
 *
 * usage: differential generate SNAPSHOT PROGRAM_FD SEED FRAMES MAP=FD...
 *        differential feed     SNAPSHOT PROGRAM_FD MAP=FD... < records of (u16 length, bytes)
 *
 * After each frame action, bytes and the counters of its verdict are compared; at checkpoints every
 * event and every map. Only what is a time of the kernel's own is passed over: an event's `time`, a
 * counter's `next_event`. Prints one JSON object; exits 1 where it has found a difference.
 *
 * Time must not matter, for the two sides ask the clock at different moments. So the rate limits'
 * arrival times lie far ahead of now, with bounds that the caller's config sets as far ahead, and
 * timestamps are either close to now or a skew limit beyond the limit.
 */
#define _GNU_SOURCE
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/if_ether.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "assent/credit.h"
#include "assent/tag.h"
#include "frames.h"
#include "gate_host.h"
#include "maps.h"

#define CHECKPOINT                                                                                 \
	512 /* frames; each refused one is an event, and the kernel's ring holds 2,340             \
	     */
#define LOOK_CLOSELY 32
#define EVENT_MAX 256
#define VALUE_MAX 4096
#define FEED_MAX (1 << 20)

static struct host_map *maps;
static unsigned int map_count;
static int map_fds[64];
static uint8_t *remembered[64];
static uint32_t remembered_count[64];
static int is_remembered;
static int program_fd;
static struct ring_buffer *events;
static uint64_t frame_number;
static uint64_t verdicts[ASSENT_REASON_COUNT + 1]; /* the last one: not ours */
static const uint8_t *current_frame;
static uint32_t current_len;

static void report(FILE *out, double seconds)
{
	fprintf(out, "\"frames\": %" PRIu64 ", \"seconds\": %.3f, \"verdicts\": {", frame_number,
		seconds);
	for (int i = 0; i <= ASSENT_REASON_COUNT; i++)
		fprintf(out, "%s\"%d\": %" PRIu64, i ? ", " : "",
			i == ASSENT_REASON_COUNT ? GATE_HOST_NOT_OURS : i, verdicts[i]);
	fprintf(out, "}");
}

/* Says what differs, and how to see it again. */
static void differs(const char *what, const char *which, long long host, long long kernel)
{
	printf("{\"difference\": \"%s %s: %lld on the host, %lld in the kernel\", ", what, which,
	       host, kernel);
	report(stdout, 0);
	printf(", \"frame\": \"");
	for (uint32_t i = 0; i < current_len; i++)
		printf("%02x", current_frame[i]);
	printf("\"}\n");
	exit(1);
}

static void give_up(const char *what)
{
	fprintf(stderr, "differential: %s: %s\n", what, strerror(errno));
	exit(2);
}

static int fd_of(const struct host_map *map)
{
	return map_fds[map - maps];
}

/* -- comparing maps -- */

/* A per-CPU value's sum, as words; other values as they are. */
static void kernel_value(const struct host_map *map, const void *key, uint8_t *value)
{
	static uint8_t raw[1 << 16] __attribute__((aligned(8)));
	unsigned int cpus = host_map_is_per_cpu(map) ? (unsigned int)libbpf_num_possible_cpus() : 1;
	uint64_t *sum = (uint64_t *)value;

	if (map->stride > VALUE_MAX || (size_t)cpus * map->stride > sizeof(raw))
		give_up("a value is too long");
	if (bpf_map_lookup_elem(fd_of(map), key, raw))
		differs("an entry is missing:", map->head.name, 1, 0);
	if (!host_map_is_per_cpu(map)) {
		memcpy(value, raw, map->head.value_size);
		return;
	}
	memset(sum, 0, map->stride);
	for (unsigned int cpu = 0; cpu < cpus; cpu++) {
		for (uint32_t i = 0; i < map->stride / 8; i++)
			sum[i] += ((const uint64_t *)raw)[cpu * (map->stride / 8) + i];
	}
}

static void compare_value(const struct host_map *map, uint32_t index)
{
	static uint8_t kernel[VALUE_MAX] __attribute__((aligned(8)));
	const void *key = host_map_has_keys(map) ? map->keys + (size_t)index * map->head.key_size
						 : (void *)&index;
	const uint8_t *host = host_map_value(map, index);
	char which[64];

	kernel_value(map, key, kernel);
	if (!strcmp(map->head.name, "counters")) {
		struct assent_counter *counter = (struct assent_counter *)kernel;

		counter->next_event = ((const struct assent_counter *)host)->next_event;
	}
	if (!memcmp(host, kernel, map->head.value_size))
		return;
	for (uint32_t at = 0; at < map->head.value_size; at++) {
		if (host[at] != kernel[at]) {
			snprintf(which, sizeof(which), "%s[%u], byte %u", map->head.name, index,
				 at);
			differs("state differs:", which, host[at], kernel[at]);
		}
	}
}

static void compare_hash_size(const struct host_map *map)
{
	uint8_t key[256], next[256];
	void *from = NULL;
	uint32_t count = 0;

	while (!bpf_map_get_next_key(fd_of(map), from, next)) {
		memcpy(key, next, map->head.key_size);
		from = key;
		count++;
	}
	if (count != map->head.count)
		differs("entries of", map->head.name, map->head.count, count);
}

static int draining = 1;

/* Events of frames that somebody else ran before are none of this run's. */
static void drain(void)
{
	if (ring_buffer__consume(events) < 0)
		give_up("reading events");
	draining = 0;
}

static int on_event(void *context, void *data, size_t size)
{
	uint8_t host[EVENT_MAX] = {0};
	uint32_t host_size = draining ? 0 : gate_host_take_event(host, sizeof(host));
	struct assent_event *event = (struct assent_event *)host;

	(void)context;
	if (draining)
		return 0;
	if (host_size != size)
		differs("the size of", "an event", host_size, (long long)size);
	event->time = ((const struct assent_event *)data)->time;
	event->cpu = ((const struct assent_event *)data)->cpu;
	if (memcmp(host, data, size))
		differs("the content of an event, by", "reason", event->reason,
			((const struct assent_event *)data)->reason);
	return 0;
}

/* What forgets by itself does so in the kernel's own order: it is emptied before it is full. */
static void forget(struct host_map *map)
{
	for (uint32_t i = 0; i < host_map_count(map); i++) {
		if (bpf_map_delete_elem(fd_of(map), map->keys + (size_t)i * map->head.key_size))
			give_up("emptying a map");
	}
	host_map_clear(map);
	is_remembered = 0;
}

static void checkpoint(void)
{
	uint8_t left[EVENT_MAX];

	if (ring_buffer__consume(events) < 0)
		give_up("reading events");
	if (gate_host_take_event(left, sizeof(left)))
		differs("an event is missing", "", 1, 0);
	for (unsigned int i = 0; i < map_count; i++) {
		if (!host_map_has_values(&maps[i]))
			continue;
		for (uint32_t at = 0; at < host_map_count(&maps[i]); at++)
			compare_value(&maps[i], at);
		if (host_map_is_hash(&maps[i]))
			compare_hash_size(&maps[i]);
		if (host_map_forgets(&maps[i]))
			forget(&maps[i]);
	}
}

/* -- one frame -- */

static uint64_t coarse_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static int is_state(const struct host_map *map)
{
	return map->values && !host_map_is_per_cpu(map);
}

/* What the host's maps hold now, counters aside, is what `left_its_mark` compares with. */
static void remember(void)
{
	for (unsigned int i = 0; i < map_count; i++) {
		size_t size = (size_t)maps[i].head.max_entries * maps[i].stride;

		if (is_state(&maps[i])) {
			if (!remembered[i] && !(remembered[i] = malloc(size)))
				give_up("memory");
			memcpy(remembered[i], maps[i].values, size);
			remembered_count[i] = maps[i].head.count;
		}
	}
}

static int left_its_mark(void)
{
	for (unsigned int i = 0; i < map_count; i++) {
		size_t size = (size_t)maps[i].head.max_entries * maps[i].stride;

		if (!is_state(&maps[i]))
			continue;
		if (remembered_count[i] != maps[i].head.count ||
		    memcmp(remembered[i], maps[i].values, size))
			return 1;
	}
	return 0;
}

/* The kernel takes no frame without an Ethernet header, and says so. */
static int kernel_run(const uint8_t *frame, uint32_t len, const uint8_t *expected)
{
	static uint8_t after[GATE_HOST_FRAME_MAX + 512];
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = frame, .data_size_in = len,
		    .data_out = after, .data_size_out = sizeof(after));
	int err = bpf_prog_test_run_opts(program_fd, &opts);

	if (len < ETH_HLEN) {
		if (err != -EINVAL)
			differs("a frame without an Ethernet header", "", -EINVAL, err);
		return XDP_PASS;
	}
	if (err) {
		errno = -err;
		give_up("test run");
	}
	if (opts.data_size_out != len || memcmp(after, expected, len))
		differs("the frame was changed otherwise", "", 0, 1);
	return (int)opts.retval;
}

static void compare_counter(int reason)
{
	const struct host_map *counters = host_map_named("counters");

	compare_value(counters, reason == GATE_HOST_NOT_OURS ? ASSENT_ADMITTED : (uint32_t)reason);
}

/* More than its Ethernet addresses. */
static int changed_more(const uint8_t *frame, const uint8_t *after, uint32_t len)
{
	return memcmp(frame + 2 * ETH_ALEN, after + 2 * ETH_ALEN, len - 2 * ETH_ALEN) != 0;
}

static int run(const uint8_t *frame, uint32_t len, int closely)
{
	struct gate_host_result host;
	int action, passed;

	current_frame = frame;
	current_len = len;
	if (closely && !is_remembered)
		remember();
	gate_host_now = coarse_now();
	host = gate_host_run(frame, len);
	action = kernel_run(frame, len, host.after);
	if (host.action != action)
		differs("the action", "", host.action, action);
	passed = host.reason == ASSENT_ADMITTED || host.reason == ASSENT_RELAYED;
	if (host.frame_changed &&
	    (host.reason != ASSENT_RELAYED || changed_more(frame, host.after, len)))
		differs("the frame was changed", "", 1, 0);
	if (!passed && closely && left_its_mark())
		differs("a frame that was not admitted left its mark", "", host.reason,
			host.reason);
	is_remembered = closely && !passed;
	compare_counter(host.reason);
	verdicts[host.reason == GATE_HOST_NOT_OURS ? ASSENT_REASON_COUNT : host.reason]++;
	if (++frame_number % CHECKPOINT == 0)
		checkpoint();
	return host.reason;
}

/* -- the two ways to come by frames -- */

/* When the next event of a reason may be emitted is each CPU's own affair: at once, on all. */
static void forget_event_times(void)
{
	const struct host_map *counters = host_map_named("counters");
	unsigned int cpus = (unsigned int)libbpf_num_possible_cpus();
	static struct assent_counter each[1024];

	if (cpus > sizeof(each) / sizeof(each[0]) || counters->stride != sizeof(each[0]))
		give_up("counters");
	for (uint32_t i = 0; i < host_map_count(counters); i++) {
		((struct assent_counter *)host_map_value(counters, i))->next_event = 0;
		if (bpf_map_lookup_elem(fd_of(counters), &i, each))
			give_up("reading counters");
		for (unsigned int cpu = 0; cpu < cpus; cpu++)
			each[cpu].next_event = 0;
		if (bpf_map_update_elem(fd_of(counters), &i, each, BPF_EXIST))
			give_up("writing counters");
	}
}

static void push(struct host_map *map, const void *key, const void *value)
{
	if (bpf_map_update_elem(fd_of(map), key, value, BPF_EXIST))
		give_up("updating a map");
}

static void generate(uint64_t seed, uint64_t count)
{
	struct frames_frame frame;

	frames_begin(seed, coarse_now(), push);
	for (uint64_t i = 0; i < count; i++) {
		frames_next(&frame);
		run(frame.data, frame.len, i % LOOK_CLOSELY == 0);
	}
}

static void feed(void)
{
	static uint8_t frame[1 << 16];
	static int8_t reasons[FEED_MAX];
	uint32_t count = 0;
	uint16_t len;

	while (fread(&len, sizeof(len), 1, stdin) == 1) {
		if (len && fread(frame, len, 1, stdin) != 1)
			give_up("the records end early");
		if (count == FEED_MAX)
			give_up("too many records");
		reasons[count++] = (int8_t)run(frame, len, 1);
	}
	checkpoint();
	printf("{\"reasons\": [");
	for (uint32_t i = 0; i < count; i++)
		printf("%s%d", i ? ", " : "", reasons[i]);
	printf("], ");
}

static void take_descriptors(char **arguments)
{
	for (unsigned int i = 0; i < map_count; i++)
		map_fds[i] = -1;
	for (; *arguments; arguments++) {
		char *equals = strchr(*arguments, '=');

		if (!equals)
			give_up("usage: MAP=FD");
		*equals = 0;
		map_fds[host_map_named(*arguments) - maps] = atoi(equals + 1);
	}
	for (unsigned int i = 0; i < map_count; i++) {
		if (map_fds[i] < 0)
			give_up("a map has no descriptor");
	}
}

/* Counters are per CPU; so that the clock's steps and nothing else may differ, one CPU runs all. */
static void stay_here(void)
{
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET((size_t)sched_getcpu(), &here);
	if (sched_setaffinity(0, sizeof(here), &here))
		give_up("staying on one CPU");
}

int main(int argc, char **argv)
{
	int generates = argc > 5 && !strcmp(argv[1], "generate");
	uint64_t began;

	if (argc < 4 || (!generates && strcmp(argv[1], "feed")))
		give_up("usage: differential generate|feed ...");
	map_count = host_maps_load(argv[2], &maps);
	program_fd = atoi(argv[3]);
	take_descriptors(argv + (generates ? 6 : 4));
	stay_here();
	events = ring_buffer__new(fd_of(host_map_named("events")), on_event, NULL, NULL);
	if (!events)
		give_up("opening the ring of events");

	forget_event_times();
	drain();
	checkpoint();
	began = coarse_now();
	if (generates) {
		generate(strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
		checkpoint();
		printf("{");
	} else {
		feed();
	}
	report(stdout, (double)(coarse_now() - began) / 1e9);
	printf("}\n");
	ring_buffer__free(events);
	return 0;
}
