/*
 * Threads that share one handle and one mapping, and do everything at once: no id has two owners, every id is counted,
 * answers and errors are those of the thread that asked.
 *
 *   threads SOCKET THREADS ROUNDS
 */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>

#define IDS 16384
#define MINE 4
#define QUOTA 64
#define RANGE_MIN 3000
#define RANGE_MAX 3063

static ioasid_set *set;
/* Another handle on the same descriptor: what it holds is not put when `set` frees. */
static ioasid_set *other;
static ioasid_mapping *map;
static int rounds;
/* Who has an id: a thread's number from 1 up, 0: nobody. */
static atomic_int owner[IDS];
static atomic_long taken, given, refused;
static pthread_barrier_t all_there;

struct thread {
	pthread_t handle;
	int number;
	unsigned seed;
	/* What it has allocated. */
	uint32_t ids[MINE];
	int count;
};

static void own(struct thread *me, uint32_t id)
{
	must("an id of the domain", id > 0 && id < IDS);
	must("nobody else has the id", atomic_exchange(&owner[id], me->number) == 0);
	me->ids[me->count++] = id;
	atomic_fetch_add(&taken, 1);
}

static uint32_t disown(struct thread *me)
{
	uint32_t id = me->ids[--me->count];

	must("the id is still mine", atomic_exchange(&owner[id], 0) == me->number);
	atomic_fetch_add(&given, 1);
	return id;
}

/* An allocation that the quota may refuse: others have the rest. Returns whether it came. */
static int came(const char *what, int answer)
{
	if (answer == -EDQUOT) {
		must("the thread's own refusal", strcmp(ioasid_error_name(), "QuotaExceeded") == 0);
		atomic_fetch_add(&refused, 1);
		return 0;
	}
	return expect(what, 0, answer) == 0;
}

static void allocate(struct thread *me)
{
	uint32_t id, two[2];

	switch (rand_r(&me->seed) % 5) {
	case 0:
		if (came("alloc", ioasid_alloc(set, &id)))
			own(me, id);
		break;
	case 1:
		if (came("alloc in a range", ioasid_alloc_range(set, RANGE_MIN, RANGE_MAX, &id))) {
			must("it is of the range", id >= RANGE_MIN && id <= RANGE_MAX);
			own(me, id);
		}
		break;
	case 2:
		if (me->count + 2 <= MINE && came("alloc two", ioasid_alloc_many(set, 0, 0, two, 2))) {
			own(me, two[0]);
			own(me, two[1]);
		}
		break;
	case 3:
		if (came("mapped alloc", ioasid_map_alloc(map, &id)))
			own(me, id);
		break;
	default:
		if (came("mapped alloc in a range", ioasid_map_alloc_range(map, RANGE_MIN, RANGE_MAX, &id))) {
			must("it is of the range", id >= RANGE_MIN && id <= RANGE_MAX);
			own(me, id);
		}
	}
}

static void give_back(struct thread *me)
{
	uint32_t id = me->ids[me->count - 1];

	switch (rand_r(&me->seed) % 4) {
	case 0:
		expect("free", 0, ioasid_free(set, disown(me)));
		break;
	case 1:
		expect("mapped free", 0, ioasid_map_free(map, disown(me)));
		break;
	case 2:
		expect("hold", 0, ioasid_hold(set, id));
		expect("free puts what its handle holds", 0, ioasid_free(set, disown(me)));
		break;
	default:
		expect("hold elsewhere", 0, ioasid_hold(other, id));
		expect("free what is held", 1, ioasid_free(set, id));
		expect("hold what is being freed", -EBUSY, ioasid_hold(set, id));
		expect("put what is being freed", 0, ioasid_put(other, disown(me)));
	}
}

static void look_around(struct thread *me)
{
	uint32_t found, all[QUOTA], id = me->ids[me->count - 1];
	uint64_t alias = ((uint64_t)me->number << 32) | (unsigned)rand_r(&me->seed);
	struct ioasid_info info;
	char words[32];
	int listed, n, there = 0;

	switch (rand_r(&me->seed) % 5) {
	case 0:
		info = look(set);
		must("what I have is counted", info.in_use >= (uint32_t)me->count && info.leased >= info.in_use);
		must("no more than the quota", info.leased <= QUOTA && info.quota == QUOTA);
		break;
	case 1:
		expect("alias", 0, ioasid_alias_add(set, id, alias));
		expect("find", 0, ioasid_alias_find(set, alias, &found));
		must("the alias is of my id", found == id);
		expect("forget", 0, ioasid_alias_del(set, alias));
		break;
	case 2:
		expect("find what is not there", -ENOENT, ioasid_alias_find(set, alias, &found));
		snprintf(words, sizeof(words), "%llu", (unsigned long long)alias);
		must("the words are about my alias", strstr(ioasid_error(), words) != NULL);
		break;
	case 3:
		expect("hold", 0, ioasid_hold(set, id));
		expect("verify", 1, ioasid_verify(set, id));
		expect("put", 0, ioasid_put(set, id));
		break;
	default:
		listed = ioasid_pasids(set, all, QUOTA);
		must("as many as the quota has", listed >= me->count && listed <= QUOTA);
		for (n = 0; n < listed; n++)
			there += atomic_load(&owner[all[n]]) == me->number;
		must("all of mine are listed", there == me->count);
	}
}

static void *work(void *argument)
{
	struct thread *me = argument;

	pthread_barrier_wait(&all_there);
	for (int i = 0; i < rounds; i++) {
		if (me->count < MINE)
			allocate(me);
		if (me->count > 0)
			look_around(me);
		if (me->count > 0 && rand_r(&me->seed) % 2)
			give_back(me);
		if (rand_r(&me->seed) % 16 == 0)
			must("trim", ioasid_trim(set) >= 0);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct thread *threads;
	uint32_t left = 0;
	int count;

	must("usage: threads SOCKET THREADS ROUNDS", argc == 4);
	count = atoi(argv[2]);
	rounds = atoi(argv[3]);
	must("the quota is reached now and then, not by few", count > 0 && count <= 1024);
	set = take(argv[1], QUOTA);
	expect("another handle", 0, ioasid_open_fd(&other, ioasid_fd(set)));
	expect("map", 0, ioasid_map(&map, set));
	threads = calloc((size_t)count, sizeof(*threads));
	must("memory", threads != NULL && pthread_barrier_init(&all_there, NULL, (unsigned)count) == 0);
	for (int n = 0; n < count; n++) {
		threads[n].number = n + 1;
		threads[n].seed = (unsigned)n;
		must("a thread", pthread_create(&threads[n].handle, NULL, work, &threads[n]) == 0);
	}
	for (int n = 0; n < count; n++)
		must("its end", pthread_join(threads[n].handle, NULL) == 0);
	for (int n = 0; n < count; n++)
		left += (uint32_t)threads[n].count;
	must("what the threads have is what the service counts", look(set).in_use == left);
	must("that is what was taken and not given back", atomic_load(&taken) - atomic_load(&given) == left);
	for (int n = 0; n < count; n++)
		while (threads[n].count > 0)
			give_back(&threads[n]);
	ioasid_unmap(map);
	must("trim", ioasid_trim(set) >= 0);
	must("nothing is left", look(set).leased == 0);
	ioasid_close(other);
	ioasid_close(set);
	pthread_barrier_destroy(&all_there);
	free(threads);
	printf("%ld ids taken, %ld refusals: all is well\n", atomic_load(&taken), atomic_load(&refused));
	return 0;
}
