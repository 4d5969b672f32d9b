// SPDX-License-Identifier: Apache-2.0
/*
 * From messages to the plaintexts of frames. What is taken waits in a queue, in buffers of the
 * pool, with credit and a number set aside for each; it gets its number when it leaves, so that
 * numbers rise in the order in which frames leave.
 */
#include "flow_parts.h"

/* A long message begins in a frame that others share only if so much of it fits. */
#define WORTH_SHARING ASSENT_BLOCK_LEN

/* The bytes of a message that are still to be taken. */
struct source {
	const struct an_span *span;
	uint64_t offset; /* in it */
	uint64_t left;
};

static int source_open(struct source *from, const struct an_span *spans, uint32_t count,
		       uint64_t skip)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < count; i++)
		total += spans[i].len;
	if (skip > total)
		return -EINVAL;
	from->span = spans;
	from->offset = skip;
	from->left = total - skip;
	while (from->left && from->offset >= from->span->len) {
		from->offset -= from->span->len;
		from->span++;
	}
	return 0;
}

static void source_take(struct source *from, uint8_t *to, uint32_t len)
{
	from->left -= len;
	while (len) {
		uint64_t there = from->span->len - from->offset;
		uint32_t n = there < len ? (uint32_t)there : len;

		memcpy(to, from->span->data + from->offset, n);
		to += n;
		len -= n;
		from->offset += n;
		if (from->offset == from->span->len) {
			from->span++;
			from->offset = 0;
		}
	}
}

static uint32_t plain_cost(uint32_t plain_len)
{
	return assent_frame_cost(plain_len + ASSENT_AEAD_TAG_LEN);
}

/* Bytes of plaintext that a frame may have: of a small window, what it can ever pay for. */
static uint32_t plain_room(const struct an_flow *flow)
{
	uint32_t window = flow->line->tx_window;
	uint32_t leaves = an_data_leaves(flow);
	uint32_t blocks = window > leaves ? window - leaves - 1 : 0;
	uint32_t payload = flow->payload_max;

	if (blocks < payload / ASSENT_BLOCK_LEN)
		payload = blocks * ASSENT_BLOCK_LEN;
	return payload > ASSENT_AEAD_TAG_LEN ? payload - ASSENT_AEAD_TAG_LEN : 0;
}

/* -- the queue -- */

static struct an_buffer *queue_new(struct an_flow *flow, uint32_t plain_room)
{
	struct an_buffer *buffer = an_pool_take(flow->pool, plain_room + ASSENT_AEAD_TAG_LEN);

	if (!buffer)
		return NULL;
	if (flow->queue_tail)
		flow->queue_tail->next = buffer;
	else
		flow->queue_head = buffer;
	flow->queue_tail = buffer;
	flow->queue_count++;
	return buffer;
}

struct an_buffer *an_queue_pop(struct an_flow *flow)
{
	struct an_buffer *buffer = flow->queue_head;

	if (!buffer)
		return NULL;
	flow->queue_head = buffer->next;
	if (!flow->queue_head)
		flow->queue_tail = NULL;
	if (flow->building == buffer)
		flow->building = NULL;
	flow->queue_count--;
	if (!buffer->lamp)
		flow->queue_cost -= plain_cost(buffer->len);
	buffer->next = NULL;
	return buffer;
}

/* May a plaintext grow so, or begin where it has 0 bytes? */
static int may_grow(const struct an_flow *flow, uint32_t from, uint32_t to)
{
	uint32_t more = plain_cost(to) - (from ? plain_cost(from) : 0);

	if (!from && an_numbers_left(flow) <= an_number_reserve(flow))
		return 0;
	return !more || an_credit_left(flow) >= (uint64_t)more + an_data_leaves(flow);
}

int an_may_write(const struct an_flow *flow)
{
	return !flow->tx_finished && plain_room(flow) > AN_RECORD_HEAD &&
	       may_grow(flow, 0, plain_room(flow));
}

/* A message that credit does not allow may go under LAMP, where nothing else is on its way. */
static int may_lamp(const struct an_flow *flow, uint64_t len)
{
	if (!flow->lamp || flow->message_open || flow->queue_count || flow->tx_unsettled ||
	    len + AN_RECORD_HEAD > an_flow_message_max(flow))
		return 0;
	return plain_cost((uint32_t)len + AN_RECORD_HEAD) <= AN_LAMP_BLOCKS &&
	       flow->tx_lamps < (flow->line->tx_window ? 1 : AN_LAMPS);
}

/* A record of the message's next bytes at the end of `buffer`. */
static void put_record(struct an_buffer *buffer, struct source *from, uint32_t len, uint32_t flags)
{
	an_record_put(buffer->data + buffer->len, len | flags);
	source_take(from, buffer->data + buffer->len + AN_RECORD_HEAD, len);
	buffer->len += (uint16_t)(AN_RECORD_HEAD + len);
	buffer->message_bytes += len;
}

static int put_lamp(struct an_flow *flow, struct source *from)
{
	struct an_buffer *buffer = queue_new(flow, AN_RECORD_HEAD + (uint32_t)from->left);

	if (!buffer)
		return -ENOMEM;
	buffer->lamp = 1;
	put_record(buffer, from, (uint32_t)from->left, 0);
	return 0;
}

/* Leaves the frame that is being filled, if the message had better begin in one of its own. */
static void choose_frame(struct an_flow *flow, uint64_t left, uint32_t room)
{
	struct an_buffer *buffer = flow->building;
	uint64_t wanted = left;

	if (!buffer)
		return;
	if (flow->delivery == AN_ORDERED)
		wanted = an_least(left, WORTH_SHARING);
	if (buffer->len + AN_RECORD_HEAD + wanted > room)
		flow->building = NULL;
}

/* Puts one record into one frame. 0, or why not. */
static int put_part(struct an_flow *flow, struct source *from, uint32_t room, uint32_t flags)
{
	struct an_buffer *buffer;
	uint32_t at, len, to;

	choose_frame(flow, from->left, room);
	buffer = flow->building;
	at = buffer ? buffer->len : 0;
	if (room < at + AN_RECORD_HEAD + (from->left != 0))
		return -EAGAIN;
	len = (uint32_t)an_least(from->left, room - at - AN_RECORD_HEAD);
	if (len < from->left && flow->delivery != AN_ORDERED)
		return -EAGAIN;
	to = at + AN_RECORD_HEAD + len;
	if (!may_grow(flow, at, to))
		return -EAGAIN;
	if (!buffer)
		buffer = queue_new(flow, flags & AN_COALESCE ? room : to);
	if (!buffer)
		return -ENOMEM;
	flow->queue_cost += plain_cost(to) - (at ? plain_cost(at) : 0);
	put_record(buffer, from, len, len < from->left ? AN_RECORD_MORE : 0);
	/* A record that goes on is a frame's last. */
	flow->building = flags & AN_COALESCE && !from->left ? buffer : NULL;
	return 0;
}

static int check_open(const struct an_flow *flow)
{
	if (flow->broken)
		return flow->broken;
	return flow->tx_finished ? -EPIPE : 0;
}

/* Credit ran out: it is known from when somebody waited for it. */
static int blocked(struct an_flow *flow, int err)
{
	if (err == -EAGAIN && !flow->waiting_for_credit) {
		flow->waiting_for_credit = 1;
		flow->stats.credit_waits++;
	}
	return err;
}

/* Takes what it can of the message. 0: it is whole. */
static int put_message(struct an_flow *flow, struct source *from, uint32_t flags)
{
	uint32_t room = plain_room(flow);
	int err;

	for (uint32_t frames = 0; frames < AN_WRITE_BURST; frames++) {
		err = put_part(flow, from, room, flags);
		if (err == -EAGAIN && may_lamp(flow, from->left))
			err = put_lamp(flow, from);
		if (err)
			return blocked(flow, err);
		if (!from->left) {
			flow->waiting_for_credit = 0;
			flow->message_open = 0;
			flow->stats.messages_sent++;
			return 0;
		}
		flow->message_open = 1;
	}
	return -EAGAIN;
}

/* Work begins when there was none. */
static void begin_work(struct an_flow *flow, uint64_t now)
{
	if (!an_waits(flow) && !flow->queue_count)
		flow->progress_at = now;
}

int64_t an_flow_write(struct an_flow *flow, const struct an_span *spans, uint32_t count,
		      uint64_t skip, uint32_t flags, uint64_t now)
{
	struct source from;
	uint64_t before;
	int err = check_open(flow);

	if (!err)
		err = source_open(&from, spans, count, skip);
	if (err)
		return err;
	if (skip != (flow->message_open ? flow->message_done : 0) ||
	    (flow->message_open && !from.left))
		return -EINVAL;
	if (flow->delivery != AN_ORDERED && from.left > an_flow_message_max(flow))
		return -EMSGSIZE;
	begin_work(flow, now);
	an_take_receipts(flow, now);
	before = from.left;
	err = put_message(flow, &from, flags);
	flow->message_done = skip + before - from.left;
	return !err || from.left != before ? (int64_t)(before - from.left) : err;
}

/* Takes a message only if all of it can be taken now. */
static int put_whole(struct an_flow *flow, const struct an_span *span, uint32_t flags)
{
	uint32_t room = plain_room(flow);
	struct source from = {.span = span, .left = span->len};
	uint64_t cost;
	int err;

	if (span->len > an_flow_message_max(flow) && flow->delivery != AN_ORDERED)
		return -EMSGSIZE;
	if (span->len + AN_RECORD_HEAD <= room) {
		if (flow->building && flow->building->len + AN_RECORD_HEAD + span->len > room)
			flow->building = NULL;
	} else {
		/* A frame more than are filled, and the one that is shared. */
		uint64_t frames = room > WORTH_SHARING ? span->len / (room - WORTH_SHARING) + 2 : 0;

		cost = frames * plain_cost(room) + an_data_leaves(flow);
		if (!frames || frames > AN_WRITE_BURST || cost > flow->line->tx_window ||
		    frames + an_number_reserve(flow) > flow->number_max)
			return -EMSGSIZE;
		if (an_credit_left(flow) < cost ||
		    an_numbers_left(flow) < frames + an_number_reserve(flow))
			return blocked(flow, -EAGAIN);
	}
	err = put_message(flow, &from, flags);
	if (err && flow->message_open)
		err = an_break(flow, err, "there is no memory for what is to be sent");
	return err;
}

int64_t an_flow_write_many(struct an_flow *flow, const uint8_t *base, uint32_t size,
			   const uint32_t *lengths, uint32_t count, uint32_t flags, uint64_t now)
{
	int err = check_open(flow);
	uint32_t taken = 0;

	if (!err && flow->message_open)
		err = -EINVAL;
	if (err)
		return err;
	begin_work(flow, now);
	an_take_receipts(flow, now);
	if (!(flags & AN_COALESCE))
		flow->building = NULL;
	for (; taken < count && flow->queue_count < AN_WRITE_BURST; taken++) {
		struct an_span span = {.data = base, .len = lengths ? lengths[taken] : size};

		err = put_whole(flow, &span, flags);
		if (err)
			break;
		base += span.len;
	}
	return taken || !err ? (int64_t)taken : err;
}

int an_flow_finish(struct an_flow *flow, uint64_t now)
{
	struct an_buffer *buffer;
	int err = check_open(flow);
	int paid;

	if (err)
		return err == -EPIPE ? 0 : err;
	if (flow->message_open)
		return -EINVAL;
	begin_work(flow, now);
	an_take_receipts(flow, now);
	flow->building = NULL;
	paid = may_grow(flow, 0, AN_RECORD_HEAD);
	if (!paid && !may_lamp(flow, 0))
		return blocked(flow, -EAGAIN);
	buffer = queue_new(flow, AN_RECORD_HEAD);
	if (!buffer)
		return -ENOMEM;
	an_record_put(buffer->data, AN_RECORD_END);
	buffer->len = AN_RECORD_HEAD;
	buffer->lamp = !paid;
	flow->queue_cost += paid ? plain_cost(AN_RECORD_HEAD) : 0;
	flow->waiting_for_credit = 0;
	flow->tx_finished = 1;
	return 0;
}
