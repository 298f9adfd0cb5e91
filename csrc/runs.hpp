// The element-wise passes along one run of contiguous elements. A run takes its per-channel numbers from `numbers`, which
// is either one channel's, the same all along (Uniform), or a table with an entry per column (Table).
#pragma once

#include "activation.hpp"
#include "channel.hpp"
#include "storage.hpp"

namespace normscope::NORMSCOPE_LEVEL {

enum Number { centre, scale, shift, dy_gain, x_gain, offset, kNumbers };

template <class A>
struct Uniform {
    Pack<A> value[kNumbers];
    NORMSCOPE_INLINE const Pack<A>& at(Number number, int64_t) const { return value[number]; }
    void set(const Forward<A>& n) {
        value[centre] = broadcast(n.centre), value[scale] = broadcast(n.scale), value[shift] = broadcast(n.shift);
    }
    void set(const Backward<A>& n) {
        value[dy_gain] = broadcast(n.dy_gain), value[x_gain] = broadcast(n.x_gain);
        value[offset] = broadcast(n.offset);
    }
};

template <class A>
struct Table {
    A* value[kNumbers];  // each padded to whole packs
    NORMSCOPE_INLINE Pack<A> at(Number number, int64_t i) const { return load(value[number] + i, Whole{}); }
    void set(int64_t i, const Forward<A>& n) {
        value[centre][i] = n.centre, value[scale][i] = n.scale, value[shift][i] = n.shift;
    }
    void set(int64_t i, const Backward<A>& n) {
        value[dy_gain][i] = n.dy_gain, value[x_gain][i] = n.x_gain, value[offset][i] = n.offset;
    }
};

template <class A, class Numbers>
NORMSCOPE_INLINE Pack<A> normalized(const Pack<A>& x, const Numbers& numbers, int64_t i) {
    return multiply_add(x - numbers.at(centre, i), numbers.at(scale, i), numbers.at(shift, i));
}

// Where a run lies. `phase` is its offset in the tensor, in elements, modulo a mask word; `mask` its first mask byte.
template <class E>
struct Run {
    const E* x;
    const E* dy;
    const E* residual;
    E* out;
    E* dresidual;
    uint8_t* mask;
    int64_t phase, length;

    // The run `rows` further down, where runs are `pitch` elements and `words` mask words apart.
    NORMSCOPE_INLINE Run below(int64_t rows, int64_t pitch, int64_t words) const {
        Run moved = *this;
        moved.x += rows * pitch, moved.dy += rows * pitch;
        if (mask) moved.mask += 2 * rows * words;
        return moved;
    }
};

// Only the first pack of a run can begin inside a word, and no other run shares that word.
template <class A>
NORMSCOPE_INLINE void write_mask(uint8_t* mask, int64_t position, uint16_t lanes) {
    const auto bits = uint16_t(lanes << (position % Pack<A>::lanes));
    if constexpr (Pack<A>::lanes == 16) {
        __builtin_memcpy(mask + position / 16 * 2, &bits, 2);
    } else {
        mask[position / 8] = uint8_t(bits);
    }
}

// The bits of a pack that begins anywhere; reads past them, for which a mask has kMaskPadding bytes at its end.
NORMSCOPE_INLINE uint16_t read_mask(const uint8_t* mask, int64_t position) {
    uint32_t bits;
    __builtin_memcpy(&bits, mask + position / 8, 4);
    return uint16_t(bits >> (position % 8));
}

// How the outputs are written, and how many elements ahead the inputs are fetched (0: not at all).
struct Traffic {
    bool past_caches;
    int64_t ahead;
};

template <class E>
NORMSCOPE_INLINE void fetch(const E* from, int64_t ahead) {
    if (ahead) __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(from) + ahead * sizeof(E)), 0, 2);
}

template <class E, class Act, class Numbers>
void normalize_run(const Run<E> run, const Numbers numbers, double slope, const Traffic traffic) {
    using A = Compute<E>;
    const auto below = broadcast(A(slope));
    walk<A>(run.phase, run.length, [&](int64_t i, auto extent) NORMSCOPE_LAMBDA {
        fetch(run.x + i, traffic.ahead);
        Pack<A> z = normalized(load(run.x + i, extent), numbers, i);
        if (run.residual) {
            fetch(run.residual + i, traffic.ahead);
            z = z + load(run.residual + i, extent);
            if constexpr (Act::gates) {
                if (run.mask) write_mask<A>(run.mask, run.phase + i, to_bits(Act::closed(z)));
            }
        }
        const Pack<A> y = Act::forward(z, below);
        if (traffic.past_caches) stream(run.out + i, y, extent);
        else store(run.out + i, y, extent);
    });
}

// What reaches the normalized value of the gradient of the output: through no activation, through one whose input is
// computed again from x exactly as the forward did, or through one whose side the mask remembers.
struct Open {
    static constexpr bool reads_x = false;
    template <class E, class Numbers>
    static NORMSCOPE_INLINE Pack<Compute<E>> pass(
        const Pack<Compute<E>>& dy, const Pack<Compute<E>>&, const Numbers&, const Pack<Compute<E>>&, const Run<E>&,
        int64_t) {
        return dy;
    }
};

template <class Act>
struct Recomputed {
    static constexpr bool reads_x = true;
    template <class E, class Numbers>
    static NORMSCOPE_INLINE Pack<Compute<E>> pass(
        const Pack<Compute<E>>& dy, const Pack<Compute<E>>& x, const Numbers& numbers, const Pack<Compute<E>>& below,
        const Run<E>&, int64_t i) {
        const auto z = normalized(x, numbers, i);
        if constexpr (Act::gates) return select(Act::closed(z), Act::shut(dy, below), dy);
        else return Act::backward(dy, z);
    }
};

template <class Act>
struct Remembered {
    static constexpr bool reads_x = false;
    template <class E, class Numbers>
    static NORMSCOPE_INLINE Pack<Compute<E>> pass(
        const Pack<Compute<E>>& dy, const Pack<Compute<E>>&, const Numbers&, const Pack<Compute<E>>& below,
        const Run<E>& run, int64_t i) {
        using A = Compute<E>;
        const auto closed = from_bits<A>(read_mask(run.mask, run.phase + i));
        return select(closed, Act::shut(dy, below), dy);
    }
};

template <class E, class Gate, class Numbers>
void differentiate_run(const Run<E> run, const Numbers numbers, const Job& job, const Traffic traffic) {
    using A = Compute<E>;
    const auto below = broadcast(A(job.slope));
    const bool batch_statistics = job.batch_statistics;
    walk<A>(run.phase, run.length, [&](int64_t i, auto extent) NORMSCOPE_LAMBDA {
        fetch(run.dy + i, traffic.ahead);
        Pack<A> x = zero<A>();
        if (Gate::reads_x || batch_statistics) {
            fetch(run.x + i, traffic.ahead);
            x = load(run.x + i, extent);
        }
        const auto g = Gate::pass(load(run.dy + i, extent), x, numbers, below, run, i);
        Pack<A> dx = numbers.at(dy_gain, i) * g;
        if (batch_statistics) {
            const auto linear = multiply_add(x - numbers.at(centre, i), numbers.at(x_gain, i), numbers.at(offset, i));
            dx = multiply_add(numbers.at(dy_gain, i), g, linear);
        }
        if (traffic.past_caches) stream(run.out + i, dx, extent);
        else store(run.out + i, dx, extent);
        if (run.dresidual) {
            if (traffic.past_caches) stream(run.dresidual + i, g, extent);
            else store(run.dresidual + i, g, extent);
        }
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
