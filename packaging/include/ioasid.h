/*
 * SPDX-License-Identifier: Apache-2.0 OR MIT
 *
 * ioasid.h: PASIDs shared out on a Linux host, for C. See libioasid(3), ioasid-set(7).
 *
 * A set is a group of PASIDs with one owner cgroup and one quota. Whoever holds its file descriptor has the authority
 * over it, and when the last copy of that descriptor closes, its ids return.
 *
 * Every function that returns int returns 0 or more when it is done, else a negative errno:
 *
 *   -EAGAIN      a cgroup on the way to the root has no room under its ioasids.max
 *   -EDQUOT      the set has no room under its quota
 *   -ENOSPC      no id is free in the range
 *   -EPERM       the policy forbids it
 *   -EACCES      the id belongs to another set
 *   -ENOENT      there is no such thing
 *   -EBUSY       the id is being freed and waits for those who hold it
 *   -EEXIST      it is there already
 *   -ESTALE      the set's cgroup was removed
 *   -EPIPE       the set was revoked
 *   -EINVAL      an argument has no meaning
 *   -EMFILE      a bound on sets, sessions or requests is reached
 *   -EOPNOTSUPP  this host or this version cannot do it
 *   -EIO         the service failed
 *
 * and what connect(2) says where no service answers. ioasid_error() has the words.
 *
 * All functions can be called from any thread, on one handle from several at once, but for ioasid_close and
 * ioasid_unmap, which must be the last on theirs. A child of fork(2) can go on with handles and mappings: see
 * libioasid(3). A call that needs the service waits up to 10 seconds for one that is being restarted. No signal is
 * raised, no handler installed, no thread started.
 *
 * Made from src/capi by cbindgen: do not edit.
 */

#ifndef IOASID_H
#define IOASID_H

#include <stddef.h>
#include <stdint.h>

#define IOASID_STRING_OF_(x) #x
#define IOASID_STRING_(x) IOASID_STRING_OF_(x)

/**
 * The version of this header in words: "1.2.3".
 */
#define IOASID_VERSION IOASID_STRING_(IOASID_VERSION_MAJOR) "." \
        IOASID_STRING_(IOASID_VERSION_MINOR) "." IOASID_STRING_(IOASID_VERSION_MICRO)

/**
 * Whether this header is at least of a version, for #if.
 */
#define IOASID_CHECK_VERSION(major, minor, micro) \
        (IOASID_VERSION_MAJOR > (major) || \
         (IOASID_VERSION_MAJOR == (major) && \
          (IOASID_VERSION_MINOR > (minor) || (IOASID_VERSION_MINOR == (minor) && IOASID_VERSION_MICRO >= (micro)))))

/**
 * The version of this header: the library's interface grows with it. ioasid_version() has that of the library that runs.
 */
#define IOASID_VERSION_MAJOR 0

/**
 * See IOASID_VERSION_MAJOR.
 */
#define IOASID_VERSION_MINOR 1

/**
 * See IOASID_VERSION_MAJOR.
 */
#define IOASID_VERSION_MICRO 0

/**
 * The set can be used.
 */
#define IOASID_STATE_ACTIVE 0

/**
 * It was revoked: every use is refused.
 */
#define IOASID_STATE_REVOKED 1

/**
 * Its last FD is closed; ids that sessions hold are charged until they are put.
 */
#define IOASID_STATE_DRAINING 2

/**
 * Bytes of a label, with the NUL.
 */
#define IOASID_LABEL_BYTES 65

/**
 * Bytes of a domain's name, with the NUL.
 */
#define IOASID_DOMAIN_BYTES 32

/**
 * Bytes of a cgroup's path, with the NUL.
 */
#define IOASID_CGROUP_BYTES 4096

/**
 * A set's bitmap, mapped into this process. Threads share it, and children of fork(2).
 */
typedef struct ioasid_mapping ioasid_mapping;

/**
 * A set that this process holds: a set FD, and a session on it that is opened when it is first needed.
 */
typedef struct ioasid_set ioasid_set;

/**
 * What a new set shall be. Zero it, set `size`, then what you care about: the rest is decided by the policy rule that
 * matches.
 */
typedef struct ioasid_set_options {
        /**
         * sizeof(struct ioasid_set_options): a later library knows by it what an older program means.
         */
        size_t size;
        /**
         * The most ids the set may lease; 0: the rule's default.
         */
        uint32_t quota;
        /**
         * Ids come from this range alone, both ends included; max 0: all that the rule allows.
         */
        uint32_t min;
        /**
         * See min.
         */
        uint32_t max;
        /**
         * The number space, "global" or "pci:DDDD:BB:DD.F"; NULL: global.
         */
        const char *domain;
        /**
         * A word for people, at most 64 bytes; NULL: none.
         */
        const char *label;
        /**
         * The cgroup to charge where it is not the caller's own; NULL: the caller's.
         */
        const char *cgroup;
} ioasid_set_options;

/**
 * A set, as it was when it was asked.
 */
typedef struct ioasid_info {
        /**
         * In: sizeof(struct ioasid_info). No more than that is written.
         */
        size_t size;
        /**
         * Its number; none is used twice while the host is up.
         */
        uint64_t set;
        /**
         * The kernel's id of the cgroup that is charged: st_ino of its directory.
         */
        uint64_t cgroup_id;
        /**
         * When it was made, in microseconds since 1970-01-01 UTC.
         */
        uint64_t created_usec;
        /**
         * The uid that asked for it.
         */
        uint32_t owner_uid;
        /**
         * The most ids it may lease.
         */
        uint32_t quota;
        /**
         * How many it leases; all are charged.
         */
        uint32_t leased;
        /**
         * How many of those are allocated.
         */
        uint32_t in_use;
        /**
         * IOASID_STATE_ACTIVE and so on; a later service may have more of them.
         */
        uint32_t state;
        /**
         * Its number space.
         */
        char domain[IOASID_DOMAIN_BYTES];
        /**
         * Its label; "" where it has none.
         */
        char label[IOASID_LABEL_BYTES];
        /**
         * The cgroup that is charged, by the path it had.
         */
        char cgroup[IOASID_CGROUP_BYTES];
} ioasid_info;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What the last call that failed in this thread met, in words: which limit, its value, what was asked for.
 *
 * Never NULL; "" where none failed. Valid until the next call of this thread fails.
 */
const char *ioasid_error(void);

/**
 * The name of the same failure: "LimitExceeded", "QuotaExceeded", "NoSpace" and so on; "Unreachable" where no service
 * answers, "Internal" for a fault.
 *
 * Never NULL; "" where none failed. Valid until the next call of this thread fails.
 */
const char *ioasid_error_name(void);

/**
 * The version of the library that runs, "1.2.3", as IOASID_VERSION was when it was built. Never NULL; valid for ever.
 */
const char *ioasid_version(void);

/**
 * Opens the set that this process was started with: the descriptor in IOASID_SET_FD, else the one that is called
 * "ioasid" under the LISTEN_FDS protocol (sd_listen_fds(3)). The descriptor itself stays open beside the handle.
 *
 * -ENOENT where there is none, -EINVAL where it is no set FD.
 */
int ioasid_open_env(struct ioasid_set **out);

/**
 * Opens the set whose FD this process has under a number. The handle has a copy: close yours when you like.
 *
 * -EINVAL where it is no SEQPACKET socket; whether it is a set FD shows with the first call that needs the service.
 */
int ioasid_open_fd(struct ioasid_set **out, int fd);

/**
 * Asks the service for a new set, which is charged to the caller's cgroup unless the options say otherwise.
 *
 * socket: the service's; NULL: /run/ioasidd/ioasid.sock. options: NULL: what the policy gives.
 * -EPERM where no rule of the policy allows it, -EMFILE where a bound on sets is reached.
 */
int ioasid_create(struct ioasid_set **out, const char *socket, const struct ioasid_set_options *options);

/**
 * Receives a set FD over a connected AF_UNIX socket, as ioasid_send sends it, and proves that it is one by opening a
 * session on it. Blocks until something comes, then for the 10 seconds that a service may take to answer.
 *
 * -EINVAL where what comes is none, -EPIPE where the other side closed or the set was revoked.
 */
int ioasid_receive(struct ioasid_set **out, int socket);

/**
 * Sends a copy of the set FD over a connected AF_UNIX socket: one byte with it as SCM_RIGHTS. Blocks while the queue is
 * full. Who gets it has the authority over the set, as the sender has.
 */
int ioasid_send(const struct ioasid_set *set, int socket);

/**
 * The number of the handle's set FD: to inherit it (it is close-on-exec: dup2(2) it), to pass it, to identify it. Do not
 * read, write or close it.
 */
int ioasid_fd(const struct ioasid_set *set);

/**
 * Closes the handle: its copy of the set FD, its session with the references that it holds. With the last copy, in
 * whatever process, the set ends and its ids return. NULL does nothing. No call may be under way on it.
 */
void ioasid_close(struct ioasid_set *set);

/**
 * Asks about the set. Set info->size before.
 */
int ioasid_get_info(const struct ioasid_set *set, struct ioasid_info *info);

/**
 * Changes the set's quota, within the max of the rule that allowed the set (-EPERM beyond it).
 */
int ioasid_set_quota(const struct ioasid_set *set, uint32_t quota);

/**
 * Gives unused leases of a mapped set back; returns how many.
 */
int ioasid_trim(const struct ioasid_set *set);

/**
 * Allocates one id.
 *
 * -EAGAIN where a cgroup's limit is reached, -EDQUOT at the set's quota, -ENOSPC where no id is free, -ESTALE where the
 * set's cgroup is gone, -EPIPE where the set was revoked.
 */
int ioasid_alloc(const struct ioasid_set *set, uint32_t *pasid);

/**
 * Allocates one id from min up to max, both included; the set's own range bounds it further. 0, 0: any.
 */
int ioasid_alloc_range(const struct ioasid_set *set, uint32_t min, uint32_t max, uint32_t *pasid);

/**
 * Allocates count ids from min up to max (0, 0: any): all of them or none.
 */
int ioasid_alloc_many(const struct ioasid_set *set, uint32_t min, uint32_t max, uint32_t *pasids, uint32_t count);

/**
 * Gives an id back. Again is no error. Returns 0, or 1 where others hold the id: it returns when the last of them puts
 * it. -EACCES where another set has it.
 */
int ioasid_free(const struct ioasid_set *set, uint32_t pasid);

/**
 * The ids of the set that are allocated, in order: at most `room` of them are written. Returns how many there are.
 */
int ioasid_pasids(const struct ioasid_set *set, uint32_t *pasids, size_t room);

/**
 * Gives an id another name in this set, such as the one that a guest knows it by. -EEXIST where the set has the alias.
 */
int ioasid_alias_add(const struct ioasid_set *set, uint32_t pasid, uint64_t alias);

/**
 * The id behind an alias. -ENOENT where the set has none.
 */
int ioasid_alias_find(const struct ioasid_set *set, uint64_t alias, uint32_t *pasid);

/**
 * Forgets an alias. -ENOENT where the set has none.
 */
int ioasid_alias_del(const struct ioasid_set *set, uint64_t alias);

/**
 * Takes a reference on an id: freed by whomever, it does not go to another set before the reference is put. It is this
 * handle's, and goes with it. -EBUSY where the id is being freed.
 */
int ioasid_hold(const struct ioasid_set *set, uint32_t pasid);

/**
 * Puts one reference that this handle took. -ENOENT where it has none.
 */
int ioasid_put(const struct ioasid_set *set, uint32_t pasid);

/**
 * Whether the service has the id leased to this set: 1 or 0. What counts for who grants access to a device.
 */
int ioasid_verify(const struct ioasid_set *set, uint32_t pasid);

/**
 * Maps the set: from then on ids are taken from leases ahead with one atomic instruction, and only every batch is asked
 * for. The mapping stands beside the handle; either can be closed first, but without any FD of the set open the set
 * ends.
 */
int ioasid_map(struct ioasid_mapping **out, const struct ioasid_set *set);

/**
 * Takes an id; the errors are those of ioasid_alloc.
 */
int ioasid_map_alloc(const struct ioasid_mapping *map, uint32_t *pasid);

/**
 * Takes an id from min up to max, both included. 0, 0: any.
 */
int ioasid_map_alloc_range(const struct ioasid_mapping *map, uint32_t min, uint32_t max, uint32_t *pasid);

/**
 * Puts an id back: 0, or 1 where others hold it. It stays leased to the set, and charged, until it is trimmed.
 */
int ioasid_map_free(const struct ioasid_mapping *map, uint32_t pasid);

/**
 * Ends the mapping. Ids that are in use stay the set's. NULL does nothing. No call may be under way on it.
 */
void ioasid_unmap(struct ioasid_mapping *map);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* IOASID_H */
