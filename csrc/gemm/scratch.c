#define _DEFAULT_SOURCE /* madvise */

/* Packing buffers that a thread keeps from call to call: fresh pages cost more than a small product. */
#include "gemm.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, LINE = 64 };

typedef struct {
    void *data[GEMM_SCRATCHES];
    int64_t bytes[GEMM_SCRATCHES];
} buffers;

static pthread_key_t key;
static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static bool have_key;

static void release(void *kept) {
    for (int i = 0; i < GEMM_SCRATCHES; i++)
        free(((buffers *)kept)->data[i]);
    free(kept);
}
static void make_key(void) { have_key = pthread_key_create(&key, release) == 0; }

/* Large buffers are made of huge pages where the system has them: a packed block spans more small
 * pages than the first-level TLB has entries. */
static void *allocate(int64_t *bytes) {
    int64_t alignment = *bytes >= HUGE_PAGE / 2 ? HUGE_PAGE : LINE;
    if (*bytes > INT64_MAX - alignment || (uint64_t)(*bytes + alignment) > SIZE_MAX)
        return NULL;
    *bytes = npk_round_up(*bytes, alignment);
    void *data = aligned_alloc((size_t)alignment, (size_t)*bytes);
#ifdef MADV_HUGEPAGE
    if (data && alignment == HUGE_PAGE)
        madvise(data, (size_t)*bytes, MADV_HUGEPAGE);
#endif
    return data;
}

float *gemm_scratch(int which, int64_t count) {
    int64_t bytes;
    pthread_once(&key_once, make_key);
    if (!have_key || __builtin_mul_overflow(count, (int64_t)sizeof(float), &bytes))
        return NULL;
    buffers *kept = pthread_getspecific(key);
    if (!kept) {
        kept = calloc(1, sizeof *kept);
        if (!kept || pthread_setspecific(key, kept)) {
            free(kept);
            return NULL;
        }
    }
    if (bytes > kept->bytes[which]) {
        free(kept->data[which]);
        kept->data[which] = allocate(&bytes);
        kept->bytes[which] = kept->data[which] ? bytes : 0;
    }
    return kept->data[which];
}
