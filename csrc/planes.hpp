// Long planes: one channel's plane of one sample at a time, with the channel's numbers in registers.
#pragma once

#include "layout.hpp"
#include "runs.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Elements whose sums are kept in the compute type before they are added up in float64.
constexpr int64_t kChunk = 2048;

// Calls body(offset, length) on pieces of a run, cut where mask words end.
template <class Body>
NORMSCOPE_INLINE void chunks(int64_t phase, int64_t length, Body&& body) {
    for (int64_t i = 0; i < length;) {
        const int64_t piece = least_of(kChunk - (phase + i) % kGrain, length - i);
        body(i, piece);
        i += piece;
    }
}

struct Sums {
    double first = 0, second = 0;
};

// Deviations are taken from a pivot near the mean: the mean of all values before, and for the first values a mean computed
// roughly beforehand (see ColumnMoments for why that is enough).
template <class E>
Sums deviations(const E* x, int64_t phase, int64_t length, Compute<E> pivot) {
    using A = Compute<E>;
    auto sum1 = zero<A>(), sum2 = zero<A>();
    const auto from = broadcast(pivot);
    walk<A>(phase, length, [&](int64_t i, auto extent) NORMSCOPE_LAMBDA {
        const auto d = load(x + i, extent, pivot) - from;
        sum1 = sum1 + d;
        sum2 = multiply_add(d, d, sum2);
    });
    return {sum(sum1), sum(sum2)};
}

template <class E>
void add_plane(Running& running, const E* x, int64_t phase, int64_t length) {
    using A = Compute<E>;
    chunks(phase, length, [&](int64_t i, int64_t piece) {
        const int64_t at = phase + i;
        A pivot = A(running.mean);
        if (running.count == 0) {
            const A first = load(x + i, Part{1}).part[0][0];
            pivot = A(double(first) + deviations(x + i, at, piece, first).first / double(piece));
        }
        const Sums sums = deviations(x + i, at, piece, pivot);
        running.merge_sums(double(piece), double(pivot), sums.first, sums.second);
    });
}

// Adds what a plane contributes to the sums of dy and dy * (x - centre).
template <class E, class Gate>
void add_products(Sums& sums, const Run<E> run, const Uniform<Compute<E>> numbers, double slope) {
    using A = Compute<E>;
    const auto below = broadcast(A(slope));
    chunks(run.phase, run.length, [&](int64_t i, int64_t piece) {
        Run<E> part = run;
        part.x += i, part.dy += i, part.phase += i;
        auto sum1 = zero<A>(), sum2 = zero<A>();
        walk<A>(part.phase, piece, [&](int64_t k, auto extent) NORMSCOPE_LAMBDA {
            const auto x = load(part.x + k, extent);
            const auto g = Gate::pass(load(part.dy + k, extent), x, numbers, below, part, k);
            sum1 = sum1 + g;
            sum2 = multiply_add(g, x - numbers.at(centre, k), sum2);
        });
        sums.first += sum(sum1);
        sums.second += sum(sum2);
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
