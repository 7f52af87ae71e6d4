// Sums over the rows of arrays [..., c] in float64, the same in every run.
//
// Thread (chunk, group) adds the rows chunk, chunk + chunks, ... of V channels, neighbours in memory being added by
// neighbouring threads, into partial [chunks, COUNT, c]; `fold` adds the chunks.

struct Sum {
    static const int COUNT = 1;
    static const bool PAIR = false, CENTRED = false;
    static DEVICE void add(double* sums, double x, double, double) { sums[0] += x; }
};

struct Moments {
    static const int COUNT = 2;
    static const bool PAIR = false, CENTRED = true;
    static DEVICE void add(double* sums, double x, double, double shift) {
        double centred = x - shift;
        sums[0] += centred;
        sums[1] += centred * centred;
    }
};

struct MomentsGrad {
    static const int COUNT = 2;
    static const bool PAIR = true, CENTRED = true;
    static DEVICE void add(double* sums, double x, double dy, double mean) {
        sums[0] += dy;
        sums[1] += dy * (x - mean);
    }
};

// The box is that of the rows; `apart` are the steps between channels of x and dy, 1 where V > 1.
template <typename F, typename X, typename Y, int V>
KERNEL row_sums(long long n, Box<2> box, long long rows, long long chunks, long long groups, long long x_apart,
                long long dy_apart, const X* x, const Y* dy, const double* shift, double* partial) {
    EACH(i, n) {
        long long chunk = i / groups, group = i - chunk * groups, c = group * V;
        double sums[V][F::COUNT] = {}, centre[V] = {};
        if (F::CENTRED)
            for (int k = 0; k < V; ++k) centre[k] = shift[c + k];
#pragma unroll 4
        for (long long row = chunk; row < rows; row += chunks) {
            long long at[2];
            locate(box, row, at);
            Pack<X, V> values = load_pack<V>(x + at[0] + c * x_apart);
            Pack<Y, V> changes = {};
            if (F::PAIR) changes = load_pack<V>(dy + at[1] + c * dy_apart);
            for (int k = 0; k < V; ++k) F::add(sums[k], wide(values.at[k]), wide(changes.at[k]), centre[k]);
        }
        double* out = partial + chunk * F::COUNT * groups * V + c;
        for (int q = 0; q < F::COUNT; ++q)
            for (int k = 0; k < V; ++k) out[q * groups * V + k] = sums[k][q];
    }
}

// out [n / width, width] is the sum of every (n / width)-th of the chunks of partial [chunks, width].
template <typename T>
KERNEL fold(long long n, long long chunks, long long width, const double* partial, T* out) {
    EACH(i, n) {
        double sum = 0;
        long long place = i % width;
#pragma unroll 8
        for (long long chunk = i / width; chunk < chunks; chunk += n / width) sum += partial[chunk * width + place];
        store(out + i, sum);
    }
}
