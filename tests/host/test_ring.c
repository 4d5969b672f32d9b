// SPDX-License-Identifier: Apache-2.0
/*
 * The ring's own machinery, beside real flow engines and on a port that is a list of frames: who
 * sends when, what is due, whose frame it is, and who drives. What goes through a kernel is tested
 * in network namespaces.
 */
#include "../../controlplane/assent/native/ring.c"

#include "cases.h"

#define FLOWS 300
#define FRAMES 8192
#define WINDOW 4000

/* -- a port of memory -- */

struct fake_frame {
	uint32_t len;
	uint8_t data[AN_FRAME_MAX] __attribute__((aligned(16)));
};

static struct fake {
	struct an_port port;
	struct fake_frame sent[FRAMES]; /* in the order in which they were pushed */
	uint32_t sent_count;
	uint32_t flushed;
	uint32_t room; /* frames that may still be pushed */
	struct an_view arriving[AN_BURST];
	unsigned int arriving_count;
	int is_gone;
	int events; /* a pipe's end that is never readable */
} fake;

static uint8_t fake_buffer[2 + AN_FRAME_MAX] __attribute__((aligned(16)));

static unsigned int fake_rx(struct an_port *port, struct an_view *views, unsigned int max)
{
	unsigned int count = fake.arriving_count;

	memcpy(views, fake.arriving, count * sizeof(*views));
	fake.arriving_count = 0;
	return count;
}

static void fake_rx_done(struct an_port *port)
{
}

static uint8_t *fake_tx_buffer(struct an_port *port)
{
	return fake.room ? fake_buffer + 2 : NULL;
}

static void fake_tx_push(struct an_port *port, uint8_t *buffer, uint32_t len)
{
	struct fake_frame *frame = &fake.sent[fake.sent_count++ % FRAMES];

	CLAIM(buffer == fake_buffer + 2 && len <= AN_FRAME_MAX);
	frame->len = len;
	memcpy(frame->data, buffer, len);
	fake.room--;
}

static int fake_flush(struct an_port *port)
{
	fake.flushed = fake.sent_count;
	return 0;
}

static int fake_pending(const struct an_port *port)
{
	return fake.arriving_count != 0;
}

static int fake_gone(struct an_port *port)
{
	return fake.is_gone;
}

static uint64_t fake_dropped(struct an_port *port)
{
	return 0;
}

static void fake_close(struct an_port *port)
{
	close(port->fd);
}

static const struct an_port_ops fake_ops = {
    .rx = fake_rx,
    .rx_done = fake_rx_done,
    .tx_buffer = fake_tx_buffer,
    .tx_push = fake_tx_push,
    .flush = fake_flush,
    .pending = fake_pending,
    .gone = fake_gone,
    .dropped = fake_dropped,
    .close = fake_close,
};

struct an_port *an_port_open_xdp(const struct an_ring_config *config, char *error, size_t error_len)
{
	memset(&fake, 0, sizeof(fake));
	fake.port = (struct an_port){
	    .ops = &fake_ops,
	    .fd = eventfd(0, EFD_CLOEXEC),
	    .backend = AN_BACKEND_AF_XDP,
	    .frame_max = 1792,
	    .interface = "fake",
	};
	fake.room = FRAMES;
	return &fake.port;
}

struct an_port *an_port_open_packet(const struct an_ring_config *config, char *error,
				    size_t error_len)
{
	snprintf(error, error_len, "there is no such port here");
	return NULL;
}

struct an_port *an_port_attach_xdp(int fd, int umem, const struct an_shape *shape, char *error,
				   size_t error_len)
{
	return an_port_open_packet(NULL, error, error_len);
}

struct an_port *an_port_attach_packet(int fd, const struct an_shape *shape, char *error,
				      size_t error_len)
{
	return an_port_open_packet(NULL, error, error_len);
}

int an_packet_choose(struct an_port *port, const struct an_choice *choices, uint32_t count)
{
	return 0;
}

int an_wait_for_readers(void)
{
	return 0;
}

/* -- a ring with flows -- */

static struct assent_flow lines[FLOWS] __attribute__((aligned(64)));
static an_flow *flows[FLOWS];
static char error[256];

static an_ring *open_ring(void)
{
	const struct an_ring_config config = {
	    .sockets_map = 0, .backend = AN_BACKEND_AF_XDP, .lent_fds = {-1, -1, -1, -1}};
	an_ring *ring = an_ring_open(&config, error, sizeof(error));

	CLAIM(ring);
	return ring;
}

/* Flow `number` + 1, of a peer of its own. */
static void add_flow(an_ring *ring, uint32_t number, uint32_t class_)
{
	struct an_flow_config config = {.epoch = 1,
					.flow = number + 1,
					.mtu = 1500,
					.line = &lines[number],
					.delivery = AN_ORDERED,
					.class_ = class_};

	memset(config.local_cell, 0x10, sizeof(config.local_cell));
	memset(config.remote_cell, 0x20 + (int)(number % 7), sizeof(config.remote_cell));
	lines[number] = (struct assent_flow){.rx_granted = WINDOW,
					     .tx_granted = WINDOW,
					     .rx_window = WINDOW,
					     .tx_window = WINDOW,
					     .replay_len = 2048};
	flows[number] = an_ring_add(ring, &config, error, sizeof(error));
	CLAIM(flows[number]);
}

static uint32_t flow_of(const struct fake_frame *frame)
{
	uint16_t flow;

	memcpy(&flow, frame->data + ASSENT_ETH_LEN + offsetof(struct assent_header, flow), 2);
	return assent_be16(flow) - 1u;
}

/* Writes so many messages of a frame each, without room to send them. */
static void write_unsent(an_ring *ring, uint32_t number, uint32_t count)
{
	static const uint8_t message[1000];
	const struct an_span span = {message, sizeof(message)};

	fake.room = 0;
	for (uint32_t i = 0; i < count; i++)
		CLAIM(an_ring_write(ring, flows[number], &span, 1, 0, 0) == sizeof(message));
}

/* A frame as the gate would let it through, of a flow's peer. */
static uint32_t make_frame(uint8_t *frame, uint32_t number, uint32_t seq)
{
	struct assent_header h = {.flow = assent_be16((uint16_t)(number + 1)),
				  .seq = assent_be32(seq),
				  .grant = assent_be16(WINDOW),
				  .flags = assent_be16(ASSENT_FLAG_BLOCK)};

	memset(h.pair.dst.bytes, 0x10, sizeof(h.pair.dst));
	memset(h.pair.src.bytes, 0x20 + (int)(number % 7), sizeof(h.pair.src));
	memset(frame, 0, ASSENT_ETH_LEN);
	memcpy(frame + ASSENT_ETH_LEN, &h, sizeof(h));
	return ASSENT_ETH_LEN + sizeof(h);
}

/* -- cases -- */

static void test_classes_have_strict_priority(void)
{
	an_ring *ring = open_ring();

	for (uint32_t i = 0; i < AN_CLASSES; i++)
		add_flow(ring, i, AN_CLASSES - 1 - i); /* the least urgent first */
	for (uint32_t i = 0; i < AN_CLASSES; i++)
		write_unsent(ring, i, 100);
	CLAIM(fake.sent_count == 0);
	fake.room = FRAMES;
	for (int i = 0; i < 4; i++)
		CLAIM(an_ring_drive(ring, 0, error, sizeof(error)) == 0);
	while (fake.sent_count < 400)
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
	for (uint32_t i = 0; i < 400; i++)
		CLAIM(flow_of(&fake.sent[i]) == AN_CLASSES - 1 - i / 100);
	CLAIM(fake.flushed == fake.sent_count);
	an_ring_close(ring);
}

static void test_flows_of_a_class_take_turns(void)
{
	an_ring *ring = open_ring();
	uint32_t counts[3] = {0};

	for (uint32_t i = 0; i < 3; i++)
		add_flow(ring, i, AN_STANDARD);
	for (uint32_t i = 0; i < 3; i++)
		write_unsent(ring, i, 4 * QUANTUM);
	fake.room = FRAMES;
	while (fake.sent_count < 12 * QUANTUM)
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
	for (uint32_t i = 0; i < 12 * QUANTUM; i++) {
		uint32_t flow = flow_of(&fake.sent[i]);

		counts[flow]++;
		/* No flow is ever more than a turn ahead of another. */
		for (uint32_t other = 0; other < 3; other++)
			CLAIM(counts[flow] <= counts[other] + QUANTUM);
	}
	an_ring_close(ring);
}

static void test_a_port_without_room_keeps_nothing_back(void)
{
	an_ring *ring = open_ring();

	add_flow(ring, 0, AN_STANDARD);
	write_unsent(ring, 0, 10);
	CLAIM(ring->unflushed && ring->ready_count == 1);
	for (uint32_t i = 1; i <= 10; i++) {
		fake.room = 1;
		while (fake.sent_count < i)
			CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
	}
	CLAIM(fake.sent_count == 10 && fake.flushed == 10);
	an_ring_close(ring);
}

static void test_what_is_written_leaves_before_the_call_returns(void)
{
	static const uint8_t message[64];
	const struct an_span span = {message, sizeof(message)};
	an_ring *ring = open_ring();

	add_flow(ring, 0, AN_STANDARD);
	CLAIM(an_ring_write(ring, flows[0], &span, 1, 0, 0) == sizeof(message));
	CLAIM(fake.flushed == 1);
	/* What is left open for more does not; a little later it does. */
	CLAIM(an_ring_write(ring, flows[0], &span, 1, 0, AN_COALESCE) == sizeof(message));
	CLAIM(an_ring_write(ring, flows[0], &span, 1, 0, AN_COALESCE) == sizeof(message));
	CLAIM(fake.flushed == 1);
	while (fake.flushed < 2)
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
	CLAIM(fake.sent[1].len > fake.sent[0].len);
	an_ring_close(ring);
}

static void test_frames_find_their_flows(void)
{
	static uint8_t frame[AN_FRAME_MAX];
	an_ring *ring = open_ring();
	struct an_stats stats;

	for (uint32_t i = 0; i < FLOWS; i++)
		add_flow(ring, i, AN_STANDARD);
	CLAIM(ring->bucket_count >= FLOWS);
	for (uint32_t i = 0; i < FLOWS; i++) {
		fake.arriving[0] = (struct an_view){frame, make_frame(frame, i, 1)};
		fake.arriving_count = 1;
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
		an_ring_stats(ring, flows[i], &stats);
		CLAIM(stats.rx_frames == 1);
	}
	CLAIM(ring->foreign == 0);
	for (uint32_t i = 0; i < FLOWS; i += 2)
		an_ring_remove(ring, flows[i]);
	CLAIM(ring->flows == FLOWS / 2);
	for (uint32_t i = 0; i < FLOWS; i++) {
		fake.arriving[0] = (struct an_view){frame, make_frame(frame, i, 2)};
		fake.arriving_count = 1;
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
		CLAIM(ring->foreign == i / 2 + 1);
	}
	an_ring_close(ring);
	for (uint32_t i = 0; i < FLOWS; i++)
		CLAIM(lines[i].rx_open == ASSENT_SHUT);
}

static void test_what_is_no_frame_of_ours_is_passed_over(void)
{
	static uint8_t frame[AN_FRAME_MAX];
	an_ring *ring = open_ring();
	uint32_t len, foreign = 0;

	add_flow(ring, 0, AN_STANDARD);
	for (uint32_t cut = 0; cut <= ASSENT_ETH_LEN + ASSENT_HEADER_LEN + 64; cut++) {
		len = make_frame(frame, 0, 1);
		if (cut == len)
			continue;
		/* A buffer of its own length: the sanitizer sees what is read beyond. */
		uint8_t *copy = malloc(cut ? cut : 1);

		memcpy(copy, frame, cut);
		fake.arriving[0] = (struct an_view){copy, cut};
		fake.arriving_count = 1;
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
		free(copy);
		CLAIM(ring->foreign == ++foreign);
	}
	for (uint32_t at = ASSENT_ETH_LEN; at < ASSENT_ETH_LEN + 32; at++) {
		len = make_frame(frame, 0, 1);
		frame[at] ^= 1;
		fake.arriving[0] = (struct an_view){frame, len};
		fake.arriving_count = 1;
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
		CLAIM(ring->foreign == ++foreign);
	}
	an_ring_close(ring);
}

/* Against a model: an array that is searched through. */
static void test_what_is_due_first_comes_first(void)
{
	static struct ring_flow all[FLOWS];
	struct ring_flow *room[FLOWS];
	struct an_ring ring = {.heap = room, .heap_room = FLOWS};
	uint64_t model[FLOWS];
	uint64_t state = 88172645463325252ULL;

	for (uint32_t i = 0; i < FLOWS; i++)
		model[i] = FOR_EVER;
	for (int step = 0; step < 200000; step++) {
		uint64_t least = FOR_EVER;
		uint32_t i;

		state ^= state << 13, state ^= state >> 7, state ^= state << 17;
		i = (uint32_t)(state >> 32) % FLOWS;
		if (state % 4) {
			uint64_t due = 1 + (state >> 8) % 1000;

			be_due(&ring, &all[i], due);
			model[i] = an_least(model[i], due);
		} else {
			heap_remove(&ring, &all[i]);
			model[i] = FOR_EVER;
		}
		for (i = 0; i < FLOWS; i++)
			least = an_least(least, model[i]);
		CLAIM(next_due(&ring) == least);
	}
}

static void test_a_watch_fires_once(void)
{
	static uint8_t frame[AN_FRAME_MAX];
	an_ring *ring = open_ring();
	struct pollfd event = {.fd = an_ring_fd(ring), .events = POLLIN};
	an_flow *fired[4];

	add_flow(ring, 0, AN_STANDARD);
	add_flow(ring, 1, AN_STANDARD);
	CLAIM(an_ring_watch(ring, flows[0], AN_WRITABLE) == AN_WRITABLE);
	CLAIM(an_ring_fired(ring, fired, 4) == 0 && poll(&event, 1, 0) == 0);
	CLAIM(an_ring_watch(ring, flows[0], AN_READABLE | AN_BROKEN) == 0);
	CLAIM(an_ring_watch(ring, flows[1], AN_READABLE | AN_BROKEN) == 0);
	/* Beyond the window: the flow is broken. */
	for (uint32_t seq = 5000; seq < 5002; seq++) {
		fake.arriving[0] = (struct an_view){frame, make_frame(frame, 0, seq)};
		fake.arriving_count = 1;
		CLAIM(an_ring_drive(ring, 1, error, sizeof(error)) == 0);
	}
	CLAIM(poll(&event, 1, 0) == 1);
	CLAIM(an_ring_fired(ring, fired, 4) == 1 && fired[0] == flows[0]);
	CLAIM(an_ring_fired(ring, fired, 4) == 0);
	CLAIM(an_ring_watch(ring, flows[0], AN_BROKEN) == AN_BROKEN);
	CLAIM(an_ring_error(ring, flows[0], error, sizeof(error)) == -EPROTO);
	CLAIM(an_ring_error(ring, flows[1], error, sizeof(error)) == 0);
	CLAIM(an_ring_wait(ring, flows[0], AN_READABLE, -1, error, sizeof(error)) == -EPROTO);
	an_ring_close(ring);
}

static void test_a_wait_has_an_end(void)
{
	an_ring *ring = open_ring();
	uint64_t began = monotonic();

	add_flow(ring, 0, AN_STANDARD);
	CLAIM(an_ring_wait(ring, flows[0], AN_READABLE, 20, error, sizeof(error)) == 0);
	CLAIM(monotonic() - began >= 20 * AN_MILLISECOND);
	CLAIM(an_ring_wait(ring, flows[0], AN_WRITABLE, -1, error, sizeof(error)) == AN_WRITABLE);
	lines[0].replay_len = 0;
	CLAIM(an_ring_wait(ring, flows[0], AN_READABLE, -1, error, sizeof(error)) == -ENOTCONN);
	lines[0].replay_len = 2048;
	fake.is_gone = 1;
	CLAIM(an_ring_wait(ring, flows[0], AN_READABLE, -1, error, sizeof(error)) == -ENETDOWN);
	CLAIM(!strcmp(error, "the interface fake is gone"));
	CLAIM(an_ring_drive(ring, 1000, error, sizeof(error)) == -ENETDOWN);
	an_ring_close(ring);
}

struct crowd {
	an_ring *ring;
	uint32_t number;
	int result;
};

static void *wait_in_crowd(void *argument)
{
	struct crowd *one = argument;
	char why[64];

	one->result =
	    an_ring_wait(one->ring, flows[one->number], AN_READABLE, -1, why, sizeof(why));
	return NULL;
}

static int crowd_is_over;

static void *drive_for_crowd(void *argument)
{
	an_ring *ring = argument;
	char why[64];

	while (!__atomic_load_n(&crowd_is_over, __ATOMIC_ACQUIRE))
		an_ring_drive(ring, 60000, why, sizeof(why));
	return NULL;
}

static void *remove_from_crowd(void *argument)
{
	struct crowd *one = argument;

	an_ring_remove(one->ring, flows[one->number]);
	return NULL;
}

/* Many threads wait, a driver drives, others take the flows away; all come back. */
static void test_threads_come_back(void)
{
	enum { THREADS = 8 };
	an_ring *ring = open_ring();
	struct crowd crowd[THREADS];
	pthread_t waiting[THREADS], removing[THREADS], driver;

	for (uint32_t i = 0; i < THREADS; i++)
		add_flow(ring, i, AN_STANDARD);
	CLAIM(!pthread_create(&driver, NULL, drive_for_crowd, ring));
	for (uint32_t i = 0; i < THREADS; i++) {
		crowd[i] = (struct crowd){ring, i, 0};
		CLAIM(!pthread_create(&waiting[i], NULL, wait_in_crowd, &crowd[i]));
	}
	for (uint32_t count = 0; count < THREADS; sched_yield()) {
		lock(ring);
		count = ring->waiters;
		unlock(ring);
	}
	for (uint32_t i = 0; i < THREADS / 2; i++)
		CLAIM(!pthread_create(&removing[i], NULL, remove_from_crowd, &crowd[i]));
	for (uint32_t i = 0; i < THREADS / 2; i++)
		pthread_join(removing[i], NULL);
	__atomic_store_n(&crowd_is_over, 1, __ATOMIC_RELEASE);
	an_ring_wake(ring);
	pthread_join(driver, NULL);
	an_ring_close(ring);
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(waiting[i], NULL);
		CLAIM(crowd[i].result == -ESHUTDOWN);
	}
}

static const struct host_case cases[] = {
    CASE(classes_have_strict_priority),
    CASE(flows_of_a_class_take_turns),
    CASE(a_port_without_room_keeps_nothing_back),
    CASE(what_is_written_leaves_before_the_call_returns),
    CASE(frames_find_their_flows),
    CASE(what_is_no_frame_of_ours_is_passed_over),
    CASE(what_is_due_first_comes_first),
    CASE(a_watch_fires_once),
    CASE(a_wait_has_an_end),
    CASE(threads_come_back),
};

int main(int argc, char **argv)
{
	return run_cases(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
