/* One output row of a depthwise convolution, once for all instruction sets; the including file has included a vmath
 * header.
 *
 * An element is one chain of v_fma from zero over the taps inside the image, in their order: the same for every
 * block, border and channel. A block is `cols` columns by `nv` vectors of channels, whose accumulators hide the latency
 * of the multiply-add; each vector of weights serves all its columns. Two vectors, for rows and pixels that are a power
 * of two apart share few sets of the cache, so that half a cache line would not be there when the other half is due. */
enum { CHAINS = 12 }; /* accumulators of a block, at most */

/* The taps of some output pixels: `y` rows of `x` taps, the first at `image` for the first pixel. */
typedef struct {
    const float *image, *w;
    int64_t y, x;            /* taps */
    int64_t y_step, x_step;  /* of the image, from tap to tap */
    int64_t col_step;        /* of the image, from output pixel to output pixel */
    int64_t w_step;          /* of the weights, from row to row of taps */
    int64_t channels;
} tap_block;

TARGET NPK_INLINE V load_lanes(const bool part, const float *x, int64_t lanes) {
    return part ? v_load_part(x, lanes, v_set1(0.0f)) : v_load(x);
}

/* Channels c ... c + nv * LANES, or c + lanes when `part`. */
TARGET NPK_INLINE void block(const int cols, const int nv, const bool part, const tap_block *t, int64_t c,
                             int64_t lanes, float *out) {
    V acc[CHAINS];
    NPK_UNROLL
    for (int i = 0; i < cols * nv; i++)
        acc[i] = v_set1(0.0f);
    const float *image = t->image + c, *w = t->w + c;
    for (int64_t y = 0; y < t->y; y++, image += t->y_step, w += t->w_step) {
        const float *pixel = image, *tap = w;
        for (int64_t x = 0; x < t->x; x++, pixel += t->x_step, tap += t->channels) {
            NPK_UNROLL
            for (int v = 0; v < nv; v++) {
                V weight = load_lanes(part, tap + v * LANES, lanes);
                NPK_UNROLL
                for (int i = 0; i < cols; i++) {
                    V in = load_lanes(part, pixel + i * t->col_step + v * LANES, lanes);
                    acc[i * nv + v] = v_fma(in, weight, acc[i * nv + v]);
                }
            }
        }
    }
    NPK_UNROLL
    for (int i = 0; i < cols * nv; i++) {
        float *dst = out + i / nv * t->channels + c + i % nv * LANES;
        if (part)
            v_store_part(dst, acc[i], lanes);
        else
            v_store(dst, acc[i]);
    }
}

/* `nv` is even, or 1. */
TARGET NPK_INLINE void columns(const int cols, const int nv, const tap_block *t, float *out) {
    int64_t c = 0;
    for (; c + nv * LANES <= t->channels; c += nv * LANES)
        block(cols, nv, false, t, c, LANES, out);
    for (; nv > 2 && c + 2 * LANES <= t->channels; c += 2 * LANES)
        block(cols, 2, false, t, c, LANES, out);
    for (; c + LANES <= t->channels; c += LANES)
        block(cols, 1, false, t, c, LANES, out);
    if (c < t->channels)
        block(cols, 1, true, t, c, t->channels - c, out);
}

/* The taps, of `count` that are `step` apart from `first` on, that fall within 0 ... size. */
static conv_span inside(int64_t first, int64_t step, int64_t count, int64_t size) {
    conv_span taps = {first < 0 ? npk_min(npk_ceil_div(-first, step), count) : 0, 0};
    if (first < size)
        taps.end = npk_min(npk_ceil_div(size - first, step), count);
    return taps;
}

/* Output columns that see every column of the weights. */
static conv_span interior(const npk_conv_shape *s) {
    int64_t last = s->width - 1 - (s->kernel_width - 1) * s->dilation_x + s->pad_left;
    conv_span cols = {npk_min(npk_ceil_div(s->pad_left, s->stride_x), s->out_width), 0};
    if (last >= 0)
        cols.end = npk_min(last / s->stride_x + 1, s->out_width);
    return cols;
}

TARGET static void depthwise(const npk_conv_shape *s, const float *image, const float *w, int64_t row, float *out) {
    int64_t channels = s->channels, line = s->width * channels, top = row * s->stride_y - s->pad_top, cols;
    conv_span ys = inside(top, s->dilation_y, s->kernel_height, s->height), full = interior(s);
    for (int64_t col = 0; col < s->out_width; col += cols, out += cols * channels) {
        int64_t left = col * s->stride_x - s->pad_left, run = full.end - col;
        bool whole = col >= full.begin && run > 0;
        conv_span xs = {0, s->kernel_width};
        if (!whole)
            xs = inside(left, s->dilation_x, s->kernel_width, s->width);
        tap_block t = {.y_step = s->dilation_y * line, .x_step = s->dilation_x * channels,
                       .col_step = s->stride_x * channels, .w_step = s->kernel_width * channels, .channels = channels};
        if (ys.begin < ys.end && xs.begin < xs.end) {
            t.y = ys.end - ys.begin;
            t.x = xs.end - xs.begin;
            t.image = image + (top + ys.begin * s->dilation_y) * line + (left + xs.begin * s->dilation_x) * channels;
            t.w = w + ys.begin * t.w_step + xs.begin * channels;
        } else {
            t.image = t.w = out; /* no tap, nothing is read */
        }
        if (whole && run >= 6)
            columns(6, 2, &t, out), cols = 6;
        else if (whole && run >= 3)
            columns(3, 4, &t, out), cols = 3;
        else if (whole && run >= 2)
            columns(2, 4, &t, out), cols = 2;
        else
            columns(1, 8, &t, out), cols = 1;
    }
}
