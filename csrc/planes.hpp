// Long planes: one channel's plane of one sample at a time, with the channel's numbers in registers.
#pragma once

#include "layout.hpp"
#include "runs.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Sums side by side, as many as there are registers for: an addition waits for the one before it.
constexpr int kChains = kParts == 1 ? 4 : 2;
// Elements whose sums are kept in the compute type before they are added up in float64: 64 to each lane of a sum.
template <class A>
constexpr int64_t kChunk = 64 * kChains * Pack<A>::lanes;

// Calls body(offset, length) on pieces of a run, cut where mask words end.
template <class A, class Body>
NORMSCOPE_INLINE void chunks(int64_t phase, int64_t length, Body&& body) {
    for (int64_t i = 0; i < length;) {
        const int64_t piece = least_of(kChunk<A> - (phase + i) % kGrain, length - i);
        body(i, piece);
        i += piece;
    }
}

struct Sums {
    double first = 0, second = 0;
};

// Two sums in the compute type.
template <class A>
struct Chained {
    Pack<A> first[kChains], second[kChains];

    NORMSCOPE_INLINE Chained() {
        each<kChains>([&](auto k) NORMSCOPE_LAMBDA { first[k] = second[k] = zero<A>(); });
    }
    NORMSCOPE_INLINE void add(const Chained& other) {
        each<kChains>([&](auto k) NORMSCOPE_LAMBDA {
            first[k] = first[k] + other.first[k], second[k] = second[k] + other.second[k];
        });
    }
    NORMSCOPE_INLINE Sums total() const {
        auto sum1 = first[0], sum2 = second[0];
        each<kChains - 1>([&](auto k) NORMSCOPE_LAMBDA { sum1 = sum1 + first[k + 1], sum2 = sum2 + second[k + 1]; });
        return {sum(sum1), sum(sum2)};
    }
};

template <class E>
NORMSCOPE_INLINE void add_deviations(
    Chained<Compute<E>>& to, const E* x, int64_t phase, int64_t length, Compute<E> pivot) {
    using A = Compute<E>;
    Chained<A> sums = to;
    const auto from = broadcast(pivot);
    walk<A, kChains>(phase, length, [&](int64_t i, auto extent, auto chain) NORMSCOPE_LAMBDA {
        const auto d = load(x + i, extent, pivot) - from;
        sums.first[chain] = sums.first[chain] + d;
        sums.second[chain] = multiply_add(d, d, sums.second[chain]);
    });
    to = sums;
}

// The moments of one channel, plane after plane. Deviations are taken from a pivot near the mean: the mean of all values
// before, and for the first values a mean computed roughly beforehand (see ColumnMoments for why that is enough).
template <class E>
class PlaneMoments {
    using A = Compute<E>;

   public:
    void add(const E* x, int64_t phase, int64_t length) {
        chunks<A>(phase, length, [&](int64_t i, int64_t piece) {
            if (held_ + piece > kChunk<A>) flush();
            if (!held_) pivot_ = running_.count ? A(running_.mean) : rough_mean(x + i, phase + i, piece);
            add_deviations(sums_, x + i, phase + i, piece, pivot_);
            held_ += piece;
        });
    }

    const Running& result() {
        if (held_) flush();
        return running_;
    }

   private:
    static A rough_mean(const E* x, int64_t phase, int64_t length) {
        const A first = load(x, Part{1}).part[0][0];
        Chained<A> sums;
        add_deviations(sums, x, phase, length, first);
        return A(double(first) + sums.total().first / double(length));
    }

    void flush() {
        const Sums sums = sums_.total();
        running_.merge_sums(double(held_), double(pivot_), sums.first, sums.second);
        sums_ = {};
        held_ = 0;
    }

    Running running_;
    Chained<A> sums_;
    A pivot_ = 0;
    int64_t held_ = 0;
};

// The sums of dy and dy * (x - centre) of one channel, plane after plane.
template <class E, class Gate>
class PlaneProducts {
    using A = Compute<E>;

   public:
    PlaneProducts(const Uniform<A>& numbers, double slope) : numbers_(numbers), below_(broadcast(A(slope))) {}

    void add(const Run<E>& run) {
        chunks<A>(run.phase, run.length, [&](int64_t i, int64_t piece) {
            if (held_ + piece > kChunk<A>) flush();
            add_piece(run, i, piece);
            held_ += piece;
        });
    }

    const Sums& result() {
        if (held_) flush();
        return total_;
    }

   private:
    NORMSCOPE_INLINE void add_piece(const Run<E> run, int64_t from, int64_t length) {
        Chained<A> sums = sums_;
        const Uniform<A> numbers = numbers_;
        const auto below = below_;
        walk<A, kChains>(run.phase + from, length, [&](int64_t k, auto extent, auto chain) NORMSCOPE_LAMBDA {
            const auto x = load(run.x + from + k, extent);
            const auto dy = load(run.dy + from + k, extent);
            const auto g = Gate::pass(dy, x, numbers, below, from + k, run.mask, run.phase + from + k);
            sums.first[chain] = sums.first[chain] + g;
            sums.second[chain] = multiply_add(g, x - numbers.at(centre, k), sums.second[chain]);
        });
        sums_ = sums;
    }

    void flush() {
        const Sums sums = sums_.total();
        total_.first += sums.first;
        total_.second += sums.second;
        sums_ = {};
        held_ = 0;
    }

    Uniform<A> numbers_;
    Pack<A> below_;
    Sums total_;
    Chained<A> sums_;
    int64_t held_ = 0;
};

}  // namespace normscope::NORMSCOPE_LEVEL
