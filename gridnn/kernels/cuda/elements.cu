// Element by element: activations, conversions, channel-wise scales, updates.
//
// n counts items of V neighbours; box says where they lie in each of the arrays.

// -- one array to another ----------------------------------------------------------------------------------------------

struct Copy {
    template <typename W> static DEVICE W of(W x, W) { return x; }
};

struct Relu {
    template <typename W> static DEVICE W of(W x, W) { return x <= 0 ? W(0) : x; }  // NaN stays
};

struct LeakyRelu {
    template <typename W> static DEVICE W of(W x, W slope) { return x > 0 ? x : x * slope; }
};

struct Tanh {
    static DEVICE float of(float x, float) { return tanhf(x); }
    static DEVICE double of(double x, double) { return tanh(x); }
};

template <typename F, typename X, typename Y, int V>
KERNEL unary(long long n, Box<2> box, const X* x, Y* y, double constant) {
    typedef typename Wide<X>::type W;
    EACH(i, n) {
        long long at[2];
        locate(box, i, at);
        Pack<X, V> in = load_pack<V>(x + at[0]);
        Pack<Y, V> out;
        for (int k = 0; k < V; ++k) store(&out.at[k], F::of(wide(in.at[k]), (W)constant));
        store_pack(y + at[1], out);
    }
}

// -- gradients: from the output y and its gradient -----------------------------------------------------------------------

struct ReluGrad {
    template <typename W> static DEVICE W of(W y, W dy, W) { return y > 0 ? dy : W(0); }
};

struct LeakyReluGrad {
    template <typename W> static DEVICE W of(W y, W dy, W slope) { return y > 0 ? dy : dy * slope; }
};

struct TanhGrad {
    template <typename W> static DEVICE W of(W y, W dy, W) { return dy * (1 - y * y); }
};

template <typename F, typename T, int V>
KERNEL gradient(long long n, Box<3> box, const T* y, const T* dy, T* dx, double constant) {
    typedef typename Wide<T>::type W;
    EACH(i, n) {
        long long at[3];
        locate(box, i, at);
        Pack<T, V> value = load_pack<V>(y + at[0]), change = load_pack<V>(dy + at[1]), out;
        for (int k = 0; k < V; ++k) store(&out.at[k], F::of(wide(value.at[k]), wide(change.at[k]), (W)constant));
        store_pack(dx + at[2], out);
    }
}

// -- GELU, with its derivative where wanted ------------------------------------------------------------------------------

template <typename W> DEVICE W within(W x, W most) { return x > most ? most : x < -most ? -most : x; }  // NaN stays

struct GeluExact {
    static DEVICE float erf_of(float x) { return erff(x); }
    static DEVICE double erf_of(double x) { return erf(x); }
    static DEVICE float exp_of(float x) { return expf(x); }
    static DEVICE double exp_of(double x) { return exp(x); }
    template <typename W> static DEVICE W of(W x, W* slope) {
        W phi = W(0.5) * (1 + erf_of(x * W(0.70710678118654752440))), near = within(x, W(40));
        *slope = phi + near * exp_of(W(-0.5) * near * near) * W(0.39894228040143267794);
        return x * phi;
    }
};

struct GeluTanh {
    template <typename W> static DEVICE W of(W x, W* slope) {
        const W scale = W(0.79788456080286535588), cubic = W(0.044715);
        W near = within(x, W(40)), t = Tanh::of(scale * (near + cubic * near * near * near), W(0));
        W half = W(0.5) * (1 + t);
        *slope = half + W(0.5) * near * (1 - t * t) * scale * (1 + 3 * cubic * near * near);
        return x * half;
    }
};

template <typename F, typename T, int V> KERNEL gelu(long long n, Box<3> box, const T* x, T* y, T* slope) {
    typedef typename Wide<T>::type W;
    EACH(i, n) {
        long long at[3];
        locate(box, i, at);
        Pack<T, V> in = load_pack<V>(x + at[0]), out, change;
        for (int k = 0; k < V; ++k) {
            W derivative;
            store(&out.at[k], F::of(wide(in.at[k]), &derivative));
            store(&change.at[k], derivative);
        }
        store_pack(y + at[1], out);
        if (slope) store_pack(slope + at[2], change);
    }
}

// -- with one or two factors a channel -----------------------------------------------------------------------------------

struct Affine {
    template <typename W> static DEVICE W of(W x, W scale, W offset, W) { return x * scale + offset; }
};

struct AddScaled {
    template <typename W> static DEVICE W of(W x, W scale, W, W y) { return y + x * scale; }
};

template <typename F> struct Biased {
    template <typename W> static DEVICE W of(W x, W bias, W, W) { return F::of(x + bias, W(0)); }
};

struct Gelu {  // the approximation by tanh, as an activation of `unary`
    template <typename W> static DEVICE W of(W x, W) {
        W slope;
        return GeluTanh::of(x, &slope);
    }
};

// y = F(x, a[channel], b[channel], y); b may be absent. Channels are a multiple of V.
template <typename F, typename X, typename A, typename Y, int V>
KERNEL channelwise(long long n, Box<2> box, long long channels, const X* x, const A* a, const A* b, Y* y) {
    typedef typename Wide<X>::type W;
    EACH(i, n) {
        long long at[2], c = i * V % channels;
        locate(box, i, at);
        Pack<X, V> in = load_pack<V>(x + at[0]);
        Pack<Y, V> out = load_pack<V>(y + at[1]);  // not read where F does not use it
        for (int k = 0; k < V; ++k) {
            W first = (W)load(a + c + k), second = b ? (W)load(b + c + k) : W(0);
            store(&out.at[k], F::of(wide(in.at[k]), first, second, (W)wide(out.at[k])));
        }
        store_pack(y + at[1], out);
    }
}

// -- updates of flat arrays, in place ------------------------------------------------------------------------------------

// g *= factor; *flag = 1 if a product is not finite. Several threads may write the same 1.
template <typename T, typename F> KERNEL unscale(long long n, Box<1> box, T* g, double factor, F* flag) {
    typedef typename Wide<T>::type W;
    EACH(i, n) {
        long long at[1];
        locate(box, i, at);
        W value = load(g + at[0]) * (W)factor;
        store(g + at[0], value);
        W rounded = load(g + at[0]);
        if (rounded - rounded != 0) *flag = 1;  // infinite, NaN
    }
}

template <typename P, typename G>
KERNEL sgd(long long n, P* p, const G* g, P* m, double lr, double momentum, long long nesterov, double weight_decay) {
    typedef typename Wide<P>::type W;
    EACH(i, n) {
        W value = load(p + i), step = value * (W)weight_decay + (W)load(g + i);
        if (m) {
            W held = load(m + i) * (W)momentum + step;
            store(m + i, held);
            step = nesterov ? held * (W)momentum + step : held;
        }
        store(p + i, value - (W)lr * step);
    }
}

DEVICE float root_of(float x) { return sqrtf(x); }
DEVICE double root_of(double x) { return sqrt(x); }

// rate is lr / (1 - beta1^t), root 1 / sqrt(1 - beta2^t), rest 1 - beta, kept 1 - lr * weight_decay.
template <typename P, typename G>
KERNEL adamw(long long n, P* p, const G* g, P* m, P* v, double rate, double root, double beta1, double rest1,
             double beta2, double rest2, double eps, double kept) {
    typedef typename Wide<P>::type W;
    EACH(i, n) {
        W slope = (W)load(g + i);
        W first = load(m + i) * (W)beta1 + slope * (W)rest1;
        W second = load(v + i) * (W)beta2 + slope * slope * (W)rest2;
        store(m + i, first);
        store(v + i, second);
        store(p + i, load(p + i) * (W)kept - (W)rate * first / (root_of(second) * (W)root + (W)eps));
    }
}
