// The backward: the sums of dy and dy * x_hat, then dx and, where there was a residual, its gradient.
#pragma once

#include "forward.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Bytes of the longest row that fits the first-level cache together with six numbers of each of its columns.
constexpr int64_t kUncrowded = int64_t(6) << 10;

template <class E, class Gate>
void differentiate_planes(const View<E>& view, int64_t c, int64_t first, int64_t last, Traffic traffic) {
    auto numbers = forward_uniform<E>(view.job, c);
    numbers.set(backward_numbers<Compute<E>>(view.job, c));
    for (int64_t n = first; n < last; ++n) {
        differentiate_rows<1, E, Gate>(view.plane(n, c), {}, 1, numbers, view.job, traffic);
    }
}

template <class E, class Gate>
Sums plane_sums(const View<E>& view, int64_t c, int64_t first, int64_t last) {
    PlaneProducts<E, Gate> products(forward_uniform<E>(view.job, c), view.job.slope);
    for (int64_t n = first; n < last; ++n) add_pieces(view.plane(n, c), products);
    return products.result();
}

template <class E, class Gate>
void backward_planes(const View<E>& view, const Member& me) {
    const Job& job = view.job;
    const int64_t last = me.end(job.channels);
    for (int64_t c = me.begin(job.channels); c < last; ++c) {
        if (job.phases & statistics) {
            keep_sums<Compute<E>>(job, c, plane_sums<E, Gate>(view, c, 0, job.batch));
        }
        const bool more = (job.phases & statistics) && c + 1 < last;
        const Traffic traffic{view.past_caches(), more ? view.layout.width : 0};
        if (job.phases & apply) differentiate_planes<E, Gate>(view, c, 0, job.batch, traffic);
    }
}

template <class A>
void share_sums(const Job& job, const Member& me, const Sums* partial) {
    me.wait();
    for (int64_t c = me.begin(job.channels); c < me.end(job.channels); ++c) {
        Sums total;
        for (int rank = 0; rank < me.size; ++rank) total.add(partial[rank * job.channels + c]);
        keep_sums<A>(job, c, total);
    }
    me.wait();
}

template <class E, class Gate>
void backward_few_planes(const View<E>& view, const Member& me, Sums* partial) {
    const Job& job = view.job;
    const int64_t first = me.begin(job.batch), last = me.end(job.batch);
    if (job.phases & statistics) {
        for (int64_t c = 0; c < job.channels; ++c) {
            partial[me.rank * job.channels + c] = plane_sums<E, Gate>(view, c, first, last);
        }
        share_sums<Compute<E>>(job, me, partial);
    }
    if (!(job.phases & apply)) return;
    for (int64_t c = 0; c < job.channels; ++c) {
        differentiate_planes<E, Gate>(view, c, first, last, {view.past_caches(), 0});
    }
}

// Sums down the columns of `rows` runs, R at once, the first of which is `top`. Its gradient of the residual, if it has one,
// is written beside: a pass that only reads leaves half of what memory can do unused. Then a machine fetches short rows, too,
// better by itself.
template <int R, bool fetching, class E, class Gate, bool held = false>
void add_rows(
    ColumnSums<Compute<E>>& sums, const View<E>& view, const Run<E> top, const Step step, int64_t rows,
    const Table<Compute<E>> table) {
    using A = Compute<E>;
    const auto below = broadcast(A(view.job.slope));
    const bool past_caches = view.past_caches();
    const int64_t ahead = view.summed_ahead(2, held ? top.dresidual != nullptr : kFetchesItself<E, held>);
    const auto term = [=](int64_t row, int64_t j, auto extent, auto together, auto& sum1, auto& sum2) NORMSCOPE_LAMBDA {
        const auto from = table.at(centre, j);
        auto first = zero<A>(), second = zero<A>();
        each<decltype(together){}>([&](auto r) NORMSCOPE_LAMBDA {
            const int64_t there = (row + r) * step.pitch + j;
            fetch_summed<fetching>(top.x + there, ahead);
            fetch_summed<fetching>(top.dy + there, ahead);
            const auto x = load(top.x + there, extent);
            const uint8_t* mask = top.mask + 2 * (row + r) * step.words;
            const auto g = Gate::pass(load(top.dy + there, extent), x, table, below, j, mask, j, extent);
            if (top.dresidual && past_caches) stream(top.dresidual + there, g, extent);
            else if (top.dresidual) store(top.dresidual + there, g, extent);
            first = first + g;
            second = multiply_add(g, x - from, second);
        });
        sum1 = sum1 + first, sum2 = sum2 + second;
    };
    sums.template add<R, held>(0, rows, term);
}

template <class E, class Gate>
void backward_block(const View<E>& view, int64_t first, int64_t channels, int64_t ahead) {
    using A = Compute<E>;
    const Job& job = view.job;
    const int64_t width = channels * job.inner;
    Scratch scratch(ColumnSums<A>::bytes(width) + table_bytes<A>(width));
    const Table<A> table = table_of<A>(scratch, width);
    fill_blocks(table, channels, job.inner, [&](int64_t c) { return forward_numbers<A>(job, first + c); });
    if ((job.phases & statistics) && job.inner >= kShortProduct) {
        for (int64_t c = first; c < first + channels; ++c) {
            const auto numbers = forward_uniform<E>(job, c);
            const Run<E> run = view.short_plane(0, c);
            keep_sums<A>(job, c, short_products<E, Gate>(run, view.step(), job.batch, numbers, job.slope));
        }
    } else if (job.phases & statistics) {
        ColumnSums<A> sums(scratch, width);
        // Not every block is summed by columns, so it is left to the second pass.
        const Run<E> top = view.block(0, first, width).without_dresidual();
        add_rows<kSummedPairs, true, E, Gate>(sums, view, top, view.step(), job.batch, table);
        for (int64_t c = 0; c < channels; ++c) {
            keep_sums<A>(job, first + c, block_sums(sums, c * job.inner, job.inner));
        }
    }
    if (!(job.phases & apply)) return;
    fill_blocks(table, channels, job.inner, [&](int64_t c) { return backward_numbers<A>(job, first + c); });
    const Traffic traffic{view.past_caches(), ahead};
    differentiate_rows<kRows, E, Gate>(view.block(0, first, width), view.step(), job.batch, table, job, traffic);
}

template <class E, class Gate>
void backward_blocks(const View<E>& view, const Member& me) {
    const int64_t blocks = ceil_div(view.job.channels, view.layout.group);
    for (int64_t b = me.begin(blocks); b < me.end(blocks); ++b) {
        const int64_t first = b * view.layout.group, ahead = b + 1 < me.end(blocks) ? view.layout.width : 0;
        backward_block<E, Gate>(view, first, least_of(view.layout.group, view.job.channels - first), ahead);
    }
}

// The sums of all threads together, for a thread's share of the channels (see keep_sums).
template <class A>
void share_columns(const Job& job, const Member& me, double* memory) {
    const double count = job.count, eps = job.eps, *mean = job.mean, *m2 = job.m2;
    double *sum_dy = job.sum_dy, *sum_dy_x = job.sum_dy_x;
    const int64_t begin = me.begin(job.channels), end = me.end(job.channels);
    for (int64_t c = begin; c < end; ++c) sum_dy[c] = sum_dy_x[c] = 0;
    for (int rank = 0; rank < me.size; ++rank) {
        const Found part(memory, job.channels, rank);
        NORMSCOPE_SIMD
        for (int64_t c = begin; c < end; ++c) sum_dy[c] += part.first[c], sum_dy_x[c] += part.second[c];
    }
    NORMSCOPE_SIMD
    for (int64_t c = begin; c < end; ++c) {
        sum_dy_x[c] = dgamma<A>(mean[c], m2[c], count, eps, sum_dy[c], sum_dy_x[c]);
    }
}

// Whether a row and what its channels need do not fit the first-level cache together: then rows are worked on together, which
// read it once for all of them. Narrow elements wait for arithmetic.
template <class E, class Gate>
bool crowded(const Layout& layout) {
    return Gate::reads_x && sizeof(E) == sizeof(Compute<E>) && layout.width * int64_t(sizeof(E)) > kUncrowded;
}

template <class E, class Gate>
void row_sums(const View<E>& view, const Member& me, const Table<Compute<E>>& table, double* memory) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    const int64_t width = summed_width<A>(layout.width, job.channels);
    Scratch scratch(ColumnSums<A>::bytes(layout.width));
    ColumnSums<A> sums(scratch, layout.width);  // what is left over after the last whole row may be wider
    sums.width = width;
    const int64_t first = me.begin(layout.rows), last = me.end(layout.rows), rows = (last - first) * (layout.width / width);
    const Run<E> top = view.row(first, layout.width);
    const Step step{width, ceil_div(width, kGrain)};
    in_way<A>(width, view.streamed(2), [&](auto way) {
        using W = decltype(way);
        if (crowded<E, Gate>(layout)) add_rows<kSummedPairs, W::streamed, E, Gate>(sums, view, top, step, rows, table);
        else add_rows<kPairRows<E, W>, W::streamed, E, Gate, W::held>(sums, view, top, step, rows, table);
    });
    if (layout.rest && me.rank == me.size - 1) {
        sums.width = layout.rest;
        add_rows<1, false, E, Gate>(sums, view, view.row(layout.rows, layout.rest), {}, 1, table);
    }
    channel_sums(sums, job.channels, layout.group, Found(memory, job.channels, me.rank));
    me.wait();
    share_columns<A>(job, me, memory);
    me.wait();
}

template <class E, class Gate>
void backward_rows(const View<E>& view, const Member& me, double* partial) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    Scratch scratch(table_bytes<A>(layout.width));
    const Table<A> table = table_of<A>(scratch, layout.width);
    fill_forward(table, job, layout.group);
    if (job.phases & statistics) row_sums<E, Gate>(view, me, table, partial);
    if (!(job.phases & apply)) return;
    fill_backward(table, job, layout.group);
    const Traffic traffic{view.past_caches(), view.ahead()};
    // The pass of the sums, where it is run, writes the residual's gradient.
    const auto differentiate_them = [&](const Run<E>& top, const Step step, int64_t rows) {
        const Run<E> due = job.phases & statistics ? top.without_dresidual() : top;
        if (crowded<E, Gate>(layout)) differentiate_rows<kRows, E, Gate>(due, step, rows, table, job, traffic);
        else differentiate_rows<1, E, Gate>(due, step, rows, table, job, traffic);
    };
    if (layout.rest && me.rank == me.size - 1) differentiate_them(view.row(layout.rows, layout.rest), {}, 1);
    latest_first(view, me, [&](const Run<E>& top, int64_t rows) { differentiate_them(top, view.step(), rows); });
}

template <class E, class Gate>
void backward(const Job& job) {
    const View<E> view{job, layout_of(job)};
    const bool few = view.layout.cut == Cut::planes && job.channels < 4 * job.threads && job.batch > 1;
    const int64_t shares = job.threads * job.channels;
    Scratch scratch(Scratch::padded<Sums>(shares) + Scratch::padded<double>(2 * shares));
    Sums* sums = scratch.take<Sums>(shares);
    double* found = scratch.take<double>(2 * shares);
    in_team(job.threads, [&](const Member& me) {
        if (few) backward_few_planes<E, Gate>(view, me, sums);
        else if (view.layout.cut == Cut::planes) backward_planes<E, Gate>(view, me);
        else if (view.layout.cut == Cut::blocks) backward_blocks<E, Gate>(view, me);
        else backward_rows<E, Gate>(view, me, found);
        if (view.past_caches()) stream_fence();
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
