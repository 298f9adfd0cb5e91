// Sums down the columns of a stack of rows, for short planes side by side, channels_last and tensors without planes.
#pragma once

#include "runs.hpp"
#include "scratch.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Rows whose sums are kept in the compute type before they are added up in float64.
constexpr int64_t kFold = 64;
// Rows whose mean is the first pivot.
constexpr int64_t kOpening = 16;
// Rows added up together, of one tensor and of two: the sums so far are read and written once for all of them.
constexpr int kSummedRows = kParts == 1 ? 8 : kParts == 2 ? 4 : 2;
constexpr int kSummedPairs = kParts == 1 ? 4 : 2;
// The same where memory is waited for, which suits one row after the other best. The moments of bfloat16 wait for arithmetic.
template <class E>
constexpr int kStreamedMoments = sizeof(E) < sizeof(Compute<E>) ? kSummedRows : 1;
constexpr int kStreamedPairs = 1;
// Whether there are registers enough for the two sums of a short row, and how many packs such a row has.
constexpr bool kHolds = kParts == 1;
constexpr int kHeld = 8;
template <class A>
constexpr int64_t kHeldColumns = kHeld * Pack<A>::lanes;
// Such rows that are added up together.
template <class E>
constexpr int kHeldRows = sizeof(E) < sizeof(Compute<E>) ? 2 : 1;

// How rows are added up: with their sums in registers or not, and waiting for memory or not.
template <bool in_registers, bool from_memory>
struct Way {
    static constexpr bool held = in_registers, streamed = from_memory;
};

template <class E, class W>
constexpr int kMomentRows = W::held ? kHeldRows<E> : W::streamed ? kStreamedMoments<E> : kSummedRows;
template <class E, class W>
constexpr int kPairRows = W::held ? kHeldRows<E> : W::streamed ? kStreamedPairs : kSummedPairs;

// Whether a machine fetches rows from memory better by itself: long ones, if their elements take little arithmetic.
template <class E, bool held>
constexpr bool kFetchesItself = !held && sizeof(E) == sizeof(Compute<E>);

// The width at which rows of `width` columns that follow each other without a gap are added up: that whose sums stay in
// registers, if it holds whole channels.
template <class A>
int64_t summed_width(int64_t width, int64_t channels) {
    const int64_t held = kHeldColumns<A>;
    return kHolds && held % channels == 0 && width % held == 0 ? held : width;
}

// Calls body(Way) with the way that suits rows of such a width.
template <class A, class Body>
void in_way(int64_t width, bool streamed, Body&& body) {
    const bool held = kHolds && width == kHeldColumns<A>;
    if (held && streamed) body(Way<kHolds, true>{});
    else if (held) body(Way<kHolds, false>{});
    else if (streamed) body(Way<false, true>{});
    else body(Way<false, false>{});
}

inline int64_t padded_width(int64_t width) { return (width + 15) / 16 * 16; }

// Two sums per column of what `term` makes of each element.
template <class A>
struct ColumnSums {
    int64_t width;
    A *narrow1, *narrow2;
    double *wide1, *wide2;

    static int64_t bytes(int64_t width) { return padded_width(width) * 2 * (sizeof(A) + sizeof(double)) + 4 * 64; }

    ColumnSums(Scratch& scratch, int64_t columns)
        : width(columns),
          narrow1(scratch.take_zeroed<A>(padded_width(columns))),
          narrow2(scratch.take_zeroed<A>(padded_width(columns))),
          wide1(scratch.take_zeroed<double>(padded_width(columns))),
          wide2(scratch.take_zeroed<double>(padded_width(columns))) {}

    // term(row, column, Whole or Part, Count<N>, sum1, sum2) adds one pack of each of N rows, up to R, to the sums. What it
    // reads it must hold by value: whatever lies behind a reference is read again after every store of a sum. If `held`,
    // there must be kHeldColumns.
    template <int R, bool held, class Term>
    void add(int64_t first, int64_t last, const Term term) {
        for (int64_t row = first; row < last; row += kFold) {
            if constexpr (held) add_held<R>(row, least_of(last, row + kFold), term);
            else add_stored<R>(row, least_of(last, row + kFold), term);
            fold();
        }
    }

    void clear() {
        const auto bytes = size_t(padded_width(width)) * sizeof(double);
        __builtin_memset(wide1, 0, bytes);
        __builtin_memset(wide2, 0, bytes);
    }

   private:
    template <int R, class Term>
    void add_stored(int64_t first, int64_t last, const Term term) {
        A *const to1 = narrow1, *const to2 = narrow2;
        bundled<R>(first, last, [&, columns = width](int64_t row, auto rows) NORMSCOPE_LAMBDA {
            walk<A>(0, columns, [&](int64_t j, auto extent, auto) NORMSCOPE_LAMBDA {
                Pack<A> sum1 = load(to1 + j, Whole{}), sum2 = load(to2 + j, Whole{});
                term(row, j, extent, rows, sum1, sum2);
                store(to1 + j, sum1, Whole{});
                store(to2 + j, sum2, Whole{});
            });
        });
    }

    template <int R, class Term>
    void add_held(int64_t first, int64_t last, const Term term) {
        constexpr int64_t lanes = Pack<A>::lanes;
        Pack<A> sum1[kHeld], sum2[kHeld];
        each<kHeld>([&](auto k) NORMSCOPE_LAMBDA { sum1[k] = sum2[k] = zero<A>(); });
        bundled<R>(first, last, [&](int64_t row, auto rows) NORMSCOPE_LAMBDA {
            each<kHeld>([&](auto k) NORMSCOPE_LAMBDA { term(row, k * lanes, Whole{}, rows, sum1[k], sum2[k]); });
        });
        each<kHeld>([&](auto k) NORMSCOPE_LAMBDA {
            store(narrow1 + k * lanes, sum1[k], Whole{});
            store(narrow2 + k * lanes, sum2[k], Whole{});
        });
    }

    void fold() {
        fold(narrow1, wide1);
        fold(narrow2, wide2);
    }

    void fold(A* narrow, double* wide) const {
        const int64_t columns = padded_width(width);
        NORMSCOPE_SIMD
        for (int64_t j = 0; j < columns; ++j) {
            wide[j] += double(narrow[j]);
            narrow[j] = 0;
        }
    }
};

// Moments of every column. Deviations are taken from a pivot: the mean of all rows before, renewed whenever their number has
// doubled. What a pivot off by D adds to the rounding of m2, rows * D^2 ulps, is then never more than ulps of m2 itself,
// because that D also separates the means of two halves.
template <class A>
struct ColumnMoments {
    ColumnSums<A> sums;
    A* pivot;
    double *mean, *m2;
    int64_t count = 0;

    static int64_t bytes(int64_t width) {
        return ColumnSums<A>::bytes(width) + padded_width(width) * (sizeof(A) + 2 * sizeof(double)) + 3 * 64;
    }

    ColumnMoments(Scratch& scratch, int64_t width)
        : sums(scratch, width),
          pivot(scratch.take_zeroed<A>(padded_width(width))),
          mean(scratch.take_zeroed<double>(padded_width(width))),
          m2(scratch.take_zeroed<double>(padded_width(width))) {}

    // R rows at once, fetched `ahead` elements ahead; `held` as in ColumnSums.
    template <int R, bool fetching, bool held = false, class E>
    void add(const E* x, int64_t rows, int64_t pitch, int64_t ahead) {
        if (!rows) return;
        const int64_t opening = least_of(rows, kOpening);
        walk<A>(0, sums.width, [&](int64_t j, auto extent, auto) { store(pivot + j, load(x + j, extent, A(0)), Whole{}); });
        sums.template add<R, held>(0, opening, deviations<fetching>(x, pitch, ahead));
        set_opening(double(opening));
        sums.clear();
        while (count < rows) {
            const int64_t segment = count ? least_of(count, rows - count) : opening;
            sums.template add<R, held>(count, count + segment, deviations<fetching>(x, pitch, ahead));
            merge(segment);
        }
    }

   private:
    template <bool fetching, class E>
    auto deviations(const E* x, int64_t pitch, int64_t ahead) const {
        return [x, pitch, ahead, pivots = static_cast<const A*>(pivot)](
                   int64_t row, int64_t j, auto extent, auto rows, Pack<A>& sum1, Pack<A>& sum2) NORMSCOPE_LAMBDA {
            const auto from = load(pivots + j, Whole{});
            auto first = zero<A>(), second = zero<A>();  // apart from the sums so far, which keeps the rounding down
            each<decltype(rows){}>([&](auto r) NORMSCOPE_LAMBDA {
                const E* at = x + (row + r) * pitch + j;
                fetch_summed<fetching>(at, ahead);
                const auto d = load(at, extent, A(0)) - from;
                first = first + d;
                second = multiply_add(d, d, second);
            });
            sum1 = sum1 + first, sum2 = sum2 + second;
        };
    }

    void set_opening(double rows) {
        const int64_t columns = sums.width;
        const double *sum = sums.wide1;
        A* to = pivot;
        NORMSCOPE_SIMD
        for (int64_t j = 0; j < columns; ++j) to[j] = A(double(to[j]) + sum[j] / rows);
    }

    void merge(int64_t segment) {
        const double per_row = 1 / double(segment), share = double(segment) / double(count + segment);
        const double between = double(count) * share;
        const int64_t columns = sums.width;
        const double *first = sums.wide1, *second = sums.wide2;
        double *to_mean = mean, *to_m2 = m2;
        A* from = pivot;
        NORMSCOPE_SIMD
        for (int64_t j = 0; j < columns; ++j) {
            const double step = first[j] * per_row, within = second[j] - first[j] * step;
            pool(
                to_mean[j], to_m2[j], double(from[j]) + step, within < 0 ? 0 : within, share, between);
            from[j] = A(to_mean[j]);
        }
        sums.clear();
        count += segment;
    }
};

template <class A>
int64_t table_bytes(int64_t width) {
    return kNumbers * (padded_width(width) * int64_t(sizeof(A)) + 2 * kPack);
}

// What lies past the last column is read, and reaches the unused bits of a mask.
template <class A>
Table<A> table_of(Scratch& scratch, int64_t width) {
    const int64_t whole = padded_width(width) + Pack<A>::lanes;
    Table<A> table;
    for (auto& value : table.value) {
        value = scratch.take<A>(whole);
        __builtin_memset(value + width, 0, size_t(whole - width) * sizeof(A));
    }
    return table;
}

}  // namespace normscope::NORMSCOPE_LEVEL
