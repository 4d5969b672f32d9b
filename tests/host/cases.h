/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program of named cases: each aborts with a message where a claim is false. cases.py runs one of
 * them as a test of its own.
 *
 *   static void test_something(void) { CLAIM(1 + 1 == 2); }
 *   static const struct host_case cases[] = {
 *       CASE(something),
 *   };
 */
#ifndef HOST_CASES_H
#define HOST_CASES_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLAIM(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x);            \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

struct host_case {
	const char *name;
	void (*run)(void);
};

#define CASE(name) {#name, test_##name}

/* With no argument: list the cases. With one: run that case. */
static int run_cases(const struct host_case *cases, size_t count, int argc, char **argv)
{
	for (size_t i = 0; i < count; i++) {
		if (argc < 2) {
			puts(cases[i].name);
		} else if (!strcmp(argv[1], cases[i].name)) {
			cases[i].run();
			return 0;
		}
	}
	return argc < 2 ? 0 : 2;
}

#endif /* HOST_CASES_H */
