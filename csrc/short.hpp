// Short planes side by side: the sums of one channel over its planes in many samples, each at least a pack long.
#pragma once

#include "planes.hpp"
#include "views.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Samples between the plane that is added up and the one that is fetched.
constexpr int64_t kSamplesAhead = 4;

// Calls body(offset) for every whole pack of a plane, and body(offset, lanes) for a last one that overlaps it, of which only
// `lanes` are new.
template <class A, class Body>
NORMSCOPE_INLINE void overlapping(int64_t length, const Lanes<A>& rest, Body&& body) {
    constexpr int64_t lanes = Pack<A>::lanes;
    int64_t i = 0;
    for (; i + lanes <= length; i += lanes) body(i);
    if (i < length) body(length - lanes, rest);
}

// Sums of (x - pivot) and (x - pivot)^2 over planes that lie `pitch` apart.
template <class E>
Sums short_deviations(const E* x, int64_t planes, int64_t pitch, int64_t length, Compute<E> pivot) {
    using A = Compute<E>;
    const auto from = broadcast(pivot), nothing = zero<A>();
    const auto rest = last_lanes<A>(length % Pack<A>::lanes);
    auto sum1 = zero<A>(), sum2 = zero<A>();
    for (int64_t n = 0; n < planes; ++n, x += pitch) {
        // Summed up plane by plane, which keeps the rounding down.
        auto plane1 = nothing, plane2 = nothing;
        overlapping(length, rest, [&](int64_t i, auto... lanes) NORMSCOPE_LAMBDA {
            fetch(x + i, kSamplesAhead * pitch);
            auto d = load(x + i, Whole{}) - from;
            if constexpr (sizeof...(lanes)) d = select(lanes..., d, nothing);
            plane1 = plane1 + d;
            plane2 = multiply_add(d, d, plane2);
        });
        sum1 = sum1 + plane1;
        sum2 = sum2 + plane2;
    }
    return {sum(sum1), sum(sum2)};
}

// The moments of one channel; pivots as in add_plane.
template <class E>
Running short_moments(const E* x, int64_t samples, int64_t pitch, int64_t length) {
    using A = Compute<E>;
    const int64_t together = 1 + kChunk / length;
    const A first = load(x, Part{1}).part[0][0];
    Running running;
    running.mean = double(first) + short_deviations(x, 1, pitch, length, first).first / double(length);
    for (int64_t n = 0; n < samples; n += together) {
        const int64_t planes = least_of(together, samples - n);
        const A pivot = A(running.mean);
        const Sums sums = short_deviations(x + n * pitch, planes, pitch, length, pivot);
        if (n == 0) running = {};
        running.merge_sums(double(planes * length), double(pivot), sums.first, sums.second);
    }
    return running;
}

// The sums of dy and dy * (x - centre) of one channel, the plane of which in sample n is run_of(n).
template <class E, class Gate, class RunOf>
Sums short_products(RunOf&& run_of, int64_t samples, const Uniform<Compute<E>>& numbers, double slope) {
    using A = Compute<E>;
    const auto below = broadcast(A(slope)), nothing = zero<A>();
    const int64_t length = run_of(0).length, together = 1 + kChunk / length;
    const auto rest = last_lanes<A>(length % Pack<A>::lanes);
    Sums total;
    for (int64_t n = 0; n < samples; n += together) {
        auto sum1 = zero<A>(), sum2 = zero<A>();
        for (int64_t m = n; m < least_of(samples, n + together); ++m) {
            const Run<E> run = run_of(m), later = run_of(m + kSamplesAhead);
            auto plane1 = nothing, plane2 = nothing;
            overlapping(length, rest, [&](int64_t i, auto... lanes) NORMSCOPE_LAMBDA {
                __builtin_prefetch(later.x + i, 0, 2);
                __builtin_prefetch(later.dy + i, 0, 2);
                const auto x = load(run.x + i, Whole{});
                auto g = Gate::pass(load(run.dy + i, Whole{}), x, numbers, below, run, i);
                if constexpr (sizeof...(lanes)) g = select(lanes..., g, nothing);
                plane1 = plane1 + g;
                plane2 = multiply_add(g, x - numbers.at(centre, i), plane2);
            });
            sum1 = sum1 + plane1;
            sum2 = sum2 + plane2;
        }
        total.first += sum(sum1);
        total.second += sum(sum2);
    }
    return total;
}

}  // namespace normscope::NORMSCOPE_LEVEL
