/* npukernels._shortcut: repeats of a call without the Python between the caller and C.
 *
 * What a public function checks and works out depends on the kinds of its arguments: of an array its dtype, shape,
 * strides and flags, of an option its value. A Shortcut keeps, by these, what C was told the first time, with holes
 * for the addresses of the arrays. A call whose kinds it knows goes straight to C; any other, or one that C refuses,
 * is the public function's, which has the checks and the messages.
 *
 * Two things depend on addresses: whether an array that is written shares memory with another (then there is no
 * shortcut, unless they are one and the same, which is part of the kind), and what C checks itself.
 *
 * Only the stable ABI; NumPy is known by `__array_struct__`, its documented interface for C. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum {
    MAX_ARRAYS = 12,
    MAX_DIMS = 5,
    MAX_OPTIONS = 16,
    MAX_SLOTS = 48,
    MAX_FRESH = 4,
    MAX_DTYPES = 16,
    MAX_WORDS = MAX_ARRAYS * (2 + 2 * MAX_DIMS),
    PLANS = 128, /* a Shortcut keeps; a power of two */
};

/* One argument of a C function; csrc/declarations.py has the same union, by the same name, so that the adapters there
 * are of the very type they are called by. */
typedef union npk_slot {
    int64_t i;
    double f;
    void *p;
} npk_slot;

typedef int (*Function)(const npk_slot *slots);

/* The structure behind `__array_struct__`. */
typedef struct {
    int two, dims;
    char kind;
    int itemsize, flags;
    Py_ssize_t *shape, *strides;
    char *data;
    PyObject *description;
} ArrayInterface;

/* First words of what is not an array; those of arrays are below 2^30. */
enum { FLOAT = -1, INTEGER = -2 };

enum { FLAGS = 0x1 | 0x2 | 0x100 | 0x400 }; /* C- and Fortran-contiguous, aligned, writeable */

typedef struct {
    char *data;          /* its first element */
    uintptr_t low, high; /* the bytes it reaches, [low, high) */
} View;

typedef struct {
    int words;
    int64_t word[MAX_WORDS];
} Kind;

/* What is known of one kind of call. */
typedef struct {
    int references, epoch, words, slots, fresh, result;
    Function function;
    int64_t *word;
    uint8_t from[MAX_SLOTS]; /* per slot: CONSTANT, the number of an array, or FRESH + the number of a new one */
    npk_slot slot[MAX_SLOTS];
    PyObject *options, *shapes, *held;
} Plan;

enum { FRESH = 64, CONSTANT = 255, NO_RESULT = -1 };

typedef struct {
    PyObject_HEAD
    int arrays, options;
    unsigned written; /* bit i: array i is an output */
    Plan *plan[PLANS];
} Shortcut;

static struct {
    PyObject *array_type, *empty, *environment, *variable, *dtype_name, *struct_name;
    PyObject *dtype[MAX_DTYPES];
    int dtypes, epoch;
} known;

static void release(Plan *plan) {
    if (plan && --plan->references == 0) {
        Py_XDECREF(plan->options);
        Py_XDECREF(plan->shapes);
        Py_XDECREF(plan->held);
        PyMem_Free(plan->word);
        PyMem_Free(plan);
    }
}

/* Number of the array's dtype, from 1; 0 when it is none of the known ones. */
static int dtype_number(PyObject *array) {
    PyObject *dtype = PyObject_GetAttr(array, known.dtype_name);
    int found = 0;
    for (int i = 0; dtype && i < known.dtypes && !found; i++) found = dtype == known.dtype[i] ? i + 1 : 0;
    Py_XDECREF(dtype);
    return found;
}

/* Appends a number that is given where an array may stand; false when it is none that fits. */
static bool look_at_number(PyObject *x, Kind *kind) {
    PyTypeObject *type = Py_TYPE(x);
    int64_t value = 0;
    if (type == &PyFloat_Type) {
        double real = PyFloat_AsDouble(x);
        memcpy(&value, &real, sizeof value);
    } else if (type == &PyLong_Type) {
        int overflow;
        value = PyLong_AsLongLongAndOverflow(x, &overflow);
        if (overflow) return false;
    } else {
        return false;
    }
    kind->word[kind->words++] = type == &PyFloat_Type ? FLOAT : INTEGER;
    kind->word[kind->words++] = value;
    return true;
}

/* Appends what is to know of an argument that may be an array; false when no shortcut takes it. */
static bool look(PyObject *x, View *view, Kind *kind) {
    *view = (View){0};
    if (x == Py_None) {
        kind->word[kind->words++] = 0;
        return true;
    }
    if (PyFloat_CheckExact(x) || PyLong_CheckExact(x)) return look_at_number(x, kind);
    if ((PyObject *)Py_TYPE(x) != known.array_type) return false;
    int64_t number = dtype_number(x);
    PyObject *capsule = number ? PyObject_GetAttr(x, known.struct_name) : NULL;
    const ArrayInterface *a = capsule ? PyCapsule_GetPointer(capsule, NULL) : NULL;
    bool taken = a && a->dims <= MAX_DIMS;
    if (taken) {
        view->data = a->data;
        view->low = view->high = (uintptr_t)a->data;
        kind->word[kind->words++] = number | (int64_t)a->dims << 8 | (int64_t)(a->flags & FLAGS) << 16;
        for (int i = 0; i < a->dims; i++) {
            kind->word[kind->words++] = a->shape[i];
            kind->word[kind->words++] = a->strides[i];
            /* Unsigned: NumPy makes arrays of any strides, which the public function has to refuse. */
            uintptr_t reach = ((uintptr_t)a->shape[i] - 1) * (uintptr_t)a->strides[i];
            if (a->strides[i] < 0) view->low += reach;
            else view->high += reach;
            taken = taken && a->shape[i] > 0;
        }
        view->high += (uintptr_t)a->itemsize;
    }
    Py_XDECREF(capsule);
    return taken;
}

/* Appends which arrays start at one address; false when a written one shares memory with another, but is not it. */
static bool apart(const Shortcut *self, const View *view, const int *start, Kind *kind) {
    int64_t first = 0;
    for (int i = 0; i < self->arrays; i++) {
        int same = i;
        for (int j = 0; j < i && view[i].data; j++) {
            if (same == i && view[i].data == view[j].data) same = j;
            bool written = (self->written >> i | self->written >> j) & 1;
            if (!written || !view[j].data || view[i].high <= view[j].low || view[j].high <= view[i].low) continue;
            int words = start[i + 1] - start[i];
            bool equal = view[i].data == view[j].data && words == start[j + 1] - start[j]
                         && !memcmp(kind->word + start[i], kind->word + start[j], (size_t)words * sizeof(int64_t));
            if (!equal) return false;
        }
        first = first << 4 | same;
    }
    kind->word[kind->words++] = first;
    return true;
}

/* The kind of a call's arrays; false when there is no shortcut for it. */
static bool kind_of(const Shortcut *self, PyObject *const *arguments, View *view, Kind *kind) {
    int start[MAX_ARRAYS + 1] = {0};
    kind->words = 0;
    for (int i = 0; i < self->arrays; i++) {
        if (!look(arguments[i], &view[i], kind)) return false;
        start[i + 1] = kind->words;
    }
    return apart(self, view, start, kind);
}

/* Whether an option is a value that cannot change, and what it adds to the hash. */
static bool option_hash(PyObject *x, uint64_t *hash) {
    if (x == Py_None || x == Py_True || x == Py_False) {
        *hash = *hash * 31 + (uint64_t)(x == Py_True) + 2 * (uint64_t)(x == Py_False);
        return true;
    }
    PyTypeObject *type = Py_TYPE(x);
    if (type != &PyLong_Type && type != &PyFloat_Type && type != &PyUnicode_Type && type != &PyTuple_Type) return false;
    if (type == &PyTuple_Type) {
        for (Py_ssize_t i = 0; i < PyTuple_Size(x); i++) {
            PyObject *part = PyTuple_GetItem(x, i);
            if (PyTuple_Check(part) || !option_hash(part, hash)) return false;
        }
    } else {
        *hash = *hash * 31 + (uint64_t)PyObject_Hash(x);
    }
    return true;
}

/* Whether two options are the same value of the same type; floats bit by bit, so that -0.0 is not 0.0. */
static bool same_option(PyObject *x, PyObject *y) {
    if (x == y) return true;
    PyTypeObject *type = Py_TYPE(x);
    if (type != Py_TYPE(y)) return false;
    if (type == &PyFloat_Type) {
        double a = PyFloat_AsDouble(x), b = PyFloat_AsDouble(y);
        return !memcmp(&a, &b, sizeof a);
    }
    if (type == &PyTuple_Type) {
        Py_ssize_t size = PyTuple_Size(x);
        bool same = size == PyTuple_Size(y);
        for (Py_ssize_t i = 0; same && i < size; i++) same = same_option(PyTuple_GetItem(x, i), PyTuple_GetItem(y, i));
        return same;
    }
    return (type == &PyLong_Type || type == &PyUnicode_Type) && PyObject_RichCompareBool(x, y, Py_EQ) == 1;
}

/* Where in the table the plan of such a call is; -1 when an option can have none. */
static int place_of(const Shortcut *self, const Kind *kind, PyObject *const *options) {
    uint64_t hash = 0;
    for (int i = 0; i < self->options; i++) {
        if (!option_hash(options[i], &hash)) return -1;
    }
    for (int i = 0; i < kind->words; i++) hash = (hash ^ (uint64_t)kind->word[i]) * 0x9E3779B97F4A7C15u;
    return (int)(hash >> 40 & (PLANS - 1));
}

/* Whether the environment names a variant: it is read at every call, and then there are no shortcuts. */
static bool forced(void) {
    PyObject *value = PyDict_GetItemWithError(known.environment, known.variable);
    return value && PyObject_IsTrue(value);
}

/* The plan of a call like this one, or NULL. */
static Plan *find(Shortcut *self, PyObject *const *arguments, View *view) {
    Kind kind;
    if (!known.environment || forced() || !kind_of(self, arguments, view, &kind)) return NULL;
    int place = place_of(self, &kind, arguments + self->arrays);
    Plan *plan = place < 0 ? NULL : self->plan[place];
    if (!plan || plan->epoch != known.epoch || plan->words != kind.words) return NULL;
    if (memcmp(plan->word, kind.word, (size_t)kind.words * sizeof(int64_t))) return NULL;
    for (int i = 0; i < self->options; i++) {
        if (!same_option(PyTuple_GetItem(plan->options, i), arguments[self->arrays + i])) return NULL;
    }
    return plan;
}

/* Makes the new arrays of a call; false when there is no memory, or whatever else fails. */
static bool make_fresh(const Plan *plan, PyObject **fresh, void **address) {
    for (int i = 0; i < plan->fresh; i++) {
        View view;
        Kind kind = {0};
        fresh[i] = PyObject_CallObject(known.empty, PyTuple_GetItem(plan->shapes, i));
        if (!fresh[i] || !look(fresh[i], &view, &kind)) return false;
        address[i] = view.data;
    }
    return true;
}

/* What the call returns: an argument, a new array, or a tuple of all new arrays. */
static PyObject *result_of(const Plan *plan, PyObject *const *arguments, PyObject **fresh) {
    if (plan->result != NO_RESULT) return Py_NewRef(arguments[plan->result]);
    if (plan->fresh == 1) return Py_NewRef(fresh[0]);
    PyObject *all = PyTuple_New(plan->fresh);
    for (int i = 0; all && i < plan->fresh; i++) PyTuple_SetItem(all, i, Py_NewRef(fresh[i]));
    return all;
}

/* run(*arrays, *options): the result, or None when the caller has to do without a shortcut. */
static PyObject *shortcut_run(PyObject *object, PyObject *const *arguments, Py_ssize_t count) {
    Shortcut *self = (Shortcut *)object;
    View view[MAX_ARRAYS];
    if (count != self->arrays + self->options) {
        PyErr_SetString(PyExc_TypeError, "wrong number of arguments");
        return NULL;
    }
    Plan *plan = find(self, arguments, view);
    if (!plan) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    plan->references++; /* while other threads run, it may lose its place */
    PyObject *fresh[MAX_FRESH] = {0}, *result = NULL;
    void *address[MAX_FRESH] = {0};
    int status = -1;
    if (make_fresh(plan, fresh, address)) {
        npk_slot slot[MAX_SLOTS];
        for (int i = 0; i < plan->slots; i++) {
            uint8_t from = plan->from[i];
            slot[i] = plan->slot[i];
            if (from < FRESH) slot[i].p = view[from].data;
            else if (from != CONSTANT) slot[i].p = address[from - FRESH];
        }
        PyThreadState *state = PyEval_SaveThread();
        status = plan->function(slot);
        PyEval_RestoreThread(state);
    }
    if (status == 0) result = result_of(plan, arguments, fresh);
    for (int i = 0; i < plan->fresh; i++) Py_XDECREF(fresh[i]);
    release(plan);
    if (result) return result;
    PyErr_Clear();
    Py_RETURN_NONE;
}

/* Fills a plan's slots from the bytes of them and of where they come from; false when these do not fit. */
static bool take_slots(Plan *plan, const char *slots, Py_ssize_t size, const char *from, Py_ssize_t count, int arrays) {
    if (count > MAX_SLOTS || size != count * (Py_ssize_t)sizeof(npk_slot)) return false;
    memcpy(plan->slot, slots, (size_t)size);
    memcpy(plan->from, from, (size_t)count);
    for (int i = 0; i < count; i++) {
        if (plan->from[i] == CONSTANT) continue;
        if (plan->from[i] >= (plan->from[i] < FRESH ? arrays : FRESH + plan->fresh)) return false;
    }
    plan->slots = (int)count;
    return true;
}

/* keep(arguments, function, slots, from, shapes, result, held): what `run` shall do for such arguments.
 * `function` is an address, `slots` and `from` are bytes, `shapes` the arguments of `empty` for every new array,
 * `result` the number of the argument to return or -1 for what is new; `held` is kept alive. */
static PyObject *shortcut_keep(PyObject *object, PyObject *given) {
    Shortcut *self = (Shortcut *)object;
    PyObject *arguments, *shapes, *held;
    const char *slots, *from;
    Py_ssize_t size, count;
    unsigned long long function;
    int result;
    if (!PyArg_ParseTuple(given, "O!Ky#y#O!iO", &PyTuple_Type, &arguments, &function, &slots, &size, &from, &count,
                          &PyTuple_Type, &shapes, &result, &held)) {
        return NULL;
    }
    PyObject *each[MAX_ARRAYS + MAX_OPTIONS];
    View view[MAX_ARRAYS];
    Kind kind;
    bool fits = PyTuple_Size(arguments) == self->arrays + self->options && PyTuple_Size(shapes) <= MAX_FRESH
                && result < self->arrays && (result >= 0 || PyTuple_Size(shapes) > 0);
    for (int i = 0; fits && i < self->arrays + self->options; i++) each[i] = PyTuple_GetItem(arguments, i);
    fits = fits && known.environment && !forced() && kind_of(self, each, view, &kind);
    int place = fits ? place_of(self, &kind, each + self->arrays) : -1;
    PyErr_Clear();
    if (place < 0) Py_RETURN_FALSE;
    Plan *plan = PyMem_Calloc(1, sizeof *plan);
    if (!plan) return PyErr_NoMemory();
    plan->references = 1;
    plan->epoch = known.epoch;
    plan->fresh = (int)PyTuple_Size(shapes);
    plan->result = result < 0 ? NO_RESULT : result;
    plan->function = (Function)(uintptr_t)function;
    plan->words = kind.words;
    plan->word = PyMem_Malloc((size_t)kind.words * sizeof(int64_t));
    plan->options = PyTuple_GetSlice(arguments, self->arrays, self->arrays + self->options);
    plan->shapes = Py_NewRef(shapes);
    plan->held = Py_NewRef(held);
    if (!plan->word || !plan->options || !take_slots(plan, slots, size, from, count, self->arrays)) {
        release(plan);
        PyErr_Clear();
        Py_RETURN_FALSE;
    }
    memcpy(plan->word, kind.word, (size_t)kind.words * sizeof(int64_t));
    Plan *former = self->plan[place];
    self->plan[place] = plan;
    release(former);
    Py_RETURN_TRUE;
}

static PyObject *shortcut_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords) {
    int arrays, options;
    unsigned written;
    static char *names[] = {"arrays", "options", "written", NULL};
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "iiI", names, &arrays, &options, &written)) return NULL;
    if (arrays < 1 || arrays > MAX_ARRAYS || options < 0 || options > MAX_OPTIONS || written >> arrays) {
        PyErr_SetString(PyExc_ValueError, "too many arrays or options");
        return NULL;
    }
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Shortcut *self = (Shortcut *)allocate(type, 0);
    if (!self) return NULL;
    self->arrays = arrays;
    self->options = options;
    self->written = written;
    return (PyObject *)self;
}

static void shortcut_free(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    for (int i = 0; i < PLANS; i++) release(((Shortcut *)object)->plan[i]);
    freefunc free_it = (freefunc)PyType_GetSlot(type, Py_tp_free);
    free_it(object);
    Py_DECREF(type);
}

static PyMethodDef shortcut_methods[] = {
    {"run", (PyCFunction)(void (*)(void))shortcut_run, METH_FASTCALL, "The result, or None without a shortcut."},
    {"keep", shortcut_keep, METH_VARARGS, "Keeps what C was told; whether it could."},
    {0},
};

static PyType_Slot shortcut_slots[] = {
    {Py_tp_doc, "Calls of one public function whose kinds are known."},
    {Py_tp_new, shortcut_new},
    {Py_tp_dealloc, shortcut_free},
    {Py_tp_methods, shortcut_methods},
    {0},
};

static PyType_Spec shortcut_spec = {
    .name = "npukernels._shortcut.Shortcut",
    .basicsize = sizeof(Shortcut),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = shortcut_slots,
};

/* configure(array type, empty, dtypes, environment, variable): what the module has to know of Python. */
static PyObject *configure(PyObject *self, PyObject *given) {
    PyObject *array_type, *empty, *dtypes, *environment, *variable;
    (void)self;
    if (!PyArg_ParseTuple(given, "OOO!O!O", &array_type, &empty, &PyTuple_Type, &dtypes, &PyDict_Type, &environment,
                          &variable)) {
        return NULL;
    }
    if (known.environment || PyTuple_Size(dtypes) > MAX_DTYPES) {
        PyErr_SetString(PyExc_ValueError, "configured already, or too many dtypes");
        return NULL;
    }
    known.dtypes = (int)PyTuple_Size(dtypes);
    for (int i = 0; i < known.dtypes; i++) known.dtype[i] = Py_NewRef(PyTuple_GetItem(dtypes, i));
    known.array_type = Py_NewRef(array_type);
    known.empty = Py_NewRef(empty);
    known.variable = Py_NewRef(variable);
    known.environment = Py_NewRef(environment);
    Py_RETURN_NONE;
}

/* forget(): no plan made so far is used again. */
static PyObject *forget(PyObject *self, PyObject *nothing) {
    (void)self;
    (void)nothing;
    known.epoch++;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"configure", configure, METH_VARARGS, "Names what the module has to know of Python."},
    {"forget", forget, METH_NOARGS, "No plan made so far is used again."},
    {0},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "npukernels._shortcut",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__shortcut(void) {
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = PyType_FromSpec(&shortcut_spec);
    known.dtype_name = PyUnicode_InternFromString("dtype");
    known.struct_name = PyUnicode_InternFromString("__array_struct__");
    bool made = module && type && known.dtype_name && known.struct_name;
    if (made && PyModule_AddObjectRef(module, "Shortcut", type) == 0) {
        Py_DECREF(type);
        return module;
    }
    Py_XDECREF(type);
    Py_XDECREF(module);
    return NULL;
}
