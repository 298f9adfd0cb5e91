// The element-wise passes along one run of contiguous elements. A run takes its per-channel numbers from `numbers`, which
// is either one channel's, the same all along (Uniform), or a table with an entry per column (Table).
#pragma once

#include <type_traits>

#include "activation.hpp"
#include "channel.hpp"
#include "fetch.hpp"
#include "lanes.hpp"
#include "walk.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Rows of short planes that go through an element-wise pass together: about as many as there are registers for.
constexpr int kRows = kParts == 1 ? 4 : kParts == 2 ? 2 : 1;

enum Number { centre, scale, shift, dy_gain, x_gain, offset, kNumbers };

template <class A>
struct Uniform {
    Pack<A> value[kNumbers];
    // By reference: compilers copy a pack by halves.
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
    // A channel's numbers for a whole pack of columns.
    void set_pack(int64_t i, const Forward<A>& n) const {
        put(centre, i, n.centre), put(scale, i, n.scale), put(shift, i, n.shift);
    }
    void set_pack(int64_t i, const Backward<A>& n) const {
        put(dy_gain, i, n.dy_gain), put(x_gain, i, n.x_gain), put(offset, i, n.offset);
    }

   private:
    void put(Number number, int64_t i, A same) const { store(value[number] + i, broadcast(same), Whole{}); }
};

template <class A, class Numbers>
NORMSCOPE_INLINE Pack<A> normalized(const Pack<A>& x, const Numbers& numbers, int64_t i) {
    return multiply_add(x - numbers.at(centre, i), numbers.at(scale, i), numbers.at(shift, i));
}

template <class E>
NORMSCOPE_INLINE E* moved(E* base, int64_t offset) {
    return base ? base + offset : nullptr;
}

// How far it is from one run to the next, in elements and in mask words.
struct Step {
    int64_t pitch, words;
};

// Where a run lies. `phase` says how many elements past a place where a cache line begins it starts; `mask` is the byte
// where the bits of that place are.
template <class E>
struct Run {
    const E* x;
    const E* dy;
    const E* residual;
    E* out;
    E* dresidual;
    uint8_t* mask;
    int64_t phase, length;

    // The run that lies `index` steps further on.
    NORMSCOPE_INLINE Run after(int64_t index, const Step step) const {
        const int64_t offset = index * step.pitch;
        return {x + offset, moved(dy, offset), moved(residual, offset), moved(out, offset), moved(dresidual, offset),
                moved(mask, 2 * index * step.words), phase, length};
    }

    // The mask stays where it is: `phase` says how far into it the part begins.
    NORMSCOPE_INLINE Run part(int64_t begin, int64_t size) const {
        return {x + begin, moved(dy, begin), moved(residual, begin), moved(out, begin), moved(dresidual, begin), mask,
                phase + begin, size};
    }

    NORMSCOPE_INLINE Run without_dresidual() const { return {x, dy, residual, out, nullptr, mask, phase, length}; }
};

// A whole pack of a run begins with a word, or with a byte if it has no more lanes.
template <class A>
using Word = std::conditional_t<Pack<A>::lanes == 16, uint16_t, uint8_t>;

template <class A>
NORMSCOPE_INLINE void write_mask(uint8_t* mask, int64_t position, uint16_t lanes, Whole) {
    const auto bits = Word<A>(lanes);
    __builtin_memcpy(mask + uint64_t(position) / 8, &bits, sizeof(bits));
}

// Only the first pack of a run can begin inside a word, and no other run shares that word.
template <class A>
NORMSCOPE_INLINE void write_mask(uint8_t* mask, int64_t position, uint16_t lanes, Part) {
    const uint64_t inside = uint64_t(position) % Pack<A>::lanes;
    write_mask<A>(mask, position - int64_t(inside), uint16_t(lanes << inside), Whole{});
}

template <class A>
NORMSCOPE_INLINE uint16_t read_mask(const uint8_t* mask, int64_t position, Whole) {
    Word<A> bits;
    __builtin_memcpy(&bits, mask + uint64_t(position) / 8, sizeof(bits));
    return bits;
}

// The bits of a pack that begins anywhere; reads past them, for which a mask has kMaskPadding bytes at its end.
template <class A>
NORMSCOPE_INLINE uint16_t read_mask(const uint8_t* mask, int64_t position, Part) {
    uint32_t bits;
    __builtin_memcpy(&bits, mask + uint64_t(position) / 8, 4);
    return uint16_t(bits >> (uint64_t(position) % 8));
}

// How the outputs are written, and how many elements ahead the inputs are fetched (0: what is read anyway).
struct Traffic {
    bool past_caches;
    int64_t ahead;
};

// Writes P packs of each of R rows, which come row by row.
template <int R, int P, class E, class Extent>
NORMSCOPE_INLINE void write_rows(
    E* to, int64_t pitch, const Pack<Compute<E>>* values, bool past_caches, Extent extent) {
    if (past_caches) {
        each<R>([&](auto r) NORMSCOPE_LAMBDA {
            if constexpr (P == 2) stream_line(to + r * pitch, values[2 * r], values[2 * r + 1]);
            else if constexpr (P < kLine<E>) store(to + r * pitch, values[r], extent);
            else stream(to + r * pitch, values[r], extent);
        });
    } else {
        each<R * P>([&](auto k) NORMSCOPE_LAMBDA {
            store(to + k / P * pitch + k % P * Pack<Compute<E>>::lanes, values[k], extent);
        });
    }
}

// R runs that lie a step apart, at once: what a table holds for a column is read once for all of them. `beside` is called
// for every pack, as by `walk`, with work that is done while this one waits for memory.
template <int R, int Chains, class E, class Act, class Numbers, class Beside>
NORMSCOPE_INLINE void normalize_beside(
    const Run<E> run, const Step step, const Numbers numbers, double slope, const Traffic traffic, Beside&& beside) {
    using A = Compute<E>;
    constexpr int64_t lanes = Pack<A>::lanes;
    const auto below = broadcast(A(slope));
    walk_lines<E, Chains>(
        run.phase, run.length, [&](int64_t i, auto extent, auto packs, auto chain) NORMSCOPE_LAMBDA {
            constexpr int P = decltype(packs){};
            Pack<A> z[R * P];
            each<R * P>([&](auto k) NORMSCOPE_LAMBDA {
                const int64_t at = i + k % P * lanes;
                if constexpr (decltype(k){} % P == 0) fetch(run.x + k / P * step.pitch + at, traffic.ahead);
                z[k] = normalized(load(run.x + k / P * step.pitch + at, extent), numbers, at);
            });
            each<P>([&](auto p) NORMSCOPE_LAMBDA {
                beside(i + p * lanes, extent, Count<decltype(chain){} + decltype(p){}>{});
            });
            if (run.residual) {
                each<R * P>([&](auto k) NORMSCOPE_LAMBDA {
                    const int64_t at = i + k % P * lanes;
                    if constexpr (decltype(k){} % P == 0) fetch_briefly(run.residual + k / P * step.pitch + at, traffic.ahead);
                    z[k] = z[k] + load(run.residual + k / P * step.pitch + at, extent);
                    if constexpr (Act::gates) {
                        uint8_t* mask = run.mask + 2 * (k / P) * step.words;
                        if (run.mask) write_mask<A>(mask, run.phase + at, to_bits(Act::closed(z[k])), extent);
                    }
                });
            }
            each<R * P>([&](auto k) NORMSCOPE_LAMBDA { z[k] = Act::forward(z[k], below); });
            write_rows<R, P>(run.out + i, step.pitch, z, traffic.past_caches, extent);
        });
}

template <int R, class E, class Act, class Numbers>
NORMSCOPE_INLINE void normalize(
    const Run<E> run, const Step step, const Numbers numbers, double slope, const Traffic traffic) {
    const auto nothing = [](int64_t, auto, auto) NORMSCOPE_LAMBDA {};
    normalize_beside<R, 1, E, Act>(run, step, numbers, slope, traffic, nothing);
}

// `rows` runs, R at once.
template <int R, class E, class Act, class Numbers>
void normalize_rows(
    const Run<E> top, const Step step, int64_t rows, const Numbers numbers, double slope, const Traffic traffic) {
    bundled<R>(0, rows, [&](int64_t r, auto together) NORMSCOPE_LAMBDA {
        normalize<decltype(together){}, E, Act>(top.after(r, step), step, numbers, slope, traffic);
    });
}

// What reaches the normalized value of the gradient of the output: through no activation, through one whose input is
// computed again from x exactly as the forward did, or through one whose side the mask remembers.
struct Open {
    static constexpr bool reads_x = false;
    template <class A, class Numbers, class Extent>
    static NORMSCOPE_INLINE Pack<A> pass(
        const Pack<A>& dy, const Pack<A>&, const Numbers&, const Pack<A>&, int64_t, const uint8_t*, int64_t, Extent) {
        return dy;
    }
};

template <class Act>
struct Recomputed {
    static constexpr bool reads_x = true;
    template <class A, class Numbers, class Extent>
    static NORMSCOPE_INLINE Pack<A> pass(
        const Pack<A>& dy, const Pack<A>& x, const Numbers& numbers, const Pack<A>& below, int64_t i, const uint8_t*,
        int64_t, Extent) {
        const auto z = normalized(x, numbers, i);
        if constexpr (Act::gates) return select(Act::closed(z), Act::shut(dy, below), dy);
        else return Act::backward(dy, z);
    }
};

template <class Act>
struct Remembered {
    static constexpr bool reads_x = false;
    template <class A, class Numbers, class Extent>
    static NORMSCOPE_INLINE Pack<A> pass(
        const Pack<A>& dy, const Pack<A>&, const Numbers&, const Pack<A>& below, int64_t, const uint8_t* mask,
        int64_t position, Extent extent) {
        return select(from_bits<A>(read_mask<A>(mask, position, extent)), Act::shut(dy, below), dy);
    }
};

// R runs that lie a step apart, at once.
template <int R, class E, class Gate, class Numbers>
NORMSCOPE_INLINE void differentiate(
    const Run<E> run, const Step step, const Numbers numbers, double slope, bool batch_statistics,
    const Traffic traffic) {
    using A = Compute<E>;
    const auto below = broadcast(A(slope));
    constexpr int64_t lanes = Pack<A>::lanes;
    walk_lines<E>(
        run.phase, run.length, [&](int64_t i, auto extent, auto packs, auto) NORMSCOPE_LAMBDA {
            constexpr int P = decltype(packs){};
            Pack<A> dx[R * P], g[R * P];
            each<R * P>([&](auto k) NORMSCOPE_LAMBDA {
                const int64_t at = i + k % P * lanes, there = k / P * step.pitch + at;
                const bool reads_x = Gate::reads_x || batch_statistics;
                if constexpr (decltype(k){} % P == 0) {
                    fetch_briefly(run.dy + there, traffic.ahead);
                    if (reads_x) fetch(run.x + there, traffic.ahead);
                }
                Pack<A> x = zero<A>();
                if (reads_x) x = load(run.x + there, extent);
                const uint8_t* mask = run.mask + 2 * (k / P) * step.words;
                g[k] = Gate::pass(load(run.dy + there, extent), x, numbers, below, at, mask, run.phase + at, extent);
                dx[k] = numbers.at(dy_gain, at) * g[k];
                if (batch_statistics) {
                    const auto linear =
                        multiply_add(x - numbers.at(centre, at), numbers.at(x_gain, at), numbers.at(offset, at));
                    dx[k] = multiply_add(numbers.at(dy_gain, at), g[k], linear);
                }
            });
            write_rows<R, P>(run.out + i, step.pitch, dx, traffic.past_caches, extent);
            if (run.dresidual) write_rows<R, P>(run.dresidual + i, step.pitch, g, traffic.past_caches, extent);
        });
}

// `rows` runs, R at once.
template <int R, class E, class Gate, class Numbers>
void differentiate_rows(
    const Run<E> top, const Step step, int64_t rows, const Numbers numbers, const Job& job, const Traffic traffic) {
    const double slope = job.slope;
    const bool batch_statistics = job.batch_statistics;
    bundled<R>(0, rows, [&](int64_t r, auto together) NORMSCOPE_LAMBDA {
        differentiate<decltype(together){}, E, Gate>(
            top.after(r, step), step, numbers, slope, batch_statistics, traffic);
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
