// What a CUDA source needs to be plain C++, and a launch that runs the threads one after the other.

#include <math.h>
#include <string.h>

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __constant__ const

struct dim3 { unsigned x, y, z; };
static dim3 threadIdx{0, 0, 0}, blockIdx{0, 0, 0}, blockDim{1, 1, 1}, gridDim{1, 1, 1};

static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }

template <typename... P> struct Types {};
template <int... I> struct Places {};
template <int N, int... I> struct Count : Count<N - 1, N - 1, I...> {};
template <int... I> struct Count<0, I...> { typedef Places<I...> type; };

template <typename P> struct Plain { typedef P type; };
template <typename P> struct Plain<const P> { typedef P type; };

template <typename P> static typename Plain<P>::type take(const void* from) {
    typename Plain<P>::type value;
    memcpy(&value, from, sizeof value);
    return value;
}

template <typename... P, int... I>
static int launch(void (*kernel)(P...), int grid, int block, int count, const int* sizes, void** from, Places<I...>) {
    const int expected[] = {(int)sizeof(P)..., 0};
    if (count != (int)sizeof...(P)) return -1;
    for (int i = 0; i < count; ++i)
        if (sizes[i] != expected[i]) return i + 1;
    gridDim.x = grid;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel(take<P>(from[I])...);
    return 0;
}

template <typename... P>
static int launch(void (*kernel)(P...), int grid, int block, int count, const int* sizes, void** from) {
    return launch(kernel, grid, block, count, sizes, from, typename Count<sizeof...(P)>::type());
}
