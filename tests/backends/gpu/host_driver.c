/* A driver of one GPU whose memory is the host's, for tests of libraries that call the real one.
 *
 * Work on a stream is done when the stream is waited for, by the processor or by another stream. Every call needs a
 * current context. Within a capture, an allocation is refused and voids the capture. Errors have the driver's codes.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    OK,
    INVALID_VALUE,
    OUT_OF_MEMORY,
    NOT_INITIALIZED,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500
};
enum { CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };
#define EXPORT __attribute__((visibility("default")))
#define LIMIT ((size_t)1 << 30)
#define DEPTH 64

typedef struct Stream Stream;
typedef struct {
    double at_ms;
    Stream* stream;
    size_t position;
} Event;
typedef struct {
    enum { COPY, RECORD, WAIT } kind;
    char* target;
    const char* source;
    size_t bytes;
    Event* event;
    Stream* stream;
    size_t position;
} Work;
typedef struct {
    Work* list;
    size_t count;
} Queue;
struct Stream {
    Queue queue, captured;
    size_t done;
    int capturing, broken;
};

static pthread_mutex_t lock;
static __attribute__((constructor)) void start(void) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&lock, &attributes);
}

static int initialized, primary, retained;
static long live_allocations, live_streams, live_events;
static Stream legacy;
static Stream* streams[1024];
static __thread void* stack[DEPTH];
static __thread int depth;
static __thread Stream* capturing;

static void append(Queue* queue, Work work) {
    queue->list = realloc(queue->list, (queue->count + 1) * sizeof work);
    queue->list[queue->count++] = work;
}

static void run(Stream* stream, size_t until) {
    while (stream->done < until) {
        Work work = stream->queue.list[stream->done++];
        struct timespec now;
        switch (work.kind) {
            case COPY:
                memmove(work.target, work.source, work.bytes);
                break;
            case RECORD:
                clock_gettime(CLOCK_MONOTONIC, &now);
                work.event->at_ms = 1e3 * now.tv_sec + 1e-6 * now.tv_nsec;
                break;
            case WAIT:
                run(work.stream, work.position);
                break;
        }
    }
}

static Stream* find(Stream* stream) { return (uintptr_t)stream <= 1 ? &legacy : stream; }

static int known(Stream* stream) {
    if (stream == &legacy) return 1;
    for (int i = 0; i < 1024; i++)
        if (streams[i] == stream) return 1;
    return 0;
}

static int put(Stream* stream, Work work) {
    stream = find(stream);
    if (!depth) return INVALID_CONTEXT;
    pthread_mutex_lock(&lock);
    int code = known(stream) ? OK : INVALID_HANDLE;
    if (code == OK) append(stream->capturing ? &stream->captured : &stream->queue, work);
    pthread_mutex_unlock(&lock);
    return code;
}

static int refuse_in_capture(void) {
    if (!depth) return INVALID_CONTEXT;
    if (!capturing) return OK;
    capturing->broken = 1;
    return CAPTURE_UNSUPPORTED;
}

EXPORT int cuInit(unsigned flags) {
    initialized = 1;
    return flags ? INVALID_VALUE : OK;
}
EXPORT int cuDriverGetVersion(int* version) {
    *version = 13000;
    return OK;
}
EXPORT int cuDeviceGetCount(int* count) {
    *count = 1;
    return OK;
}
EXPORT int cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    return ordinal ? 101 : initialized ? OK : NOT_INITIALIZED;
}
EXPORT int cuDeviceGetName(char* name, int size, int device) {
    snprintf(name, size, "Host %d", device);
    return OK;
}
EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = LIMIT;
    return device;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 75 ? 9 : 0;
    return device;
}
EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
    if (!initialized) return NOT_INITIALIZED;
    *context = &primary;
    retained++;
    return device;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    retained--;
    return device;
}
EXPORT int cuCtxPushCurrent_v2(void* context) {
    if (context != &primary || depth == DEPTH) return INVALID_CONTEXT;
    stack[depth++] = context;
    return OK;
}
EXPORT int cuCtxPopCurrent_v2(void** context) {
    if (!depth) return INVALID_CONTEXT;
    *context = stack[--depth];
    return OK;
}
EXPORT int cuCtxGetCurrent(void** context) {
    *context = depth ? stack[depth - 1] : NULL;
    return OK;
}
EXPORT int cuCtxGetDevice(int* device) {
    *device = 0;
    return depth ? OK : INVALID_CONTEXT;
}
EXPORT int cuCtxSynchronize(void) {
    if (!depth) return INVALID_CONTEXT;
    pthread_mutex_lock(&lock);
    run(&legacy, legacy.queue.count);
    for (int i = 0; i < 1024; i++)
        if (streams[i]) run(streams[i], streams[i]->queue.count);
    pthread_mutex_unlock(&lock);
    return OK;
}

static int allocate(void** pointer, size_t bytes, size_t alignment) {
    int code = refuse_in_capture();
    if (code) return code;
    if (!bytes) return INVALID_VALUE;
    if (bytes > LIMIT) return OUT_OF_MEMORY;
    if (posix_memalign(pointer, alignment, bytes)) return OUT_OF_MEMORY;
    memset(*pointer, 0xEE, bytes);
    __sync_add_and_fetch(&live_allocations, 1);
    return OK;
}
static int release(void* pointer) {
    if (!depth) return INVALID_CONTEXT;
    free(pointer);
    __sync_sub_and_fetch(&live_allocations, 1);
    return OK;
}
EXPORT int cuMemAlloc_v2(void** pointer, size_t bytes) { return allocate(pointer, bytes, 512); }
EXPORT int cuMemFree_v2(void* pointer) { return release(pointer); }
EXPORT int cuMemHostAlloc(void** pointer, size_t bytes, unsigned flags) {
    (void)flags;
    return allocate(pointer, bytes, 64);
}
EXPORT int cuMemFreeHost(void* pointer) { return release(pointer); }
EXPORT int cuMemGetInfo_v2(size_t* available, size_t* total) {
    *available = LIMIT / 2;
    *total = LIMIT;
    return depth ? OK : INVALID_CONTEXT;
}

static int copy(void* target, const void* source, size_t bytes, Stream* stream) {
    return put(stream, (Work){COPY, target, source, bytes, NULL, NULL, 0});
}
EXPORT int cuMemcpyHtoDAsync_v2(void* target, const void* source, size_t bytes, Stream* stream) {
    return copy(target, source, bytes, stream);
}
EXPORT int cuMemcpyDtoHAsync_v2(void* target, const void* source, size_t bytes, Stream* stream) {
    return copy(target, source, bytes, stream);
}
EXPORT int cuMemcpyDtoDAsync_v2(void* target, const void* source, size_t bytes, Stream* stream) {
    return copy(target, source, bytes, stream);
}

EXPORT int cuStreamCreate(Stream** stream, unsigned flags) {
    if (!depth) return INVALID_CONTEXT;
    if (flags > 1) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < 1024; i++)
        if (!streams[i]) {
            *stream = streams[i] = calloc(1, sizeof(Stream));
            break;
        }
    live_streams++;
    pthread_mutex_unlock(&lock);
    return OK;
}
EXPORT int cuStreamDestroy_v2(Stream* stream) {
    pthread_mutex_lock(&lock);
    int code = INVALID_HANDLE;
    for (int i = 0; i < 1024; i++)
        if (streams[i] == stream) {
            streams[i] = NULL;
            live_streams--;
            code = OK;
        }
    pthread_mutex_unlock(&lock);
    return code;
}
EXPORT int cuStreamSynchronize(Stream* stream) {
    stream = find(stream);
    if (!depth) return INVALID_CONTEXT;
    pthread_mutex_lock(&lock);
    int code = known(stream) ? OK : INVALID_HANDLE;
    if (code == OK) run(stream, stream->queue.count);
    pthread_mutex_unlock(&lock);
    return code;
}
EXPORT int cuStreamWaitEvent(Stream* stream, Event* event, unsigned flags) {
    if (flags) return INVALID_VALUE;
    return event->stream ? put(stream, (Work){WAIT, NULL, NULL, 0, NULL, event->stream, event->position}) : OK;
}

EXPORT int cuEventCreate(Event** event, unsigned flags) {
    if (!depth) return INVALID_CONTEXT;
    if (flags & ~7u) return INVALID_VALUE;
    *event = calloc(1, sizeof(Event));
    __sync_add_and_fetch(&live_events, 1);
    return OK;
}
EXPORT int cuEventDestroy_v2(Event* event) {
    __sync_sub_and_fetch(&live_events, 1);
    (void)event;
    return OK;
} /* the stream keeps it */
EXPORT int cuEventRecord(Event* event, Stream* stream) {
    int code = put(stream, (Work){RECORD, NULL, NULL, 0, event, NULL, 0});
    if (code == OK) event->stream = find(stream), event->position = find(stream)->queue.count;
    return code;
}
EXPORT int cuEventElapsedTime(float* ms, Event* first, Event* last) {
    if (!first->at_ms || !last->at_ms) return 600;
    *ms = (float)(last->at_ms - first->at_ms);
    return OK;
}

EXPORT int cuEventElapsedTime_v2(float* ms, Event* first, Event* last) { return cuEventElapsedTime(ms, first, last); }

EXPORT int cuStreamBeginCapture_v2(Stream* stream, int mode) {
    if (mode != 1) return INVALID_VALUE;
    stream->capturing = 1, stream->broken = 0, stream->captured = (Queue){0};
    capturing = stream;
    return OK;
}
EXPORT int cuStreamEndCapture(Stream* stream, Queue** graph) {
    if (!stream->capturing) return INVALID_VALUE;
    stream->capturing = 0, capturing = NULL, *graph = NULL;
    if (stream->broken) return CAPTURE_INVALIDATED;
    *graph = malloc(sizeof(Queue));
    **graph = stream->captured;
    return OK;
}
EXPORT int cuGraphInstantiateWithFlags(Queue** executable, Queue* graph, uint64_t flags) {
    *executable = malloc(sizeof(Queue));
    **executable = *graph;
    return flags ? INVALID_VALUE : OK;
}
EXPORT int cuGraphDestroy(Queue* graph) {
    free(graph);
    return OK;
}
EXPORT int cuGraphExecDestroy(Queue* executable) {
    free(executable);
    return OK;
}
EXPORT int cuGraphLaunch(Queue* executable, Stream* stream) {
    int code = OK;
    for (size_t i = 0; i < executable->count && code == OK; i++) code = put(stream, executable->list[i]);
    return code;
}

EXPORT int cuGetErrorName(int code, const char** name) {
    *name = code ? "AN_ERROR" : "CUDA_SUCCESS";
    return OK;
}
EXPORT int cuGetErrorString(int code, const char** text) {
    *text = code ? "an error" : "no error";
    return OK;
}

/* What is alive: allocations, streams, events. */
EXPORT void count_live(long* counts) {
    counts[0] = live_allocations, counts[1] = live_streams, counts[2] = live_events;
}

#define ENTRY(name, function) \
    { name, (void*)function }
static const struct {
    const char* name;
    void* function;
} TABLE[] = {
    ENTRY("cuInit", cuInit),
    ENTRY("cuDriverGetVersion", cuDriverGetVersion),
    ENTRY("cuDeviceGet", cuDeviceGet),
    ENTRY("cuDeviceGetCount", cuDeviceGetCount),
    ENTRY("cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain),
    ENTRY("cuDevicePrimaryCtxRelease", cuDevicePrimaryCtxRelease_v2),
    ENTRY("cuCtxPushCurrent", cuCtxPushCurrent_v2),
    ENTRY("cuCtxPopCurrent", cuCtxPopCurrent_v2),
    ENTRY("cuCtxSynchronize", cuCtxSynchronize),
    ENTRY("cuMemAlloc", cuMemAlloc_v2),
    ENTRY("cuMemFree", cuMemFree_v2),
    ENTRY("cuMemGetInfo", cuMemGetInfo_v2),
    ENTRY("cuMemHostAlloc", cuMemHostAlloc),
    ENTRY("cuMemFreeHost", cuMemFreeHost),
    ENTRY("cuMemcpyHtoDAsync", cuMemcpyHtoDAsync_v2),
    ENTRY("cuMemcpyDtoHAsync", cuMemcpyDtoHAsync_v2),
    ENTRY("cuMemcpyDtoDAsync", cuMemcpyDtoDAsync_v2),
    ENTRY("cuStreamCreate", cuStreamCreate),
    ENTRY("cuStreamDestroy", cuStreamDestroy_v2),
    ENTRY("cuStreamSynchronize", cuStreamSynchronize),
    ENTRY("cuStreamWaitEvent", cuStreamWaitEvent),
    ENTRY("cuEventCreate", cuEventCreate),
    ENTRY("cuEventDestroy", cuEventDestroy_v2),
    ENTRY("cuEventRecord", cuEventRecord),
    ENTRY("cuEventElapsedTime", cuEventElapsedTime),
    ENTRY("cuStreamBeginCapture", cuStreamBeginCapture_v2),
    ENTRY("cuStreamEndCapture", cuStreamEndCapture),
    ENTRY("cuGraphInstantiate", cuGraphInstantiateWithFlags),
    ENTRY("cuGraphInstantiateWithFlags", cuGraphInstantiateWithFlags),
    ENTRY("cuGraphDestroy", cuGraphDestroy),
    ENTRY("cuGraphExecDestroy", cuGraphExecDestroy),
    ENTRY("cuGraphLaunch", cuGraphLaunch),
};

EXPORT int cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t flags, int* status) {
    (void)version, (void)flags;
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
        if (!strcmp(TABLE[i].name, name)) {
            *function = TABLE[i].function;
            if (status) *status = 0;
            return OK;
        }
    *function = NULL;
    if (status) *status = 1;
    return NOT_FOUND;
}
EXPORT int cuGetProcAddress(const char* name, void** function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
