/* The device, contexts, streams and events of the stand-in driver: see driver.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

static struct { int unused; } primary;
static int retained;
static __thread CUcontext stack[16]; /* the contexts of each thread; the uppermost is current */
static __thread int top;

CUcontext primary_context(void) { return (CUcontext)&primary; }
CUcontext current_context(void) { return stack[top]; }

/* -- the device ---------------------------------------------------------------------------------------------- */

CUresult cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }

CUresult cuDeviceGetCount(int *count) {
    *count = 1;
    return SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    *device = 0;
    return ordinal ? INVALID_DEVICE : SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    snprintf(name, (size_t)length, "stand-in device");
    return SUCCESS;
}

/* CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING; of the rest (memory pools, ...) it has nothing. */
CUresult cuDeviceGetAttribute(int *value, int which, CUdevice device) {
    *value = which == 41;
    return SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *id, int length, CUdevice device) {
    snprintf(id, (size_t)length, "0000:01:00.0");
    return SUCCESS;
}

/* All ranks of a node have the same device. */
CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
    *can = 1;
    return SUCCESS;
}

/* -- contexts ------------------------------------------------------------------------------------------------ */

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) {
    *flags = 0;
    *active = retained > 0;
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    retained++;
    *context = primary_context();
    return device ? INVALID_DEVICE : SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = stack[top];
    return SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    stack[top] = context;
    return SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext context) {
    if (!context || top == 15) return INVALID_CONTEXT;
    stack[++top] = context;
    return SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    NEEDS_CONTEXT;
    *context = stack[top];
    stack[top] = NULL;
    if (top) top--;
    return SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) {
    NEEDS_CONTEXT;
    *device = 0;
    return SUCCESS;
}

/* -- streams and events: everything has happened already ------------------------------------------------------ */

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    NEEDS_CONTEXT;
    *stream = malloc(sizeof **stream);
    return SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream) {
    free(stream);
    return SUCCESS;
}

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    NEEDS_CONTEXT;
    *event = malloc(sizeof **event);
    return SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
    free(event);
    return SUCCESS;
}

DOES_NOTHING(cuStreamSynchronize, (CUstream stream))
DOES_NOTHING(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))
DOES_NOTHING(cuEventRecord, (CUevent event, CUstream stream))
DOES_NOTHING(cuEventQuery, (CUevent event))
DOES_NOTHING(cuEventSynchronize, (CUevent event))

CUresult cuIpcGetEventHandle(CUipcHandle *handle, CUevent event) {
    memset(handle, 0, sizeof *handle);
    return SUCCESS;
}

CUresult cuIpcOpenEventHandle(CUevent *event, CUipcHandle handle) { return cuEventCreate(event, 0); }

/* -- what it has not: virtual memory management and memory pools ---------------------------------------------- */

CUresult cuMemRetainAllocationHandle(uint64_t *handle, void *pointer) { return INVALID_VALUE; }
CUresult cuMemGetAllocationPropertiesFromHandle(void *properties, uint64_t handle) { return NOT_SUPPORTED; }
CUresult cuMemGetAccess(uint64_t *flags, const void *location, CUdeviceptr pointer) { return NOT_SUPPORTED; }
CUresult cuMemRelease(uint64_t handle) { return NOT_SUPPORTED; }
CUresult cuMemPoolGetAccess(int *flags, void *pool, void *location) { return NOT_SUPPORTED; }
