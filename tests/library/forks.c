/*
 * What libioasid(3) says of fork(2): a child goes on with the handle and the mapping that it inherits, over a session of
 * its own; what the parent holds stays the parent's; the set lasts until the last of them has closed.
 *
 *   forks SOCKET
 *
 * and, with a set FD as its input, after who serves it refused a session, two children that each are the first process
 * of a pid namespace ask for an id:
 *
 *   forks namespaces
 */
#include "check.h"
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* More than are leased ahead at a time, so that the mapping has to ask again, in both processes. */
#define MANY 40

static void ended_well(pid_t child)
{
	int status;

	must("fork", child > 0);
	must("the child did well", waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Both talk to the service over what was one handle, at the same time. */
static void side_by_side(ioasid_set *set)
{
	uint32_t id, other;
	pid_t child;

	expect("a session before the fork", 0, ioasid_alloc(set, &id));
	child = fork();
	for (int i = 0; i < 200; i++) {
		expect("alloc", 0, ioasid_alloc(set, &other));
		must("nobody else's", other != id);
		expect("verify", 1, ioasid_verify(set, other));
		expect("free", 0, ioasid_free(set, other));
	}
	if (child == 0)
		_exit(0);
	ended_well(child);
	expect("free", 0, ioasid_free(set, id));
}

static void references_are_the_parents(ioasid_set *set)
{
	uint32_t id;
	pid_t child;

	expect("alloc", 0, ioasid_alloc(set, &id));
	expect("hold", 0, ioasid_hold(set, id));
	child = fork();
	if (child == 0) {
		expect("put what the parent holds", -ENOENT, ioasid_put(set, id));
		expect("free what the parent holds", 1, ioasid_free(set, id));
		ioasid_close(set);
		_exit(0);
	}
	ended_well(child);
	must("the child's close took nothing from the parent", look(set).leased == 1);
	expect("put", 0, ioasid_put(set, id));
	must("the last put gives it back", look(set).leased == 0);

	expect("alloc", 0, ioasid_alloc(set, &id));
	child = fork();
	if (child == 0) {
		expect("hold", 0, ioasid_hold(set, id));
		_exit(0);
	}
	ended_well(child);
	/* The service learns of the child's end a moment later. */
	for (int answer = 1; answer != 0; usleep(1000)) {
		answer = ioasid_free(set, id);
		must("free what the child held", answer == 0 || answer == 1);
	}
}

static void ids_stay_when_a_child_ends(ioasid_set *set)
{
	int pipes[2];
	uint32_t id;
	pid_t child;

	must("pipe", pipe(pipes) == 0);
	child = fork();
	if (child == 0) {
		expect("alloc in the child", 0, ioasid_alloc(set, &id));
		must("tell it", write(pipes[1], &id, sizeof(id)) == sizeof(id));
		_exit(0);
	}
	must("be told", read(pipes[0], &id, sizeof(id)) == sizeof(id));
	ended_well(child);
	expect("the id is the set's", 1, ioasid_verify(set, id));
	expect("free", 0, ioasid_free(set, id));
	close(pipes[0]);
	close(pipes[1]);
}

/* One inherited mapping, two processes: no id comes twice, and both can ask for more leases. */
static void a_mapping_goes_on(ioasid_set *set)
{
	uint32_t mine[MANY / 2], theirs[MANY / 2];
	ioasid_mapping *map;
	int pipes[2];
	pid_t child;

	expect("map", 0, ioasid_map(&map, set));
	must("pipe", pipe(pipes) == 0);
	child = fork();
	for (int i = 0; i < MANY / 2; i++)
		expect("mapped alloc", 0, ioasid_map_alloc(map, &mine[i]));
	if (child == 0) {
		must("tell them", write(pipes[1], mine, sizeof(mine)) == sizeof(mine));
		ioasid_unmap(map);
		_exit(0);
	}
	must("be told", read(pipes[0], theirs, sizeof(theirs)) == sizeof(theirs));
	ended_well(child);
	must("all are counted", look(set).in_use == MANY);
	for (int i = 0; i < MANY / 2; i++)
		for (int j = 0; j < MANY / 2; j++)
			must("no id came twice", mine[i] != theirs[j]);
	for (int i = 0; i < MANY / 2; i++) {
		expect("mapped free", 0, ioasid_map_free(map, mine[i]));
		expect("mapped free of the child's", 0, ioasid_map_free(map, theirs[i]));
	}
	ioasid_unmap(map);
	must("trim", ioasid_trim(set) > 0);
	close(pipes[0]);
	close(pipes[1]);
}

/* For a session of its own a child needs the handle: without it the mapping has what is leased ahead, and no more. */
static void a_mapping_alone_does_not_ask(ioasid_set *set)
{
	uint32_t id, all[64], ahead;
	ioasid_mapping *map;
	pid_t child;

	expect("map", 0, ioasid_map(&map, set));
	expect("the first leases some ahead", 0, ioasid_map_alloc(map, &id));
	ahead = look(set).leased - 1;
	must("some", ahead > 0 && ahead < 64);
	child = fork();
	if (child == 0) {
		ioasid_close(set);
		for (uint32_t i = 0; i < ahead; i++)
			expect("what is leased ahead", 0, ioasid_map_alloc(map, &id));
		expect("what is not", -EPIPE, ioasid_map_alloc(map, &id));
		_exit(0);
	}
	ended_well(child);
	must("all that is leased is used", ioasid_pasids(set, all, 64) == (int)ahead + 1);
	for (uint32_t i = 0; i <= ahead; i++)
		expect("free", 0, ioasid_map_free(map, all[i]));
	ioasid_unmap(map);
	must("trim", ioasid_trim(set) > 0);
}

/* The grandchild is the last who has the set. */
static void the_set_is_inherited(ioasid_set *set)
{
	pid_t child = fork();

	if (child != 0) {
		ended_well(child);
		return;
	}
	child = fork();
	if (child != 0) {
		ioasid_close(set);
		ended_well(child);
		_exit(0);
	}
	must("a grandchild asks", look(set).leased == 0);
	_exit(0);
}

/* Children that no pid tells apart. */
static void namespaces(void)
{
	pid_t children[2];
	ioasid_set *set;
	uint32_t id;

	expect("the set on the input", 0, ioasid_open_fd(&set, 0));
	must("a session is refused", ioasid_alloc(set, &id) < 0);
	for (int i = 0; i < 2; i++) {
		/* As fork(2), with a namespace. */
		children[i] = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
		if (children[i] == 0) {
			must("the first", getpid() == 1);
			expect("whoever is there gives no id", -EPIPE, ioasid_alloc(set, &id));
			_exit(0);
		}
	}
	for (int i = 0; i < 2; i++)
		ended_well(children[i]);
	ioasid_close(set);
}

int main(int argc, char **argv)
{
	ioasid_set *set;

	must("usage: forks SOCKET, forks namespaces", argc == 2);
	if (strcmp(argv[1], "namespaces") == 0) {
		namespaces();
		puts("all is well");
		return 0;
	}
	set = take(argv[1], 64);
	side_by_side(set);
	references_are_the_parents(set);
	ids_stay_when_a_child_ends(set);
	a_mapping_goes_on(set);
	a_mapping_alone_does_not_ask(set);
	the_set_is_inherited(set);
	must("nothing is left", look(set).leased == 0);
	ioasid_close(set);
	puts("all is well");
	return 0;
}
