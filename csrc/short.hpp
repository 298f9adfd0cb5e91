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
    Chained<A> sums;
    bundled<kChains>(0, planes, [&](int64_t n, auto together) NORMSCOPE_LAMBDA {
        Chained<A> part;  // apart from the sums so far, which keeps the rounding down
        overlapping(length, rest, [&](int64_t i, auto... lanes) NORMSCOPE_LAMBDA {
            each<decltype(together){}>([&](auto k) NORMSCOPE_LAMBDA {
                const E* at = x + (n + k) * pitch + i;
                fetch(at, kSamplesAhead * pitch);
                auto d = load(at, Whole{}) - from;
                if constexpr (sizeof...(lanes)) d = select(lanes..., d, nothing);
                part.add(k, d, d);
            });
        });
        sums.add(part);
    });
    return sums.total();
}

// The moments of one channel; pivots as in PlaneMoments.
template <class E>
Running short_moments(const E* x, int64_t samples, int64_t pitch, int64_t length) {
    using A = Compute<E>;
    const int64_t together = 1 + kChunk<A> / length;
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

// The sums of dy and dy * (x - centre) of one channel, whose first plane is `run`.
template <class E, class Gate>
Sums short_products(
    const Run<E> run, const Step step, int64_t samples, const Uniform<Compute<E>> numbers, double slope) {
    using A = Compute<E>;
    const auto below = broadcast(A(slope)), nothing = zero<A>();
    const auto rest = last_lanes<A>(run.length % Pack<A>::lanes);
    const int64_t most = 1 + kChunk<A> / run.length;
    const Part anywhere{Pack<A>::lanes};
    Sums total;
    for (int64_t first = 0; first < samples; first += most) {
        Chained<A> sums;
        bundled<kChains>(first, least_of(samples, first + most), [&](int64_t n, auto together) NORMSCOPE_LAMBDA {
            Chained<A> part;
            overlapping(run.length, rest, [&](int64_t i, auto... lanes) NORMSCOPE_LAMBDA {
                each<decltype(together){}>([&](auto k) NORMSCOPE_LAMBDA {
                    const E *at = run.x + (n + k) * step.pitch + i, *dy = run.dy + (n + k) * step.pitch + i;
                    fetch(at, kSamplesAhead * step.pitch);
                    fetch(dy, kSamplesAhead * step.pitch);
                    const auto x = load(at, Whole{});
                    const uint8_t* mask = run.mask + 2 * (n + k) * step.words;
                    auto g = Gate::pass(load(dy, Whole{}), x, numbers, below, i, mask, run.phase + i, anywhere);
                    if constexpr (sizeof...(lanes)) g = select(lanes..., g, nothing);
                    part.add(k, g, x - numbers.at(centre, i));
                });
            });
            sums.add(part);
        });
        total.add(sums.total());
    }
    return total;
}

}  // namespace normscope::NORMSCOPE_LEVEL
