/* A stand-in for the CUDA driver (libcuda.so.1): one device, whose memory the processor cannot touch.
 *
 * memory.c has the memory, the copies and the questions about pointers; driver.c has contexts, streams and events.
 * Only what Open MPI's CUDA components and this project's tests call is here. The names are the exported ones, which
 * cuda.h hides behind macros (cuMemAlloc is cuMemAlloc_v2); cuda.h itself is not needed.
 *
 * Like the driver, and unlike the runtime, it wants a context: a thread that has none current gets
 * CUDA_ERROR_INVALID_CONTEXT for what needs one, so that a helper thread that forgot to bind is noticed.
 * Unlike the driver nothing is asynchronous: a copy has happened when its call returns, and so has every event.
 */
#include <stddef.h>
#include <stdint.h>

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801
};
enum { PAGE = 4096 };

typedef int CUresult, CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct { int unused; } *CUcontext, *CUstream, *CUevent;
typedef struct { char bytes[64]; } CUipcHandle;

/* The one context of the device, and the one that is current in the calling thread. */
CUcontext primary_context(void);
CUcontext current_context(void);

#define NEEDS_CONTEXT if (!current_context()) return INVALID_CONTEXT
/* A function that does nothing but check for a context. */
#define DOES_NOTHING(name, parameters) CUresult name parameters { NEEDS_CONTEXT; return SUCCESS; }
