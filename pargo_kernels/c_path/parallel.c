/* Threads are OpenMP's where the process has its runtime, as torch's processes have: its threads are there, where torch's own
   operations keep them, and no others compete with them. A forked child has lost them; there, and elsewhere, threads are made for
   the call. Which thread does what changes no bit: an item's result is its own. */
/* for RTLD_DEFAULT */
#define _GNU_SOURCE
#include "parallel.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* of the OpenMP runtime that the process has; NULL where it has none of this form */
static void (*run_team)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
static int (*thread_number)(void);

/* below this many for each thread, to wake it takes longer */
#define OPERATIONS_A_THREAD 2e6
#define LINE 128
/* that are made for a call; what is left over, they do too */
#define MOST_THREADS 256

/* the next item of a thread's share, in a cache line of its own */
typedef struct {
    int64_t next, end;
    char apart[LINE - 2 * sizeof(int64_t)];
} Share;

typedef struct {
    Work work;
    const void *state;
    char *scratch;
    size_t scratch_bytes;
    int64_t threads;
    Share *shares;
} Team;

typedef struct {
    Team *team;
    int64_t thread;
} Member;

static pid_t loaded_in;

/* Whether this process was forked from another that went on: that one's OpenMP may have had threads, which are not here. Linux
   says so in the flags of a process, the ninth field of its stat, behind a name that ends with the last parenthesis. */
static int forked(void) {
    char stat[1024] = "";
    FILE *file = fopen("/proc/self/stat", "r");
    if (!file) return 0;
    stat[fread(stat, 1, sizeof stat - 1, file)] = 0;
    fclose(file);
    char *behind_name = strrchr(stat, ')');
    unsigned flags = 0;
    if (behind_name) sscanf(behind_name, ") %*c %*d %*d %*d %*d %*d %u", &flags);
    return (flags & 0x40) != 0;
}

__attribute__((constructor)) static void look_around(void) {
    loaded_in = forked() ? 0 : getpid();
    run_team = (void (*)(void (*)(void *), void *, unsigned, unsigned))dlsym(RTLD_DEFAULT, "GOMP_parallel");
    thread_number = (int (*)(void))dlsym(RTLD_DEFAULT, "omp_get_thread_num");
}

/* A thread's own share first, the same in every call of these sizes: its core's cache may hold what the last call left there. Then
   what others have not begun. */
static void work_as(Team *team, int64_t thread) {
    for (int64_t turn = 0; turn < team->threads; turn++) {
        Share *share = &team->shares[(thread + turn) % team->threads];
        for (;;) {
            int64_t item = __atomic_fetch_add(&share->next, 1, __ATOMIC_RELAXED);
            if (item >= share->end) break;
            team->work(team->state, item, team->scratch + thread * team->scratch_bytes);
        }
    }
}

static void as_openmp(void *team) {
    int thread = thread_number();
    if (thread < ((Team *)team)->threads) work_as(team, thread);
}

static void *as_pthread(void *member) {
    work_as(((Member *)member)->team, ((Member *)member)->thread);
    return NULL;
}

static void on_new_threads(Team *team) {
    pthread_t others[MOST_THREADS];
    Member members[MOST_THREADS];
    int64_t made = 0;
    for (; made < MOST_THREADS && made + 1 < team->threads; made++) {
        members[made] = (Member){team, made + 1};
        /* what a thread that cannot be made would have done, the others do */
        if (pthread_create(&others[made], NULL, as_pthread, &members[made])) break;
    }
    work_as(team, 0);
    while (made > 0) pthread_join(others[--made], NULL);
}

int for_each_item(Work work, const void *state, int64_t items, size_t scratch_bytes, int64_t threads, double operations) {
    if (items <= 0) return 0;
    if (items == 1 || operations < 2 * OPERATIONS_A_THREAD || threads < 1) threads = 1;
    scratch_bytes = (scratch_bytes + LINE - 1) / LINE * LINE;
    void *memory;
    if (posix_memalign(&memory, LINE, threads * (scratch_bytes + sizeof(Share)))) return 1;
    Team team = {work, state, (char *)memory + threads * sizeof(Share), scratch_bytes, threads, memory};
    for (int64_t thread = 0; thread < threads; thread++) {
        team.shares[thread].next = items * thread / threads;
        team.shares[thread].end = items * (thread + 1) / threads;
    }
    if (threads == 1)
        work_as(&team, 0);
    else if (run_team && thread_number && getpid() == loaded_in)
        /* as many as torch takes: another number would make the runtime end threads and start them again */
        run_team(as_openmp, &team, (unsigned)threads, 0);
    else
        on_new_threads(&team);
    free(memory);
    return 0;
}
