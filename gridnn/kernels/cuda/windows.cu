// Kernels over windows: pooling, depthwise convolution, and the matrices of a convolution.
//
// A padded array x [n, d, h, w, c] holds windows; y has one row of channels for every window. Strides are in elements;
// shorter arrays have leading axes of size 1. Where windows overlap, the adjoints gather: a thread owns an element of
// the padded input and goes through the windows that contain it, in ascending order of their taps, as the reference adds them.

struct Windows {
    long long outputs[5];  // of y: n, d, h, w, c
    long long padded[5];    // the part of x that a gathering kernel writes: n, d, h, w, c
    long long kernel[3], stride[3], dilation[3];
    long long x[5], y[5], index[5];
    long long w[4];        // the filters of a depthwise convolution: d, h, w, c
    long long first[5];    // where a tile of the padded input begins
};

struct Place {
    long long at[5];
};

DEVICE Place place_of(long long i, const long long (&sizes)[5]) {
    Place place;
#pragma unroll
    for (int axis = 4; axis > 0; axis--)
        place.at[axis] = last_of(i, sizes[axis]);
    place.at[0] = i;
    return place;
}

DEVICE long long offset_of(const Place& place, const long long (&steps)[5]) {
    long long offset = 0;
#pragma unroll
    for (int axis = 0; axis < 5; axis++)
        offset += place.at[axis] * steps[axis];
    return offset;
}

// Where the window of an output begins in x.
DEVICE long long corner_of(const Place& output, const Windows& v) {
    long long offset = output.at[0] * v.x[0] + output.at[4] * v.x[4];
#pragma unroll
    for (int axis = 0; axis < 3; axis++)
        offset += output.at[axis + 1] * v.stride[axis] * v.x[axis + 1];
    return offset;
}

DEVICE long long taps_of(const Windows& v) {
    return v.kernel[0] * v.kernel[1] * v.kernel[2];
}

// From tap to tap along an axis of x.
DEVICE long long apart(const Windows& v, int axis) {
    return v.dilation[axis] * v.x[axis + 1];
}

// The windows along one axis that may contain an element: from `last` down to `first`, so that their taps ascend.
struct Reach {
    long long first, last;
};

DEVICE Reach reach_of(long long element, const Windows& v, int axis) {
    long long least = element - (v.kernel[axis] - 1) * v.dilation[axis];
    Reach reach;
    reach.first = least > 0 ? quotient(least + v.stride[axis] - 1, v.stride[axis]) : 0;
    reach.last = quotient(element, v.stride[axis]);
    if (reach.last >= v.outputs[axis + 1])
        reach.last = v.outputs[axis + 1] - 1;
    return reach;
}

// Which tap of the window `output` the element is, or -1.
DEVICE long long tap_of(long long element, long long output, const Windows& v, int axis) {
    long long distance = element - output * v.stride[axis], tap = quotient(distance, v.dilation[axis]);
    return tap * v.dilation[axis] == distance ? tap : -1;
}

// Calls visit(d, h, w, td, th, tw) for every window d, h, w that contains the element, and its tap there.
template <typename Visit> DEVICE void each_window(const Place& element, const Windows& v, Visit visit) {
    Reach rd = reach_of(element.at[1], v, 0), rh = reach_of(element.at[2], v, 1), rw = reach_of(element.at[3], v, 2);
    for (long long d = rd.last; d >= rd.first; d--) {
        long long td = tap_of(element.at[1], d, v, 0);
        for (long long h = rh.last; td >= 0 && h >= rh.first; h--) {
            long long th = tap_of(element.at[2], h, v, 1);
            for (long long w = rw.last; th >= 0 && w >= rw.first; w--) {
                long long tw = tap_of(element.at[3], w, v, 2);
                if (tw >= 0)
                    visit(d, h, w, td, th, tw);
            }
        }
    }
}

// -- pooling -----------------------------------------------------------------------------------------------------

template <typename T, typename I>
KERNEL max_pool(const T* x, T* y, I* index, Windows v, long long size) {
    EACH(i, size) {
        Place output = place_of(i, v.outputs);
        const T* corner = x + corner_of(output, v);
        typename Wide<T>::type best = load(corner);
        long long winner = 0, tap = 0;
        for (long long d = 0; d < v.kernel[0]; d++)
            for (long long h = 0; h < v.kernel[1]; h++)
                for (long long w = 0; w < v.kernel[2]; w++, tap++) {
                    typename Wide<T>::type value = load(corner + d * apart(v, 0) + h * apart(v, 1) + w * apart(v, 2));
                    if (value > best)
                        winner = tap;
                    if (value > best || value != value) // NaN stays
                        best = value;
                }
        store(y + offset_of(output, v.y), best);
        index[offset_of(output, v.index)] = (I)winner;
    }
}

template <typename T, typename I>
KERNEL max_pool_grad(const T* dy, const I* index, T* dx, Windows v, long long size) {
    EACH(i, size) {
        Place element = place_of(i, v.padded);
        long long n = element.at[0], c = element.at[4];
        const T* gradient = dy + n * v.y[0] + c * v.y[4];
        const I* winner = index + n * v.index[0] + c * v.index[4];
        typename Wide<T>::type total = 0;
        each_window(element, v, [&](long long d, long long h, long long w, long long td, long long th, long long tw) {
            long long tap = (td * v.kernel[1] + th) * v.kernel[2] + tw;
            if ((long long)winner[d * v.index[1] + h * v.index[2] + w * v.index[3]] == tap)
                total += load(gradient + d * v.y[1] + h * v.y[2] + w * v.y[3]);
        });
        store(dx + offset_of(element, v.x), total);
    }
}

// The sum of every window over `divisor`.
template <typename T> KERNEL sum_windows(const T* x, T* y, double divisor, Windows v, long long size) {
    EACH(i, size) {
        Place output = place_of(i, v.outputs);
        const T* corner = x + corner_of(output, v);
        typename Wide<T>::type total = 0;
        for (long long d = 0; d < v.kernel[0]; d++)
            for (long long h = 0; h < v.kernel[1]; h++)
                for (long long w = 0; w < v.kernel[2]; w++)
                    total += load(corner + d * apart(v, 0) + h * apart(v, 1) + w * apart(v, 2));
        store(y + offset_of(output, v.y), total / (typename Wide<T>::type)divisor);
    }
}

// The adjoint of sum_windows.
template <typename T> KERNEL spread_windows(const T* dy, T* dx, double divisor, Windows v, long long size) {
    EACH(i, size) {
        Place element = place_of(i, v.padded);
        const T* gradient = dy + element.at[0] * v.y[0] + element.at[4] * v.y[4];
        typename Wide<T>::type total = 0;
        each_window(element, v, [&](long long d, long long h, long long w, long long, long long, long long) {
            total += load(gradient + d * v.y[1] + h * v.y[2] + w * v.y[3]);
        });
        store(dx + offset_of(element, v.x), total / (typename Wide<T>::type)divisor);
    }
}

// -- depthwise convolution ---------------------------------------------------------------------------------------

template <typename T> KERNEL depthwise(const T* x, const T* filters, T* y, Windows v, long long size) {
    EACH(i, size) {
        Place output = place_of(i, v.outputs);
        const T* corner = x + corner_of(output, v), *filter = filters + output.at[4] * v.w[3];
        typename Wide<T>::type total = 0;
        for (long long d = 0; d < v.kernel[0]; d++)
            for (long long h = 0; h < v.kernel[1]; h++)
                for (long long w = 0; w < v.kernel[2]; w++)
                    total += load(corner + d * apart(v, 0) + h * apart(v, 1) + w * apart(v, 2)) *
                             load(filter + d * v.w[0] + h * v.w[1] + w * v.w[2]);
        store(y + offset_of(output, v.y), total);
    }
}

template <typename T>
KERNEL depthwise_grad_input(const T* dy, const T* filters, T* dx, Windows v, long long size) {
    EACH(i, size) {
        Place element = place_of(i, v.padded);
        const T* gradient = dy + element.at[0] * v.y[0] + element.at[4] * v.y[4];
        const T* filter = filters + element.at[4] * v.w[3];
        typename Wide<T>::type total = 0;
        each_window(element, v, [&](long long d, long long h, long long w, long long td, long long th, long long tw) {
            total += load(gradient + d * v.y[1] + h * v.y[2] + w * v.y[3]) *
                     load(filter + td * v.w[0] + th * v.w[1] + tw * v.w[2]);
        });
        store(dx + offset_of(element, v.x), total);
    }
}

// Sums over the lines (n, d, h) `chunk`, `chunk` + `chunks`, ... into partial [chunks, taps, c].
template <typename T>
KERNEL depthwise_partial(const T* x, const T* dy, double* partial, long long chunks, Windows v, long long size) {
    EACH(i, size) {
        long long chunk = i, c = last_of(chunk, v.outputs[4]), tap = last_of(chunk, taps_of(v));
        long long tw = last_of(tap, v.kernel[2]), th = last_of(tap, v.kernel[1]);
        const T* values = x + tap * apart(v, 0) + th * apart(v, 1) + tw * apart(v, 2);
        double total = 0;
        for (long long line = chunk; line < v.outputs[0] * v.outputs[1] * v.outputs[2]; line += chunks) {
            Place output;
            long long n = line;
            output.at[4] = c;
            output.at[3] = 0;
            output.at[2] = last_of(n, v.outputs[2]);
            output.at[1] = last_of(n, v.outputs[1]);
            output.at[0] = n;
            const T* value = values + corner_of(output, v), *gradient = dy + offset_of(output, v.y);
            typename Wide<T>::type sum = 0;
            for (long long w = 0; w < v.outputs[3]; w++)
                sum += load(value + w * v.stride[2] * v.x[3]) * load(gradient + w * v.y[3]);
            total += sum;
        }
        partial[i] = total;
    }
}

// The sums of the chunks; T is that of the filters' gradient.
template <typename T>
KERNEL depthwise_total(const double* partial, T* filters, long long chunks, Windows v, long long size) {
    EACH(i, size) {
        double total = 0;
        for (long long chunk = 0; chunk < chunks; chunk++)
            total += partial[chunk * size + i];
        long long tap = i, c = last_of(tap, v.outputs[4]);
        long long tw = last_of(tap, v.kernel[2]), th = last_of(tap, v.kernel[1]);
        store(filters + tap * v.w[0] + th * v.w[1] + tw * v.w[2] + c * v.w[3], (typename Wide<T>::type)total);
    }
}

// -- convolution by products of matrices -------------------------------------------------------------------------

// The matrix of the windows, [outputs, taps * c]; W is any word, as nothing is computed.
template <typename W> KERNEL columns_of_windows(const W* x, W* columns, Windows v, long long size) {
    EACH(i, size) {
        Place output;
        long long rest = i;
        output.at[4] = last_of(rest, v.outputs[4]);
        long long tw = last_of(rest, v.kernel[2]), th = last_of(rest, v.kernel[1]), td = last_of(rest, v.kernel[0]);
        output.at[3] = last_of(rest, v.outputs[3]);
        output.at[2] = last_of(rest, v.outputs[2]);
        output.at[1] = last_of(rest, v.outputs[1]);
        output.at[0] = rest;
        columns[i] = x[corner_of(output, v) + td * apart(v, 0) + th * apart(v, 1) + tw * apart(v, 2)];
    }
}

// For the elements of a tile of the padded input [n, d, h, w], the row of y of the window whose tap they are, or zeros:
// [elements, taps * c]. All strides are 1, so that there is one window a tap.
template <typename W> KERNEL columns_of_elements(const W* y, W* columns, Windows v, long long size) {
    EACH(i, size) {
        long long rest = i, c = last_of(rest, v.padded[4]), tap[3], place = c * v.y[4];
        bool inside = true;
#pragma unroll
        for (int axis = 2; axis >= 0; axis--)
            tap[axis] = last_of(rest, v.kernel[axis]);
#pragma unroll
        for (int axis = 2; axis >= 0; axis--) {
            long long element = v.first[axis + 1] + last_of(rest, v.padded[axis + 1]);
            long long output = element - tap[axis] * v.dilation[axis];
            inside = inside && output >= 0 && output < v.outputs[axis + 1];
            place += output * v.y[axis + 1];
        }
        columns[i] = inside ? y[place + (v.first[0] + rest) * v.y[0]] : W{};
    }
}

// The adjoint of columns_of_windows: writes the sums, or adds them.
template <typename T>
KERNEL add_columns(const T* columns, T* x, long long add, Windows v, long long size) {
    EACH(i, size) {
        Place element = place_of(i, v.padded);
        T* target = x + offset_of(element, v.x);
        typename Wide<T>::type total = 0;
        if (add)
            total = load(target);
        each_window(element, v, [&](long long d, long long h, long long w, long long td, long long th, long long tw) {
            long long row = ((element.at[0] * v.outputs[1] + d) * v.outputs[2] + h) * v.outputs[3] + w;
            long long tap = (td * v.kernel[1] + th) * v.kernel[2] + tw;
            total += load(columns + (row * taps_of(v) + tap) * v.outputs[4] + element.at[4]);
        });
        store(target, total);
    }
}
