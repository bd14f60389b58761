#include "npk.h"
#include "threads.h"
#include <pthread.h>
typedef struct { int64_t next, tasks; void (*run)(void *, int64_t); void *context; } pool;
static void *work(void *arg) {
    pool *p = arg;
    for (;;) {
        int64_t t = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
        if (t >= p->tasks) return NULL;
        p->run(p->context, t);
    }
}
int npk_parallel(int threads, int64_t tasks, void (*run)(void *, int64_t), void *context) {
    pool p = {0, tasks, run, context};
    pthread_t ids[64]; bool ok[64] = {false};
    threads = (int)npk_min(npk_min(threads, 64), tasks);
    for (int t = 1; t < threads; t++) ok[t] = pthread_create(&ids[t], NULL, work, &p) == 0;
    work(&p);
    for (int t = 1; t < threads; t++) if (ok[t]) pthread_join(ids[t], NULL);
    return NPK_OK;
}
