#ifndef NPK_THREADS_H
#define NPK_THREADS_H
#include <stdint.h>
int npk_parallel(int threads, int64_t tasks, void (*run)(void *context, int64_t task), void *context);
#endif
