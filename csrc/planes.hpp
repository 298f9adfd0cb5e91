// Long planes: one channel's plane of one sample at a time, with the channel's numbers in registers.
#pragma once

#include "layout.hpp"
#include "runs.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Sums side by side, as many as there are registers for: an addition waits for the one before it.
constexpr int kChains = kParts == 1 ? 4 : 2;
// Elements whose sums are kept in the compute type before they are added up in float64: about 64 to each lane of a sum.
template <class A>
constexpr int64_t kChunk = 64 * kChains * Pack<A>::lanes;

// Piece `k` of a plane, cut where cache lines end; empty from k == pieces(run) on.
template <class E>
NORMSCOPE_INLINE Run<E> piece(const Run<E>& run, int64_t k) {
    constexpr int64_t most = kChunk<Compute<E>>;
    const int64_t begin = k ? least_of(k * most - run.phase, run.length) : 0;
    return run.part(begin, least_of((k + 1) * most - run.phase, run.length) - begin);
}

template <class E>
NORMSCOPE_INLINE int64_t pieces(const Run<E>& run) {
    return ceil_div(run.length + run.phase, kChunk<Compute<E>>);
}

template <class E, class Gatherer>
void add_pieces(const Run<E>& run, Gatherer& gatherer) {
    for (int64_t k = 0; k < pieces(run); ++k) gatherer.add(piece(run, k));
}

// Two sums in the compute type.
template <class A>
struct Chained {
    Pack<A> first[kChains], second[kChains];

    NORMSCOPE_INLINE Chained() {
        each<kChains>([&](auto k) NORMSCOPE_LAMBDA { first[k] = second[k] = zero<A>(); });
    }
    NORMSCOPE_INLINE void add(int k, const Pack<A>& once, const Pack<A>& by) {
        first[k] = first[k] + once;
        second[k] = multiply_add(once, by, second[k]);
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
    walk_lines<E, kChains>(phase, length, [&](int64_t i, auto extent, auto packs, auto chain) NORMSCOPE_LAMBDA {
        each<decltype(packs){}>([&](auto p) NORMSCOPE_LAMBDA {
            const auto d = load(x + i + p * Pack<A>::lanes, extent, pivot) - from;
            sums.add(chain + p, d, d);
        });
    });
    to = sums;
}

// The moments of one channel, plane after plane. Deviations are taken from a pivot near the mean: the mean of all values
// before, and for the first values a mean computed roughly beforehand (see ColumnMoments for why that is enough).
template <class E>
class PlaneMoments {
    using A = Compute<E>;

   public:
    void add(const Run<E>& piece) {
        make_room(piece);
        add_deviations(sums_, piece.x, piece.phase, piece.length, pivot_);
    }

    // Adds `piece` while `here`, which is as long, is normalized. Both are cut into packs where `here` is.
    template <class Act>
    void add_beside(const Run<E>& piece, const Run<E>& here, const Uniform<A>& numbers, double slope, Traffic traffic) {
        make_room(piece);
        Chained<A> sums = sums_;
        const A pivot = pivot_;
        const auto from = broadcast(pivot);
        const E* beside = piece.x;
        normalize_beside<1, kChains, E, Act>(
            here, {}, numbers, slope, traffic, [&](int64_t i, auto extent, auto chain) NORMSCOPE_LAMBDA {
                const auto d = load(beside + i, extent, pivot) - from;
                sums.add(chain, d, d);
            });
        sums_ = sums;
    }

    const Running& result() {
        if (held_) flush();
        return running_;
    }

   private:
    void make_room(const Run<E>& piece) {
        if (held_ + piece.length > kChunk<A>) flush();
        if (!held_) pivot_ = running_.count ? A(running_.mean) : rough_mean(piece);
        held_ += piece.length;
    }

    static A rough_mean(const Run<E>& piece) {
        const A first = load(piece.x, Part{1}).part[0][0];
        Chained<A> sums;
        add_deviations(sums, piece.x, piece.phase, piece.length, first);
        return A(double(first) + sums.total().first / double(piece.length));
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

    void add(const Run<E>& piece) {
        if (held_ + piece.length > kChunk<A>) flush();
        add_products(piece);
        held_ += piece.length;
    }

    const Sums& result() {
        if (held_) flush();
        return total_;
    }

   private:
    NORMSCOPE_INLINE void add_products(const Run<E> run) {
        Chained<A> sums = sums_;
        const Uniform<A> numbers = numbers_;
        const auto below = below_;
        walk<A, kChains>(run.phase, run.length, [&](int64_t i, auto extent, auto chain) NORMSCOPE_LAMBDA {
            const auto x = load(run.x + i, extent);
            const auto g = Gate::pass(load(run.dy + i, extent), x, numbers, below, i, run.mask, run.phase + i, extent);
            sums.add(chain, g, x - numbers.at(centre, i));
        });
        sums_ = sums;
    }

    void flush() {
        total_.add(sums_.total());
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
