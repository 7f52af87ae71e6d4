/* Memory of the stand-in device: see driver.h.
 *
 * It is a file in memory (memfd) that is mapped twice: at the address that cuMemAlloc gives out without any permission,
 * so that whatever reads or writes it there ends with SIGSEGV, and at a second address that only the copies in this
 * file know. Fresh memory is full of 0xFF (NaN as floats), freed memory is unmapped.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

typedef struct allocation {
    char *address, *within; /* what was given out, and where the copies reach the same pages */
    size_t size;
    int fd;
    uint64_t id;
    struct allocation *next;
} allocation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static allocation *allocations;
static uint64_t ids;
static struct counters {
    uint64_t h2d, d2h, d2d, bytes_h2d, bytes_d2h, bytes_d2d, ipc_opened;
} counted;

/* The counters since the last reset. */
void standin_counters(struct counters *out, int reset) {
    pthread_mutex_lock(&lock);
    *out = counted;
    if (reset) memset(&counted, 0, sizeof counted);
    pthread_mutex_unlock(&lock);
}

/* -- allocation ---------------------------------------------------------------------------------------------- */

static allocation *find(CUdeviceptr pointer) {
    allocation *a = allocations;
    while (a && !(pointer >= (CUdeviceptr)a->address && pointer < (CUdeviceptr)a->address + a->size)) a = a->next;
    return a;
}

static CUresult map(int fd, size_t size, int fresh, CUdeviceptr *pointer) {
    allocation *a = malloc(sizeof *a);
    a->address = mmap(NULL, size, PROT_NONE, MAP_SHARED, fd, 0);
    a->within = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (a->address == MAP_FAILED || a->within == MAP_FAILED) return OUT_OF_MEMORY;
    if (fresh) memset(a->within, 0xFF, size);
    a->size = size;
    a->fd = fd;
    pthread_mutex_lock(&lock);
    a->id = ++ids;
    a->next = allocations;
    allocations = a;
    pthread_mutex_unlock(&lock);
    *pointer = (CUdeviceptr)a->address;
    return SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *pointer, size_t size) {
    NEEDS_CONTEXT;
    if (!pointer || !size) return INVALID_VALUE;
    size = (size + PAGE - 1) / PAGE * PAGE;
    int fd = memfd_create("device", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)size)) return OUT_OF_MEMORY;
    return map(fd, size, 1, pointer);
}

CUresult cuMemFree_v2(CUdeviceptr pointer) {
    NEEDS_CONTEXT;
    pthread_mutex_lock(&lock);
    allocation **link = &allocations, *a;
    while ((a = *link) && (CUdeviceptr)a->address != pointer) link = &a->next;
    if (a) *link = a->next;
    pthread_mutex_unlock(&lock);
    if (!a) return INVALID_VALUE;
    munmap(a->address, a->size);
    munmap(a->within, a->size);
    close(a->fd);
    free(a);
    return SUCCESS;
}

/* Host memory: there is nothing to lock. */
CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
    NEEDS_CONTEXT;
    return posix_memalign(pointer, PAGE, size) ? OUT_OF_MEMORY : SUCCESS;
}

CUresult cuMemFreeHost(void *pointer) {
    NEEDS_CONTEXT;
    free(pointer);
    return SUCCESS;
}

DOES_NOTHING(cuMemHostRegister_v2, (void *pointer, size_t size, unsigned flags))
DOES_NOTHING(cuMemHostUnregister, (void *pointer))

/* -- copies -------------------------------------------------------------------------------------------------- */

/* Where the processor may touch `size` bytes at `pointer`: in the second mapping, or as they are in host memory. */
static char *reach(CUdeviceptr pointer, size_t size, int *on_device) {
    allocation *a = find(pointer);
    *on_device = a != NULL;
    if (!a) return (char *)pointer;
    size_t offset = pointer - (CUdeviceptr)a->address;
    return offset + size <= a->size ? a->within + offset : NULL;
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t size) {
    NEEDS_CONTEXT;
    int to_device, from_device;
    pthread_mutex_lock(&lock);
    char *target = reach(to, size, &to_device), *source = reach(from, size, &from_device);
    if (target && source) {
        memmove(target, source, size);
        if (to_device && from_device) counted.d2d++, counted.bytes_d2d += size;
        else if (to_device) counted.h2d++, counted.bytes_h2d += size;
        else if (from_device) counted.d2h++, counted.bytes_d2h += size;
    }
    pthread_mutex_unlock(&lock);
    return target && source ? SUCCESS : INVALID_VALUE;
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    return cuMemcpy(to, from, size);
}

/* -- whose is a pointer? ------------------------------------------------------------------------------------- */

static CUresult attribute(void *data, int which, CUdeviceptr pointer) {
    pthread_mutex_lock(&lock);
    allocation *a = find(pointer);
    pthread_mutex_unlock(&lock);
    if (!a) return INVALID_VALUE;
    switch (which) { /* by the numbers of CUpointer_attribute */
        case 1: *(CUcontext *)data = primary_context(); return SUCCESS; /* CONTEXT */
        case 2: *(int *)data = 2; return SUCCESS;                       /* MEMORY_TYPE: CU_MEMORYTYPE_DEVICE */
        case 3: *(CUdeviceptr *)data = pointer; return SUCCESS;         /* DEVICE_POINTER */
        case 7: *(uint64_t *)data = a->id; return SUCCESS;              /* BUFFER_ID */
        case 8: *(int *)data = 0; return SUCCESS;                       /* IS_MANAGED */
        case 9: *(int *)data = 0; return SUCCESS;                       /* DEVICE_ORDINAL */
        default: return INVALID_VALUE;
    }
}

CUresult cuPointerGetAttribute(void *data, int which, CUdeviceptr pointer) { return attribute(data, which, pointer); }

/* Unlike the one above it takes any pointer: what does not belong to CUDA gets zeros. */
CUresult cuPointerGetAttributes(unsigned n, int *which, void **data, CUdeviceptr pointer) {
    for (unsigned i = 0; i < n; i++) {
        int narrow = which[i] == 2 || which[i] == 8 || which[i] == 9;
        memset(data[i], 0, narrow ? sizeof(int) : sizeof(uint64_t));
        attribute(data[i], which[i], pointer);
    }
    return SUCCESS;
}

/* CU_POINTER_ATTRIBUTE_SYNC_MEMOPS is the only one that is set by anybody; all copies are synchronous anyway. */
CUresult cuPointerSetAttribute(const void *value, int which, CUdeviceptr pointer) {
    uint64_t ignored;
    return which == 6 ? attribute(&ignored, 3, pointer) : INVALID_VALUE;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr pointer) {
    pthread_mutex_lock(&lock);
    allocation *a = find(pointer);
    if (a && base) *base = (CUdeviceptr)a->address;
    if (a && size) *size = a->size;
    pthread_mutex_unlock(&lock);
    return a ? SUCCESS : NOT_FOUND;
}

/* -- memory of other processes: a handle says whose file it is ------------------------------------------------ */

struct whose {
    uint64_t size, id; /* the id, because Open MPI compares handles, and a later file may have the same number */
    int pid, fd;
};

CUresult cuIpcGetMemHandle(CUipcHandle *handle, CUdeviceptr pointer) {
    pthread_mutex_lock(&lock);
    allocation *a = find(pointer);
    struct whose it = {a ? a->size : 0, a ? a->id : 0, (int)getpid(), a ? a->fd : -1};
    pthread_mutex_unlock(&lock);
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &it, sizeof it);
    return a ? SUCCESS : INVALID_VALUE;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcHandle handle, unsigned flags) {
    NEEDS_CONTEXT;
    struct whose it;
    char path[64];
    memcpy(&it, &handle, sizeof it);
    if (it.pid == getpid()) return INVALID_CONTEXT; /* the driver too refuses a process its own handle */
    snprintf(path, sizeof path, "/proc/%d/fd/%d", it.pid, it.fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return INVALID_VALUE;
    counted.ipc_opened++;
    return map(fd, it.size, 0, pointer);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr pointer) { return cuMemFree_v2(pointer); }
