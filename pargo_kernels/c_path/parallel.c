/* Threads are OpenMP's where the process has its runtime, as torch's processes have: its threads are there, where torch's own
   operations keep them, and no others compete with them. A forked child has lost them; there, and elsewhere, threads are made for
   the call. Which thread does what changes no bit: an item's result is its own. */
#define _POSIX_C_SOURCE 200809L
#include "parallel.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "call.h"

/* resolved when the library is loaded; 0 where no OpenMP runtime of this form is there */
extern void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags) __attribute__((weak));

/* below this many for each thread, to wake it takes longer */
#define OPERATIONS_A_THREAD 2e6

typedef struct {
    Work work;
    const void *state;
    char *scratch;
    size_t scratch_bytes;
    int64_t items, next_item, next_thread, threads;
} Team;

static pid_t loaded_in;

__attribute__((constructor)) static void remember_process(void) { loaded_in = getpid(); }

static void take_items(void *data) {
    Team *team = data;
    int64_t thread = __atomic_fetch_add(&team->next_thread, 1, __ATOMIC_RELAXED);
    /* a runtime may give more threads than were asked for; there is no scratch for them */
    if (thread >= team->threads) return;
    for (;;) {
        int64_t item = __atomic_fetch_add(&team->next_item, 1, __ATOMIC_RELAXED);
        if (item >= team->items) return;
        team->work(team->state, item, team->scratch + thread * team->scratch_bytes);
    }
}

static void *run_thread(void *data) {
    take_items(data);
    return NULL;
}

static void on_new_threads(Team *team) {
    pthread_t others[team->threads];
    int64_t made = 0;
    while (made + 1 < team->threads && !pthread_create(&others[made], NULL, run_thread, team)) made++;
    take_items(team);
    while (made > 0) pthread_join(others[--made], NULL);
}

int for_each_item(Work work, const void *state, int64_t items, size_t scratch_bytes, int64_t threads, double operations) {
    if (items <= 0) return 0;
    if (items == 1 || operations < 2 * OPERATIONS_A_THREAD || threads < 1) threads = 1;
    scratch_bytes = (scratch_bytes + 127) / 128 * 128;
    void *scratch;
    if (posix_memalign(&scratch, 128, threads * scratch_bytes + 128)) return 1;
    Team team = {work, state, scratch, scratch_bytes, items, 0, 0, threads};
    if (threads == 1)
        take_items(&team);
    else if (GOMP_parallel && getpid() == loaded_in)
        /* as many as torch takes: another number would make the runtime end threads and start them again */
        GOMP_parallel(take_items, &team, (unsigned)threads, 0);
    else
        on_new_threads(&team);
    free(scratch);
    return 0;
}

int64_t pargo_call_bytes(void) { return sizeof(Call); }

int64_t pargo_dtypes(void) {
    int64_t dtypes = 1 << FLOAT32 | 1 << BFLOAT16;
#ifdef __FLT16_MAX__
    dtypes |= 1 << FLOAT16;
#endif
    return dtypes;
}
