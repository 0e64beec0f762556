/* What the test programs of libioasid share: an answer that is not the expected one ends the program with its words. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <ioasid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static inline int expect(const char *what, int expected, int found)
{
	if (found == expected)
		return found;
	fprintf(stderr, "%s: %d instead of %d: %s\n", what, found, expected, ioasid_error());
	exit(1);
}

static inline void must(const char *what, int condition)
{
	if (condition)
		return;
	fprintf(stderr, "%s: is not so\n", what);
	exit(1);
}

static inline struct ioasid_info look(const ioasid_set *set)
{
	struct ioasid_info info = { .size = sizeof(info) };

	expect("info", 0, ioasid_get_info(set, &info));
	return info;
}

/* A set of its own from the service at `socket`. */
static inline ioasid_set *take(const char *socket, uint32_t quota)
{
	struct ioasid_set_options options = { .size = sizeof(options), .quota = quota };
	ioasid_set *set;

	expect("create", 0, ioasid_create(&set, socket, &options));
	return set;
}

#endif
