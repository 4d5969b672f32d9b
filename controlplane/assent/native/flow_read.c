// SPDX-License-Identifier: Apache-2.0
/* From the plaintexts of frames to messages. What was read to its end is consumed. */
#include "flow_parts.h"

struct an_buffer *an_at_hand(const struct an_flow *flow)
{
	const struct an_rx_slot *slot;

	if (flow->delivery != AN_ORDERED)
		return flow->ready_head;
	if (flow->rx_next == flow->rx_end)
		return NULL;
	slot = an_rx_slot(flow, flow->rx_next);
	return slot->state & AN_RX_PRESENT ? slot->payload : NULL;
}

int an_has_ended(const struct an_flow *flow)
{
	return flow->rx_end_known && an_before(flow->rx_end_seq, flow->rx_next) &&
	       !flow->ready_head;
}

/* The frame is read to its end. */
static void leave_frame(struct an_flow *flow, struct an_buffer *text)
{
	struct an_rx_slot *slot = an_rx_slot(flow, text->seq);

	if (flow->delivery != AN_ORDERED) {
		flow->ready_head = text->next;
		if (!flow->ready_head)
			flow->ready_tail = NULL;
	}
	slot->payload = NULL;
	slot->state |= AN_RX_READ;
	flow->cursor.offset = 0;
	an_pool_give(flow->pool, text);
	an_consume(flow);
}

/* Reads the next record's head, if that is not done. NULL: there is nothing. */
static struct an_buffer *open_record(struct an_flow *flow)
{
	struct an_cursor *cursor = &flow->cursor;
	struct an_buffer *text = an_at_hand(flow);
	uint32_t head;

	if (!text || cursor->record)
		return text;
	head = an_record_head(text->data + cursor->offset);
	if (head & AN_RECORD_END) {
		if (cursor->inside) {
			an_break(flow, -EPROTO, "the peer ended amid a message");
			return NULL;
		}
		/* Its sender has nothing else to wait for. */
		an_rx_slot(flow, text->seq)->state |= AN_RX_PROBE;
		leave_frame(flow, text);
		flow->answer_due = 1;
		return open_record(flow);
	}
	cursor->offset += AN_RECORD_HEAD;
	cursor->left = head & AN_RECORD_LEN;
	cursor->more = (head & AN_RECORD_MORE) != 0;
	cursor->record = 1;
	return text;
}

void an_take_end(struct an_flow *flow)
{
	const struct an_buffer *text;

	if (!flow->rx_end_known || flow->cursor.record || flow->cursor.inside)
		return;
	text = an_at_hand(flow);
	if (text && an_record_head(text->data + flow->cursor.offset) & AN_RECORD_END)
		open_record(flow);
}

/* Leaves the record, which is read. 1: so is the message. */
static int close_record(struct an_flow *flow, struct an_buffer *text)
{
	struct an_cursor *cursor = &flow->cursor;

	cursor->record = 0;
	cursor->inside = cursor->more;
	if (cursor->offset == text->len)
		leave_frame(flow, text);
	if (cursor->more)
		return 0;
	flow->stats.messages_received++;
	return 1;
}

static int64_t nothing(const struct an_flow *flow)
{
	if (flow->broken)
		return flow->broken;
	return an_has_ended(flow) ? -EPIPE : -EAGAIN;
}

static int64_t read_one(struct an_flow *flow, uint8_t *buf, uint64_t len, int *end)
{
	struct an_cursor *cursor = &flow->cursor;
	struct an_buffer *text;
	uint64_t got = 0;

	*end = 0;
	if (flow->broken)
		return flow->broken;
	while ((text = open_record(flow))) {
		uint32_t n = (uint32_t)an_least(cursor->left, len - got);

		memcpy(buf + got, text->data + cursor->offset, n);
		got += n;
		cursor->offset += (uint16_t)n;
		cursor->left -= (uint16_t)n;
		flow->stats.rx_payload += n;
		cursor->inside = 1;
		if (cursor->left)
			return (int64_t)got;
		if (close_record(flow, text)) {
			*end = 1;
			an_take_end(flow);
			return (int64_t)got;
		}
	}
	return got && !flow->broken ? (int64_t)got : nothing(flow);
}

int64_t an_flow_read(struct an_flow *flow, uint8_t *buf, uint64_t len, int *end, uint64_t now)
{
	int waits = an_waits(flow);
	int64_t got = read_one(flow, buf, len, end);

	an_began(flow, waits, now);
	return got;
}

/* A message that lies in one frame and of which nothing was read: its length, or -1. */
static int64_t whole_len(const struct an_flow *flow, const struct an_buffer *text)
{
	uint32_t head = an_record_head(text->data + flow->cursor.offset);

	if (flow->cursor.record || flow->cursor.inside || head & (AN_RECORD_MORE | AN_RECORD_END))
		return -1;
	return head;
}

int64_t an_flow_read_many(struct an_flow *flow, uint8_t *buf, uint64_t len, uint32_t *lengths,
			  uint32_t max, uint64_t now)
{
	struct an_cursor *cursor = &flow->cursor;
	int waits = an_waits(flow);
	struct an_buffer *text;
	uint64_t got = 0;
	uint32_t count = 0;

	if (flow->broken)
		return flow->broken;
	while (count < max && (text = an_at_hand(flow))) {
		int64_t n = whole_len(flow, text);

		if (n < 0 || (uint64_t)n > len - got) {
			if (count)
				break;
			return -EMSGSIZE;
		}
		memcpy(buf + got, text->data + cursor->offset + AN_RECORD_HEAD, (size_t)n);
		got += (uint64_t)n;
		lengths[count++] = (uint32_t)n;
		cursor->offset += (uint16_t)(AN_RECORD_HEAD + n);
		if (cursor->offset == text->len)
			leave_frame(flow, text);
		an_take_end(flow);
	}
	an_began(flow, waits, now);
	flow->stats.messages_received += count;
	flow->stats.rx_payload += got;
	return count ? (int64_t)count : nothing(flow);
}
