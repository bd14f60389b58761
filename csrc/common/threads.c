#define _POSIX_C_SOURCE 200809L /* signal masks */

/* A pool of sleeping workers that grows to the largest thread count ever asked for.
 *
 * Loops wait in a list; a free worker joins the first one that wants more hands. The caller works too
 * and needs no worker to finish, so nested loops and busy pools cannot deadlock. */
#include "threads.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "npk.h"

typedef struct loop {
    void (*run)(void *context, int64_t task);
    void *context;
    int64_t tasks, chunk;
    _Atomic int64_t next; /* first task that nobody has taken */
    fenv_t fenv;
    /* Under the lock: */
    int wanted;  /* workers that may still join */
    int working; /* workers that have joined and not left */
    struct loop *after;
} loop;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work_waits = PTHREAD_COND_INITIALIZER, worker_left = PTHREAD_COND_INITIALIZER;
static loop *loops;
static int workers;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void take_tasks(loop *l) {
    for (;;) {
        int64_t first = atomic_fetch_add_explicit(&l->next, l->chunk, memory_order_relaxed);
        if (first >= l->tasks)
            return;
        int64_t end = npk_min(first + l->chunk, l->tasks);
        for (int64_t task = first; task < end; task++)
            l->run(l->context, task);
    }
}

static loop *wanting(void) {
    for (loop *l = loops; l; l = l->after)
        if (l->wanted > 0)
            return l;
    return NULL;
}

static void *worker(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        loop *l = wanting();
        if (!l) {
            pthread_cond_wait(&work_waits, &lock);
            continue;
        }
        l->wanted--;
        l->working++;
        pthread_mutex_unlock(&lock);
        fesetenv(&l->fenv);
        take_tasks(l);
        pthread_mutex_lock(&lock);
        if (--l->working == 0)
            pthread_cond_broadcast(&worker_left);
    }
    return NULL;
}

/* Workers do not survive fork(); the lock is held across it so that the list is whole. */
static void before_fork(void) { pthread_mutex_lock(&lock); }
static void in_parent(void) { pthread_mutex_unlock(&lock); }
static void in_child(void) {
    loops = NULL;
    workers = 0;
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&work_waits, NULL);
    pthread_cond_init(&worker_left, NULL);
}
static void watch_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }

/* Called under the lock. Workers take no signals: those are the program's. */
static void hire(int count) {
    sigset_t all, before;
    pthread_attr_t attributes;
    if (workers >= count || pthread_attr_init(&attributes))
        return;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t id;
    while (workers < count && pthread_create(&id, &attributes, worker, NULL) == 0)
        workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

static void enlist(loop *l) {
    pthread_mutex_lock(&lock);
    hire(l->wanted);
    l->after = loops;
    loops = l;
    if (l->wanted == 1)
        pthread_cond_signal(&work_waits);
    else
        pthread_cond_broadcast(&work_waits);
    pthread_mutex_unlock(&lock);
}

static void finish(loop *l) {
    pthread_mutex_lock(&lock);
    loop **link = &loops;
    while (*link && *link != l)
        link = &(*link)->after;
    if (*link)
        *link = l->after;
    while (l->working > 0)
        pthread_cond_wait(&worker_left, &lock);
    pthread_mutex_unlock(&lock);
}

int npk_parallel(int threads, int64_t tasks, void (*run)(void *context, int64_t task), void *context) {
    if (threads < 1 || tasks < 0 || !run)
        return NPK_EINVAL;
    int64_t count = npk_min(npk_min(threads, NPK_MAX_THREADS), tasks);
    if (count <= 1) {
        for (int64_t task = 0; task < tasks; task++)
            run(context, task);
        return NPK_OK;
    }
    pthread_once(&fork_once, watch_forks);
    /* Chunks of about a sixteenth of a fair share bound what waits for the slowest thread. */
    loop l = {.run = run, .context = context, .tasks = tasks, .chunk = tasks / (16 * count) + 1, .wanted = (int)count - 1};
    atomic_init(&l.next, 0);
    fegetenv(&l.fenv);
    enlist(&l);
    take_tasks(&l);
    finish(&l);
    return NPK_OK;
}
