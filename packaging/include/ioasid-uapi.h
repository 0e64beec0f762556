/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The ioctls of /dev/ioasid, see ioasid(4).
 *
 * Numbers and layouts are those of the RFC V4 of the kernel's IOASID interface, so that a program written for
 * it runs unchanged. All four commands are _IO(): their numbers say nothing of what the argument points at.
 */
#ifndef IOASID_UAPI_H
#define IOASID_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define IOASID_TYPE ('i')
#define IOASID_BASE 100

/* What IOASID_GET_API_VERSION returns. */
#define IOASID_API_VERSION 0

/* The version of this interface. No argument. */
#define IOASID_GET_API_VERSION _IO(IOASID_TYPE, IOASID_BASE + 0)

/* Filled by IOASID_GET_INFO. The caller sets argsz to the structure's size and flags to 0. */
struct ioasid_info {
	__u32 argsz;
	__u32 flags;
	__u32 ioasid_bits; /* out: how wide the ids are, 1 to 20 */
};
#define IOASID_GET_INFO _IO(IOASID_TYPE, IOASID_BASE + 1)

/* Read by IOASID_REQUEST_ALLOC, which returns the id. The caller sets argsz and flags as above. */
struct ioasid_alloc_request {
	__u32 argsz;
	__u32 flags;
	struct {
		__u32 min; /* the range, both ends included */
		__u32 max;
	} range;
};
#define IOASID_REQUEST_ALLOC _IO(IOASID_TYPE, IOASID_BASE + 2)

/* Gives back the id that the argument, an int *, points at. */
#define IOASID_REQUEST_FREE _IO(IOASID_TYPE, IOASID_BASE + 3)

#ifdef __cplusplus
}
#endif

#endif
