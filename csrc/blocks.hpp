// Short planes side by side. A block is a stack of rows, one for each sample, that hold the planes of neighbouring channels:
// what its columns add up to is put together by channel, and a channel's numbers stand in each of its columns.
#pragma once

#include "columns.hpp"
#include "short.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// The columns of one channel of a block together: `number` from `column` on.
template <class A>
Running block_moments(const ColumnMoments<A>& moments, int64_t column, int64_t number) {
    const double* mean = moments.mean + column;
    double centre = 0, m2 = 0;
    for (int64_t k = 0; k < number; ++k) centre += mean[k] - mean[0];
    centre = mean[0] + centre / double(number);
    for (int64_t k = 0; k < number; ++k) {
        const double gap = mean[k] - centre;
        m2 += moments.m2[column + k] + double(moments.count) * gap * gap;
    }
    return {double(moments.count * number), centre, m2};
}

// The columns of one channel of a block together, by sums side by side: they round less, and need not wait.
template <class A>
Sums block_sums(const ColumnSums<A>& sums, int64_t from, int64_t number) {
    Sums part[8];
    for (int64_t j = from; j < from + number; ++j) part[j % 8].add({sums.wide1[j], sums.wide2[j]});
    for (int step = 4; step; step /= 2) {
        for (int k = 0; k < step; ++k) part[k].add(part[k + step]);
    }
    return part[0];
}

// A channel's numbers for each of its columns, which are the `inner` that follow each other in a row of short planes. What
// is written past them, the next channel or the padding takes.
template <class A, class NumbersOf>
void fill_blocks(const Table<A>& table, int64_t channels, int64_t inner, NumbersOf&& numbers_of) {
    for (int64_t c = 0; c < channels; ++c) {
        const auto numbers = numbers_of(c);
        for (int64_t k = 0; k < inner; k += Pack<A>::lanes) table.set_pack(c * inner + k, numbers);
    }
}

// The moments of a block's channels from number `from` to `to`, all of them where they are summed by columns.
template <class E>
void gather_block(const View<E>& view, int64_t first, int64_t from, int64_t to) {
    using A = Compute<E>;
    const Job& job = view.job;
    if (job.inner >= kShortPlane) {
        for (int64_t c = first + from; c < first + to; ++c) {
            keep(job, c, short_moments(view.short_plane(0, c).x, job.batch, view.layout.pitch, job.inner));
        }
        return;
    }
    const int64_t width = to * job.inner;
    Scratch scratch(ColumnMoments<A>::bytes(width));
    ColumnMoments<A> moments(scratch, width);
    moments.template add<kSummedRows, true>(
        view.block(0, first, width).x, job.batch, view.layout.pitch, view.summed_ahead(1, false));
    for (int64_t c = 0; c < to; ++c) keep(job, first + c, block_moments(moments, c * job.inner, job.inner));
}

// Normalizes a block; after every bundle of rows `meanwhile` is told how many are done.
template <class E, class Act, class Meanwhile>
void normalize_block(const View<E>& view, int64_t first, int64_t channels, int64_t ahead, Meanwhile&& meanwhile) {
    using A = Compute<E>;
    const Job& job = view.job;
    const int64_t width = channels * job.inner;
    Scratch scratch(table_bytes<A>(width));
    const Table<A> table = table_of<A>(scratch, width);
    fill_blocks(table, channels, job.inner, [&](int64_t c) { return forward_numbers<A>(job, first + c); });
    const Traffic traffic{view.past_caches(), ahead};
    bundled<kRows>(0, job.batch, [&](int64_t n, auto rows) {
        normalize<decltype(rows){}, E, Act>(view.block(n, first, width), view.step(), table, job.slope, traffic);
        meanwhile(n + rows);
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
