/* The version that a program is compiled for, and the one that it runs with. */
#include "check.h"

#if !IOASID_CHECK_VERSION(IOASID_VERSION_MAJOR, IOASID_VERSION_MINOR, IOASID_VERSION_MICRO)
#error "a version is at least itself"
#endif
#if IOASID_CHECK_VERSION(IOASID_VERSION_MAJOR, IOASID_VERSION_MINOR, IOASID_VERSION_MICRO + 1) || \
	IOASID_CHECK_VERSION(IOASID_VERSION_MAJOR, IOASID_VERSION_MINOR + 1, 0) || \
	IOASID_CHECK_VERSION(IOASID_VERSION_MAJOR + 1, 0, 0)
#error "no version is a later one"
#endif

int main(void)
{
	char parts[64];

	snprintf(parts, sizeof(parts), "%d.%d.%d", IOASID_VERSION_MAJOR, IOASID_VERSION_MINOR, IOASID_VERSION_MICRO);
	must("the parts make the whole", strcmp(parts, IOASID_VERSION) == 0);
	must("header and library are of one version", strcmp(ioasid_version(), IOASID_VERSION) == 0);
	must("the string stays where it is", ioasid_version() == ioasid_version());
	puts(IOASID_VERSION);
	return 0;
}
