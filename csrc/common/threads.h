/* Loops over tasks on several threads. */
#ifndef NPK_THREADS_H
#define NPK_THREADS_H

#include <stdint.h>

enum { NPK_MAX_THREADS = 64 };

/* Calls run(context, task) once for every task in 0 ... tasks - 1, on up to `threads` threads, the
 * caller among them; returns when all are done, with NPK_OK, or NPK_EINVAL for threads < 1, tasks < 0
 * or no function.
 *
 * Tasks are handed out in order, a few at a time, to whichever thread is free: make several per
 * thread. A task must not depend on another having run, and results stay the same bits for any thread
 * count when each is computed within one task. Tasks may call npk_parallel and any number of threads may call
 * at once; a child of fork() starts anew. Where no thread can be had, the caller does all the work.
 * Workers use the caller's floating-point environment (rounding, flush to zero). */
int npk_parallel(int threads, int64_t tasks, void (*run)(void *context, int64_t task), void *context);

#endif
