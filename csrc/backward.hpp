// The backward: the sums of dy and dy * x_hat, then dx and, where there was a residual, its gradient.
#pragma once

#include "forward.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// `numbers` of a channel whose sums are known only when `with_sums`.
template <class A, class Into>
void set_both(const Job& job, int64_t c, bool with_sums, Into&& into) {
    into(forward_numbers<A>(job, c));
    if (with_sums) into(backward_numbers<A>(job, c));
}

template <class E, class Gate>
void differentiate_planes(const View<E>& view, int64_t c, int64_t first, int64_t last, Traffic traffic) {
    Uniform<Compute<E>> numbers;
    set_both<Compute<E>>(view.job, c, true, [&](const auto& values) { numbers.set(values); });
    for (int64_t n = first; n < last; ++n) {
        differentiate_rows<1, E, Gate>(view.plane(n, c), {}, numbers, view.job, traffic);
    }
}

template <class E, class Gate>
Sums plane_sums(const View<E>& view, int64_t c, int64_t first, int64_t last) {
    Uniform<Compute<E>> numbers;
    set_both<Compute<E>>(view.job, c, false, [&](const auto& values) { numbers.set(values); });
    PlaneProducts<E, Gate> products(numbers, view.job.slope);
    for (int64_t n = first; n < last; ++n) products.add(view.plane(n, c));
    return products.result();
}

template <class E, class Gate>
void backward_planes(const View<E>& view, const Member& me) {
    const Job& job = view.job;
    const int64_t last = me.end(job.channels);
    for (int64_t c = me.begin(job.channels); c < last; ++c) {
        if (job.phases & statistics) {
            const Sums sums = plane_sums<E, Gate>(view, c, 0, job.batch);
            keep_sums<Compute<E>>(job, c, sums.first, sums.second);
        }
        const bool more = (job.phases & statistics) && c + 1 < last;
        const Traffic traffic{view.past_caches(), more ? view.layout.width : 0};
        if (job.phases & apply) differentiate_planes<E, Gate>(view, c, 0, job.batch, traffic);
    }
}

inline void merge_sums(const Sums* partial, const Member& me, int64_t channels, int64_t c, Sums& total) {
    for (int rank = 0; rank < me.size; ++rank) {
        total.first += partial[rank * channels + c].first;
        total.second += partial[rank * channels + c].second;
    }
}

template <class A>
void share_sums(const Job& job, const Member& me, const Sums* partial) {
    me.wait();
    for (int64_t c = me.begin(job.channels); c < me.end(job.channels); ++c) {
        Sums total;
        merge_sums(partial, me, job.channels, c, total);
        keep_sums<A>(job, c, total.first, total.second);
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

// Sums down the columns of `rows` runs, the first of which is `top`.
template <class E, class Gate>
void add_rows(
    ColumnSums<Compute<E>>& sums, const View<E>& view, const Run<E>& top, int64_t rows, const Table<Compute<E>>& table) {
    using A = Compute<E>;
    const auto below = broadcast(A(view.job.slope));
    const int64_t pitch = view.layout.pitch, words = view.layout.words;
    sums.add(0, rows, [&](int64_t row, int64_t j, auto extent, auto together, auto& sum1, auto& sum2) NORMSCOPE_LAMBDA {
        const auto from = table.at(centre, j);
        auto first = zero<A>(), second = zero<A>();
        each<decltype(together){}>([&](auto r) NORMSCOPE_LAMBDA {
            const E *at = top.x + (row + r) * pitch + j, *dy = top.dy + (row + r) * pitch + j;
            fetch(at, kFetchAhead / int64_t(sizeof(E)));
            fetch(dy, kFetchAhead / int64_t(sizeof(E)));
            const auto x = load(at, extent);
            const auto g = Gate::pass(load(dy, extent), x, table, below, j, top.mask + 2 * (row + r) * words, j);
            first = first + g;
            second = multiply_add(g, x - from, second);
        });
        sum1 = sum1 + first, sum2 = sum2 + second;
    });
}

template <class E, class Gate>
void backward_block(const View<E>& view, int64_t first, int64_t channels, int64_t ahead) {
    using A = Compute<E>;
    const Job& job = view.job;
    const int64_t width = channels * job.inner;
    Scratch scratch(ColumnSums<A>::bytes(width) + table_bytes<A>(width));
    Table<A> table = table_of<A>(scratch, width);
    fill_blocks(table, channels, job.inner, [&](int64_t c) { return forward_numbers<A>(job, first + c); });
    if ((job.phases & statistics) && job.inner >= kShortPlane) {
        for (int64_t c = first; c < first + channels; ++c) {
            Uniform<A> numbers;
            numbers.set(forward_numbers<A>(job, c));
            const Run<E> run = view.short_plane(0, c);
            const Sums sums = short_products<E, Gate>(run, view.step(), job.batch, numbers, job.slope);
            keep_sums<A>(job, c, sums.first, sums.second);
        }
    } else if (job.phases & statistics) {
        ColumnSums<A> sums(scratch, width);
        add_rows<E, Gate>(sums, view, view.block(0, first, width), job.batch, table);
        for (int64_t c = 0; c < channels; ++c) {
            Sums total;
            for (int64_t j = c * job.inner; j < (c + 1) * job.inner; ++j) {
                total.first += sums.wide1[j];
                total.second += sums.wide2[j];
            }
            keep_sums<A>(job, first + c, total.first, total.second);
        }
    }
    if (!(job.phases & apply)) return;
    fill_blocks(table, channels, job.inner, [&](int64_t c) { return backward_numbers<A>(job, first + c); });
    bundled<kRows>(0, job.batch, [&](int64_t n, auto rows) {
        const Run<E> run = view.block(n, first, width);
        differentiate_rows<decltype(rows){}, E, Gate>(run, view.step(), table, job, {view.past_caches(), ahead});
    });
}

template <class E, class Gate>
void backward_blocks(const View<E>& view, const Member& me) {
    const int64_t blocks = ceil_div(view.job.channels, view.layout.group);
    for (int64_t b = me.begin(blocks); b < me.end(blocks); ++b) {
        const int64_t first = b * view.layout.group, ahead = b + 1 < me.end(blocks) ? view.layout.width : 0;
        backward_block<E, Gate>(view, first, least_of(view.layout.group, view.job.channels - first), ahead);
    }
}

template <class E, class Gate>
void row_sums(const View<E>& view, const Member& me, const Table<Compute<E>>& table, Sums* partial) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    Scratch scratch(ColumnSums<A>::bytes(layout.width));
    ColumnSums<A> sums(scratch, layout.width);
    const int64_t first = me.begin(layout.rows), last = me.end(layout.rows);
    add_rows<E, Gate>(sums, view, view.row(first, layout.width), last - first, table);
    if (layout.rest && me.rank == me.size - 1) {
        sums.width = layout.rest;
        add_rows<E, Gate>(sums, view, view.row(layout.rows, layout.rest), 1, table);
        sums.width = layout.width;
    }
    Sums* mine = partial + me.rank * job.channels;
    for (int64_t c = 0; c < job.channels; ++c) mine[c] = {};
    for (int64_t j = 0; j < layout.width; ++j) {
        mine[j % job.channels].first += sums.wide1[j];
        mine[j % job.channels].second += sums.wide2[j];
    }
    share_sums<A>(job, me, partial);
}

template <class E, class Gate>
void backward_rows(const View<E>& view, const Member& me, Sums* partial) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    Scratch scratch(table_bytes<A>(layout.width));
    Table<A> table = table_of<A>(scratch, layout.width);
    fill_rows(table, job.channels, layout.group, [&](int64_t c) { return forward_numbers<A>(job, c); });
    if (job.phases & statistics) row_sums<E, Gate>(view, me, table, partial);
    if (!(job.phases & apply)) return;
    fill_rows(table, job.channels, layout.group, [&](int64_t c) { return backward_numbers<A>(job, c); });
    const Traffic traffic{view.past_caches(), kApplyAhead / int64_t(sizeof(E))};
    if (layout.rest && me.rank == me.size - 1) {
        differentiate_rows<1, E, Gate>(view.row(layout.rows, layout.rest), {}, table, job, traffic);
    }
    latest_first(view, me, [&](int64_t r, auto rows) {
        differentiate_rows<decltype(rows){}, E, Gate>(view.row(r, layout.width), view.step(), table, job, traffic);
    });
}

template <class E, class Gate>
void backward(const Job& job) {
    const View<E> view{job, layout_of(job)};
    const bool few = view.layout.cut == Cut::planes && job.channels < 4 * job.threads && job.batch > 1;
    Scratch scratch(job.threads * job.channels * int64_t(sizeof(Sums)));
    Sums* partial = scratch.take<Sums>(job.threads * job.channels);
    in_team(job.threads, [&](const Member& me) {
        if (few) backward_few_planes<E, Gate>(view, me, partial);
        else if (view.layout.cut == Cut::planes) backward_planes<E, Gate>(view, me);
        else if (view.layout.cut == Cut::blocks) backward_blocks<E, Gate>(view, me);
        else backward_rows<E, Gate>(view, me, partial);
        if (view.past_caches()) stream_fence();
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
