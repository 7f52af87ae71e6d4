// Put before every source of this directory: 16-bit types, loads and stores, and the loop of a kernel.
//
// No header is needed, so that NVRTC compiles it anywhere. Kernels use no shared memory, no barriers and no atomics:
// every thread computes its own outputs, so that results are the same in every run, and the same source also runs on a
// CPU, thread after thread (tests/helpers/standin/on_cpu.py).

#define DEVICE __device__ __forceinline__
#define KERNEL __global__ void

// for (long long i = ...; i < n; ...): every thread takes every (threads of the grid)-th item.
#define EACH(i, n)                                                                                   \
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, i##_all = (n),              \
                   i##_step = (long long)gridDim.x * blockDim.x;                                     \
         i < i##_all; i += i##_step)

// -- types ---------------------------------------------------------------------------------------------------------

struct half16 { unsigned short bits; };    // IEEE 754 binary16
struct bfloat16 { unsigned short bits; };  // the upper half of a float

// The type of arithmetic: double for double, float for everything shorter.
template <typename T> struct Wide { typedef float type; };
template <> struct Wide<double> { typedef double type; };

DEVICE float wide(float x) { return x; }
DEVICE double wide(double x) { return x; }
DEVICE float wide(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

DEVICE float wide(half16 x) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
#else
    unsigned size = (x.bits & 0x7fffu) << 13, exponent = size & 0x0f800000u;
    float value = __uint_as_float(size + (112u << 23));
    if (exponent == 0x0f800000u) value = __uint_as_float(size + (224u << 23));                 // infinite, NaN
    if (exponent == 0) value = __uint_as_float(size + (113u << 23)) - __uint_as_float(113u << 23);  // subnormal
    return __uint_as_float(__float_as_uint(value) | (unsigned)(x.bits & 0x8000u) << 16);
#endif
}

// To the nearest value of T, ties to even; a double becomes a 16-bit number by way of float, as in CuPy.
template <typename T> struct Narrow;
template <> struct Narrow<float> { static DEVICE float of(double x) { return (float)x; } };
template <> struct Narrow<double> { static DEVICE double of(double x) { return x; } };

template <> struct Narrow<bfloat16> {
    static DEVICE bfloat16 of(float x) {
        unsigned bits = __float_as_uint(x);
        if (x != x) return bfloat16{(unsigned short)(bits >> 16 | 0x40u)};
        return bfloat16{(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
    }
};

template <> struct Narrow<half16> {
    static DEVICE half16 of(float x) {
#ifdef __CUDA_ARCH__
        half16 value;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
        return value;
#else
        unsigned bits = __float_as_uint(x), size = bits & 0x7fffffffu, result;
        if (size > 0x7f800000u) result = 0x7e00u;        // NaN
        else if (size >= 0x477ff000u) result = 0x7c00u;  // 65520 and more
        else if (size < 0x38800000u)                     // subnormal: 0.5f ends in the last bit of binary16
            result = __float_as_uint(__uint_as_float(size) + 0.5f) - __float_as_uint(0.5f);
        else result = (size + 0xfffu + (size >> 13 & 1u) - (112u << 23)) >> 13;
        return half16{(unsigned short)(result | bits >> 16 & 0x8000u)};
#endif
    }
};

template <typename T> DEVICE typename Wide<T>::type load(const T* from) { return wide(*from); }
template <typename T, typename W> DEVICE void store(T* to, W value) { *to = Narrow<T>::of(value); }

// -- places ------------------------------------------------------------------------------------------------------------

// a / b of numbers that are not negative; in 32 bits it takes a quarter of the time.
DEVICE long long quotient(long long a, long long b) {
    if (b == 1) return a;
    if (((a | b) >> 32) == 0) return (unsigned)a / (unsigned)b;
    return a / b;
}

// The last digit of `rest`, counted in `size`; `rest` keeps the others.
DEVICE long long last_of(long long& rest, long long size) {
    long long others = quotient(rest, size), digit = rest - others * size;
    rest = others;
    return digit;
}

// -- several neighbours at once --------------------------------------------------------------------------------------

// V neighbours as one access of at most 16 bytes; the host has made sure that they are aligned.
template <typename T, int V> struct alignas(sizeof(T) * V > 16 ? 16 : sizeof(T) * V) Pack {
    T at[V];
};

template <int V, typename T> DEVICE Pack<T, V> load_pack(const T* from) { return *(const Pack<T, V>*)from; }
template <int V, typename T> DEVICE void store_pack(T* to, const Pack<T, V>& pack) { *(Pack<T, V>*)to = pack; }

// -- arrays with strides ---------------------------------------------------------------------------------------------

// N arrays of one shape: `size` and, in elements, `step`, of which the first `axes` count, the innermost axis first.
// Made by strided.py.
template <int N> struct Box {
    long long axes, size[5], step[N][5];
};

// Where item `i`, counted in row-major order, lies in each of the arrays; one division for each axis but the last.
template <int N> DEVICE void locate(const Box<N>& box, long long i, long long (&at)[N]) {
    for (int n = 0; n < N; ++n) at[n] = 0;
#pragma unroll
    for (int d = 0; d < 5; ++d) {
        if (d >= box.axes) break;
        long long next = d + 1 < box.axes ? i / box.size[d] : 0, place = i - next * box.size[d];
        for (int n = 0; n < N; ++n) at[n] += place * box.step[n][d];
        i = next;
    }
}
