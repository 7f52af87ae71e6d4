// Random numbers keyed by the global index: the same bits as kernels/random.py.

// Output `index` of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) from the state `seed`.
DEVICE unsigned long long splitmix(unsigned long long index, unsigned long long seed) {
    unsigned long long word = index * 0x9E3779B97F4A7C15ull + (seed + 0x9E3779B97F4A7C15ull);
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9ull;
    word = (word ^ word >> 27) * 0x94D049BB133111EBull;
    return word ^ word >> 31;
}

// In [0, 1): 24 bits for float, from which the 16-bit types are rounded, 53 for double.
DEVICE void draw(unsigned long long word, float* u) { *u = (float)(unsigned)(word >> 40) * (1.0f / (1u << 24)); }
DEVICE void draw(unsigned long long word, double* u) { *u = (double)(word >> 11) * (1.0 / (1ull << 53)); }

// The global flat index of an item: that of the box's first element, `offset` further, and by `index[place]` times
// `index_step` where one dimension is an array of indices.
struct Origin {
    unsigned long long seed;
    long long start, index_step;
};

DEVICE unsigned long long word_of(Origin origin, const long long* index, long long offset, long long place) {
    long long global = origin.start + offset;
    if (index) global += index[place] * origin.index_step;
    return splitmix((unsigned long long)global, origin.seed);
}

// Box: out, the global index, the place along the dimension of the array of indices.
template <typename T> KERNEL uniform(long long n, Box<3> box, Origin origin, const long long* index, T* out) {
    EACH(i, n) {
        long long at[3];
        locate(box, i, at);
        typename Wide<T>::type u;
        draw(word_of(origin, index, at[1], at[2]), &u);
        store(out + at[0], u);
    }
}

// Box: x, mask, y, the global index, the place. mask is 0 with probability p, else factor; y = x * mask.
template <typename T>
KERNEL dropout(long long n, Box<5> box, Origin origin, const long long* index, double p, double factor, const T* x,
               T* mask, T* y) {
    typedef typename Wide<T>::type W;
    EACH(i, n) {
        long long at[5];
        locate(box, i, at);
        W u;
        draw(word_of(origin, index, at[3], at[4]), &u);
        store(mask + at[1], u >= (W)p ? (W)factor : W(0));
        store(y + at[2], load(x + at[0]) * load(mask + at[1]));
    }
}
