/* Depthwise convolution: a task is one row of the output. */
#include "../common/threads.h"
#include "conv.h"

typedef struct {
    const npk_conv_shape *s;
    const float *x, *w;
    float *out;
    depthwise_run run;
} job;

static void run_row(void *context, int64_t task) {
    const job *j = context;
    const npk_conv_shape *s = j->s;
    int64_t image = task / s->out_height;
    const float *x = j->x ? j->x + image * s->height * s->width * s->channels : NULL;
    j->run(s, x, j->w, task % s->out_height, j->out + task * s->out_width * s->channels);
}

int npk_depthwise_conv2d(int isa, const npk_conv_shape *s, const float *x, const float *w, float *out, int threads) {
    int64_t taps;
    if (!s)
        return NPK_EINVAL;
    int status = conv_check(isa, s, 1, s->channels, threads, &taps);
    if (status != NPK_OK || s->batch == 0 || s->out_height == 0 || s->out_width == 0 || s->channels == 0)
        return status;
    bool reads = taps > 0 && s->height > 0 && s->width > 0;
    if (!out || (reads && (!x || !w)))
        return NPK_EINVAL;
    job j = {s, x, w, out, conv_for(isa)->depthwise};
    return npk_parallel(threads, s->batch * s->out_height, run_row, &j);
}
