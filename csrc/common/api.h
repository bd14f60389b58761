/* What Python calls: status codes, instruction sets, CPU features. */
#ifndef NPK_API_H
#define NPK_API_H

/* Every entry point returns one of these; npukernels turns them into npusim errors. */
enum {
    NPK_OK = 0,
    NPK_EINVAL = 1,       /* a negative size, a null pointer, an unknown variant */
    NPK_EOVERFLOW = 2,    /* a size or an offset does not fit 63 bits */
    NPK_ENOMEM = 3,       /* no memory for packing buffers */
    NPK_EUNSUPPORTED = 4, /* this CPU, its operating system or this build lacks the instruction set */
    NPK_EALIAS = 5,       /* the output shares memory with an input */
};

/* Instruction sets an entry point can be asked for. */
enum { NPK_GENERIC = 0, NPK_AVX2 = 1, NPK_AVX512 = 2 };

/* Number formats an entry point can be asked for. */
enum { NPK_FP32 = 0, NPK_BF16 = 1, NPK_FP16 = 2 };

/* CPU features by index: name (NULL past the end), and whether this CPU and its operating system
 * both support it. */
const char *npk_cpu_feature_name(int index);
int npk_cpu_has(int index);

#endif
