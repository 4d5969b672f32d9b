// SPDX-License-Identifier: Apache-2.0
#include "records.h"

#include <errno.h>

/* The record at `at`: its length, or minus the fault for which none can stand there. */
static inline int record_len(const uint8_t *plain, uint32_t len, uint32_t at, int ordered)
{
	uint32_t head, body, next;

	if (len - at < AN_RECORD_HEAD)
		return -AN_RECORDS_SHORT;
	head = an_record_head(plain + at);
	body = head & AN_RECORD_LEN;
	next = at + AN_RECORD_HEAD + body;
	if (head & AN_RECORD_END && head != AN_RECORD_END)
		return -AN_RECORDS_END;
	if (next > len)
		return -AN_RECORDS_OVERRUN;
	/* What goes on does so in the next frame, and nothing follows the end. */
	if (head & (AN_RECORD_MORE | AN_RECORD_END) && next != len)
		return -AN_RECORDS_FOLLOWED;
	if (head & AN_RECORD_MORE && !ordered)
		return -AN_RECORDS_UNORDERED;
	return (int)body;
}

enum an_records_fault an_records_fault(const uint8_t *plain, size_t len, int ordered)
{
	uint32_t at = 0;

	if (!len)
		return AN_RECORDS_SHORT;
	while (at < len) {
		int body = record_len(plain, (uint32_t)len, at, ordered);

		if (body < 0)
			return (enum an_records_fault) - body;
		at += AN_RECORD_HEAD + (uint32_t)body;
	}
	return AN_RECORDS_FINE;
}

int an_records_check(const uint8_t *plain, uint32_t len, int ordered, int *end)
{
	uint32_t at = 0;

	*end = 0;
	while (at < len) {
		int body = record_len(plain, len, at, ordered);

		if (body < 0)
			return -EPROTO;
		*end = (an_record_head(plain + at) & AN_RECORD_END) != 0;
		at += AN_RECORD_HEAD + (uint32_t)body;
	}
	return at ? 0 : -EPROTO;
}

int an_records_split(const uint8_t *plain, size_t len, int ordered, uint32_t *records, uint32_t max)
{
	uint32_t at = 0, count = 0;

	if (!len || len > UINT16_MAX)
		return -1;
	while (at < len) {
		int body = record_len(plain, (uint32_t)len, at, ordered);

		if (body < 0 || count == max)
			return -1;
		records[3 * count] = at + AN_RECORD_HEAD;
		records[3 * count + 1] = (uint32_t)body;
		records[3 * count + 2] =
		    an_record_head(plain + at) & (AN_RECORD_MORE | AN_RECORD_END);
		at += AN_RECORD_HEAD + (uint32_t)body;
		count++;
	}
	return (int)count;
}
