// Boxes of an array, packed one behind the other in flat memory, and the resampling of space.

const int BOXES = 32; // that one launch takes

struct Boxes {
    long long count;
    long long steps[5];                        // from element to element of the array
    long long low[BOXES][5], sizes[BOXES][5];  // where every box begins in the array, and its extents
    long long start[BOXES + 1];                // where it begins in the flat memory, and where the last one ends
};

// Where an element of the flat memory belongs: its box, and its place in the array.
struct Spot {
    int box;
    long long place[5], offset;
};

DEVICE Spot spot_of(long long i, const Boxes& boxes) {
    Spot spot;
    spot.box = 0;
    while (i >= boxes.start[spot.box + 1])
        spot.box++; // an empty one has none
    long long rest = i - boxes.start[spot.box];
    spot.offset = 0;
#pragma unroll
    for (int axis = 4; axis >= 0; axis--) {
        spot.place[axis] = boxes.low[spot.box][axis] + last_of(rest, boxes.sizes[spot.box][axis]);
        spot.offset += spot.place[axis] * boxes.steps[axis];
    }
    return spot;
}

// -- boxes -------------------------------------------------------------------------------------------------------

// W is any word, as nothing is computed.
template <typename W> KERNEL pack(const W* array, W* flat, Boxes boxes, long long size) {
    EACH(i, size) {
        flat[i] = array[spot_of(i, boxes).offset];
    }
}

template <typename W> KERNEL unpack(const W* flat, W* array, Boxes boxes, long long size) {
    EACH(i, size) {
        array[spot_of(i, boxes).offset] = flat[i];
    }
}

template <typename T> KERNEL fill(T* array, double value, Boxes boxes, long long size) {
    EACH(i, size) {
        store(array + spot_of(i, boxes).offset, (typename Wide<T>::type)value);
    }
}

// Boxes may overlap: the thread of an element's first box adds all of them up, in their order.
template <typename T> KERNEL add(const T* flat, T* array, Boxes boxes, long long size) {
    EACH(i, size) {
        Spot spot = spot_of(i, boxes);
        typename Wide<T>::type total = load(array + spot.offset);
        bool mine = true;
        for (int other = 0; other < boxes.count; other++) {
            long long at = 0;
            bool inside = true;
#pragma unroll
            for (int axis = 0; axis < 5; axis++) {
                long long distance = spot.place[axis] - boxes.low[other][axis];
                inside = inside && distance >= 0 && distance < boxes.sizes[other][axis];
                at = at * boxes.sizes[other][axis] + distance;
            }
            mine = mine && !(inside && other < spot.box);
            if (inside) total += load(flat + boxes.start[other] + at);
        }
        if (mine) store(array + spot.offset, total);
    }
}

// -- up-sampling by copies ---------------------------------------------------------------------------------------

struct Copies {
    long long outputs[5], inputs[5];  // n, d, h, w, c
    long long factor[3], shift[3];    // output o is a copy of input (o + shift) / factor
    long long x[5], y[5];
};

template <typename W> KERNEL repeat(const W* x, W* y, Copies v, long long size) {
    EACH(i, size) {
        long long rest = i, from = 0, to = 0;
#pragma unroll
        for (int axis = 4; axis > 0; axis--) {
            long long at = last_of(rest, v.outputs[axis]);
            to += at * v.y[axis];
            from += (axis == 4 ? at : quotient(at + v.shift[axis - 1], v.factor[axis - 1])) * v.x[axis];
        }
        y[to + rest * v.y[0]] = x[from + rest * v.x[0]];
    }
}

template <typename T> KERNEL repeat_grad(const T* dy, T* dx, Copies v, long long size) {
    EACH(i, size) {
        long long rest = i, c = last_of(rest, v.inputs[4]), to = c * v.x[4], first[3], last[3];
#pragma unroll
        for (int axis = 2; axis >= 0; axis--) {
            long long at = last_of(rest, v.inputs[axis + 1]);
            to += at * v.x[axis + 1];
            first[axis] = at * v.factor[axis] - v.shift[axis];
            last[axis] = first[axis] + v.factor[axis];
            first[axis] = first[axis] < 0 ? 0 : first[axis];
            last[axis] = last[axis] > v.outputs[axis + 1] ? v.outputs[axis + 1] : last[axis];
        }
        const T* gradient = dy + rest * v.y[0] + c * v.y[4];
        typename Wide<T>::type total = 0;
        for (long long d = first[0]; d < last[0]; d++)
            for (long long h = first[1]; h < last[1]; h++)
                for (long long w = first[2]; w < last[2]; w++)
                    total += load(gradient + d * v.y[1] + h * v.y[2] + w * v.y[3]);
        store(dx + to + rest * v.x[0], total);
    }
}

// -- resampling along one axis -----------------------------------------------------------------------------------

struct Sampling {
    long long area;                            // the means over ranges; else linear between centres
    long long inputs, outputs;                 // of the whole axis
    long long first_input, first_output;       // of what is here
    long long held_inputs, held_outputs;
    long long trail;                           // elements behind the axis
};

// What input `i` counts in output `o`: the element of the matrix of the map.
DEVICE double share_of(long long i, long long o, const Sampling& v) {
    if (v.area) {
        long long first = quotient(o * v.inputs, v.outputs);
        long long last = quotient((o + 1) * v.inputs + v.outputs - 1, v.outputs);
        return i >= first && i < last ? 1.0 / (last - first) : 0.0;
    }
    // a hat of width 1 around the place of the output's centre, in units of 1 / (2 outputs)
    long long unit = 2 * v.outputs, centre = (2 * o + 1) * v.inputs - v.outputs;
    centre = centre < 0 ? 0 : centre > (v.inputs - 1) * unit ? (v.inputs - 1) * unit : centre;
    long long distance = centre > i * unit ? centre - i * unit : i * unit - centre;
    return distance < unit ? (double)(unit - distance) / unit : 0.0;
}

DEVICE long long clipped(long long value, long long first, long long count) {
    return value < first ? first : value > first + count ? first + count : value;
}

// y [lead, held_outputs, trail] from x [lead, held_inputs, trail].
template <typename T> KERNEL resample(const T* x, T* y, Sampling v, long long size) {
    EACH(i, size) {
        long long lead = i, trail = last_of(lead, v.trail), o = v.first_output + last_of(lead, v.held_outputs);
        long long first = quotient(o * v.inputs, v.outputs) - 1;
        long long last = quotient((o + 1) * v.inputs, v.outputs) + 2;
        first = clipped(first, v.first_input, v.held_inputs);
        last = clipped(last, v.first_input, v.held_inputs);
        const T* values = x + (lead * v.held_inputs - v.first_input) * v.trail + trail;
        typename Wide<T>::type total = 0;
        for (long long input = first; input < last; input++) {
            typename Wide<T>::type share = share_of(input, o, v);
            if (share != 0)
                total += share * load(values + input * v.trail);
        }
        store(y + i, total);
    }
}

// The adjoint: dx [lead, held_inputs, trail] from dy [lead, held_outputs, trail].
template <typename T> KERNEL resample_grad(const T* dy, T* dx, Sampling v, long long size) {
    EACH(i, size) {
        long long lead = i, trail = last_of(lead, v.trail), input = v.first_input + last_of(lead, v.held_inputs);
        long long first = input ? quotient((input - 1) * v.outputs, v.inputs) - 1 : 0;
        long long last = quotient((input + 2) * v.outputs, v.inputs) + 2;
        first = clipped(first, v.first_output, v.held_outputs);
        last = clipped(last, v.first_output, v.held_outputs);
        const T* values = dy + (lead * v.held_outputs - v.first_output) * v.trail + trail;
        typename Wide<T>::type total = 0;
        for (long long o = first; o < last; o++) {
            typename Wide<T>::type share = share_of(input, o, v);
            if (share != 0)
                total += share * load(values + o * v.trail);
        }
        store(dx + i, total);
    }
}
