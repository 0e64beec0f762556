/*
 * A tour of libioasid: take a set, allocate and free, give an id another name, hold one against being freed, pass the
 * set on, and allocate without a system call.
 *
 *   cc -Wall -o tour tour.c $(pkg-config --cflags --libs ioasid) -pthread
 *   ioasidctl exec --quota 16 -- ./tour          the set FD it was started with
 *   ./tour /run/ioasidd/ioasid.sock              a set of its own
 *
 * It checks what it is told, so it doubles as a test of the library.
 */
#include <errno.h>
#include <ioasid.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 200

/* What the library says must be `expected`; else the program ends with the library's words. */
static int expect(const char *what, int expected, int found)
{
	if (found == expected)
		return found;
	fprintf(stderr, "%s: %d instead of %d: %s\n", what, found, expected, ioasid_error());
	exit(1);
}

static void must(const char *what, int condition)
{
	if (condition)
		return;
	fprintf(stderr, "%s: is not so\n", what);
	exit(1);
}

static struct ioasid_info look(const ioasid_set *set)
{
	struct ioasid_info info = { .size = sizeof(info) };

	expect("info", 0, ioasid_get_info(set, &info));
	return info;
}

static void allocate(const ioasid_set *set)
{
	uint32_t id, all[16], wanted[4];

	expect("alloc", 0, ioasid_alloc(set, &id));
	must("an id is never 0", id != 0);
	expect("verify", 1, ioasid_verify(set, id));
	expect("pasids", 1, ioasid_pasids(set, all, 16));
	must("the id is listed", all[0] == id);
	expect("free", 0, ioasid_free(set, id));
	expect("free again", 0, ioasid_free(set, id));
	expect("verify what was freed", 0, ioasid_verify(set, id));
	expect("alloc in a range", 0, ioasid_alloc_range(set, 3000, 3001, &id));
	must("the id is in the range", id == 3000 || id == 3001);
	expect("free", 0, ioasid_free(set, id));
	expect("alloc four", 0, ioasid_alloc_many(set, 0, 0, wanted, 4));
	must("four are charged", look(set).leased == 4);
	for (int i = 0; i < 4; i++)
		expect("free one of four", 0, ioasid_free(set, wanted[i]));
	expect("no id 0", -EINVAL, ioasid_free(set, 0));
	expect("no such range", -EINVAL, ioasid_alloc_range(set, 9, 8, &id));
	must("the words name it", strstr(ioasid_error(), "9-8") != NULL);
	expect("a null pointer", -EINVAL, ioasid_alloc(set, NULL));
}

static void reach_the_quota(const ioasid_set *set)
{
	uint32_t id, rest[1024], quota = look(set).quota;

	must("the quota fits the array", quota > 0 && quota <= 1024);
	expect("alloc all", 0, ioasid_alloc_many(set, 0, 0, rest, quota));
	expect("alloc above the quota", -EDQUOT, ioasid_alloc(set, &id));
	must("the refusal has a name", strcmp(ioasid_error_name(), "QuotaExceeded") == 0);
	for (uint32_t i = 0; i < quota; i++)
		expect("free", 0, ioasid_free(set, rest[i]));
	expect("nothing to trim", 0, ioasid_trim(set));
	expect("a lower quota", 0, ioasid_set_quota(set, quota - 1));
	must("is the quota", look(set).quota == quota - 1);
}

static void give_names(const ioasid_set *set)
{
	uint32_t id, found;

	expect("alloc", 0, ioasid_alloc(set, &id));
	expect("alias", 0, ioasid_alias_add(set, id, 77));
	expect("alias again", -EEXIST, ioasid_alias_add(set, id, 77));
	expect("find", 0, ioasid_alias_find(set, 77, &found));
	must("the alias resolves", found == id);
	expect("forget", 0, ioasid_alias_del(set, 77));
	expect("find what was forgotten", -ENOENT, ioasid_alias_find(set, 77, &found));
	expect("free", 0, ioasid_free(set, id));
}

static void hold(const ioasid_set *set)
{
	ioasid_set *other;
	uint32_t id;

	expect("another handle", 0, ioasid_open_fd(&other, ioasid_fd(set)));
	expect("alloc", 0, ioasid_alloc(set, &id));
	expect("hold", 0, ioasid_hold(other, id));
	expect("put what another handle holds", -ENOENT, ioasid_put(set, id));
	expect("free what is held", 1, ioasid_free(set, id));
	expect("hold what is being freed", -EBUSY, ioasid_hold(set, id));
	expect("put", 0, ioasid_put(other, id));
	must("the last put gives it back", look(set).leased == 0);
	ioasid_close(other);
}

/* A child gets the set FD over a socket pair, allocates with it, and the parent sees the id. */
static void pass_on(ioasid_set *set)
{
	ioasid_set *received;
	int pair[2], status;
	uint32_t id;
	pid_t child;

	must("socketpair", socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
	child = fork();
	must("fork", child >= 0);
	if (child == 0) {
		ioasid_close(set);
		expect("receive", 0, ioasid_receive(&received, pair[1]));
		expect("alloc in the child", 0, ioasid_alloc(received, &id));
		must("tell it", write(pair[1], &id, sizeof(id)) == sizeof(id));
		ioasid_close(received);
		_exit(0);
	}
	close(pair[1]);
	expect("send", 0, ioasid_send(set, pair[0]));
	must("be told", read(pair[0], &id, sizeof(id)) == sizeof(id));
	must("wait", waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
	expect("ids stay the set's when who allocated them ends", 1, ioasid_verify(set, id));
	expect("free", 0, ioasid_free(set, id));
	close(pair[0]);
}

static void *work(void *argument)
{
	const ioasid_mapping *map = argument;
	uint32_t id;

	for (int i = 0; i < ROUNDS; i++) {
		expect("mapped alloc", 0, ioasid_map_alloc(map, &id));
		expect("mapped free", 0, ioasid_map_free(map, id));
	}
	return NULL;
}

static void *work_through_the_service(void *argument)
{
	const ioasid_set *set = argument;
	uint32_t id;

	for (int i = 0; i < ROUNDS; i++) {
		expect("alloc", 0, ioasid_alloc(set, &id));
		expect("free", 0, ioasid_free(set, id));
	}
	return NULL;
}

static void run_threads(void *(*body)(void *), const void *argument)
{
	pthread_t threads[3];

	for (int i = 0; i < 3; i++)
		must("a thread", pthread_create(&threads[i], NULL, body, (void *)argument) == 0);
	for (int i = 0; i < 3; i++)
		must("its end", pthread_join(threads[i], NULL) == 0);
}

static void map(const ioasid_set *set)
{
	ioasid_mapping *map;
	uint32_t id;

	expect("map", 0, ioasid_map(&map, set));
	expect("mapped alloc in a range", 0, ioasid_map_alloc_range(map, 3000, 3100, &id));
	must("the id is in the range", id >= 3000 && id <= 3100);
	expect("the service knows it", 1, ioasid_verify(set, id));
	expect("mapped free", 0, ioasid_map_free(map, id));
	run_threads(work, map);
	ioasid_unmap(map);
	must("what is leased ahead can be trimmed", ioasid_trim(set) > 0);
	must("nothing is leased", look(set).leased == 0);
}

int main(int argc, char **argv)
{
	struct ioasid_set_options options = { .size = sizeof(options), .quota = 16, .label = "tour" };
	ioasid_set *set;
	struct ioasid_info info;

	must("no failure yet", ioasid_error()[0] == '\0');
	if (argc > 1)
		expect("create", 0, ioasid_create(&set, argv[1], &options));
	else
		expect("open", 0, ioasid_open_env(&set));
	info = look(set);
	printf("libioasid %s: set %llu of %s, quota %u\n", ioasid_version(), (unsigned long long)info.set, info.cgroup,
	       info.quota);
	must("it is active", info.state == IOASID_STATE_ACTIVE);
	allocate(set);
	give_names(set);
	hold(set);
	pass_on(set);
	map(set);
	run_threads(work_through_the_service, set);
	reach_the_quota(set);
	ioasid_close(set);
	ioasid_close(NULL);
	puts("all is well");
	return 0;
}
