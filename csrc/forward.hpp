// The forward: moments, then normalization, residual and activation.
#pragma once

#include "columns.hpp"
#include "planes.hpp"
#include "short.hpp"
#include "team.hpp"
#include "views.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Bytes of a stretch of rows that is walked in rising order.
constexpr int64_t kStretch = int64_t(1) << 18;

inline void keep(const Job& job, int64_t c, const Running& running) {
    job.mean[c] = running.mean;
    job.m2[c] = running.m2;
}

template <class E, class Act>
void normalize_planes(const View<E>& view, int64_t channel, int64_t first, int64_t last, Traffic traffic) {
    Uniform<Compute<E>> numbers;
    numbers.set(forward_numbers<Compute<E>>(view.job, channel));
    for (int64_t n = first; n < last; ++n) {
        normalize_rows<1, E, Act>(view.plane(n, channel), {}, numbers, view.job.slope, traffic);
    }
}

template <class E>
Running plane_moments(const View<E>& view, int64_t channel, int64_t first, int64_t last) {
    PlaneMoments<E> moments;
    for (int64_t n = first; n < last; ++n) {
        const Run<E> run = view.plane(n, channel);
        moments.add(run.x, run.phase, run.length);
    }
    return moments.result();
}

template <class E, class Act>
void forward_planes(const View<E>& view, const Member& me) {
    const Job& job = view.job;
    const int64_t last = me.end(job.channels);
    for (int64_t c = me.begin(job.channels); c < last; ++c) {
        if (job.phases & statistics) {
            keep(job, c, plane_moments(view, c, 0, job.batch));
        }
        const bool more = (job.phases & statistics) && c + 1 < last;
        const Traffic traffic{view.past_caches(), more ? view.layout.width : 0};
        if (job.phases & apply) normalize_planes<E, Act>(view, c, 0, job.batch, traffic);
    }
}

// Few channels: the samples are shared out instead, and the threads' moments merged.
template <class E, class Act>
void forward_few_planes(const View<E>& view, const Member& me, Running* partial) {
    const Job& job = view.job;
    const int64_t first = me.begin(job.batch), last = me.end(job.batch);
    if (job.phases & statistics) {
        for (int64_t c = 0; c < job.channels; ++c) {
            partial[me.rank * job.channels + c] = plane_moments(view, c, first, last);
        }
        me.wait();
        for (int64_t c = me.begin(job.channels); c < me.end(job.channels); ++c) {
            Running total;
            for (int rank = 0; rank < me.size; ++rank) {
                const Running& part = partial[rank * job.channels + c];
                total.merge(part.count, part.mean, part.m2);
            }
            keep(job, c, total);
        }
        me.wait();
    }
    if (!(job.phases & apply)) return;
    for (int64_t c = 0; c < job.channels; ++c) {
        normalize_planes<E, Act>(view, c, first, last, {view.past_caches(), 0});
    }
}

// The columns of a channel together: `step` columns apart, from `column` on.
template <class A>
Running merged_columns(const ColumnMoments<A>& moments, int64_t column, int64_t step, int64_t number) {
    Running total;
    if (!moments.count) return total;
    const double* mean = moments.mean + column;
    double centre = 0, m2 = 0;
    for (int64_t k = 0; k < number; ++k) centre += mean[k * step] - mean[0];
    centre = mean[0] + centre / double(number);
    for (int64_t k = 0; k < number; ++k) {
        const double gap = mean[k * step] - centre;
        m2 += moments.m2[column + k * step] + double(moments.count) * gap * gap;
    }
    total.merge(double(moments.count * number), centre, m2);
    return total;
}

// What lies past the last column is read and never written anywhere.
template <class A>
Table<A> table_of(Scratch& scratch, int64_t width) {
    Table<A> table;
    for (auto& value : table.value) value = scratch.take<A>(padded_width(width) + Pack<A>::lanes);
    return table;
}

// A channel's numbers for each of its columns, which are the `inner` that follow each other in a row of short planes. What
// is written past them, the next channel or the padding takes.
template <class A, class NumbersOf>
void fill_blocks(Table<A>& table, int64_t channels, int64_t inner, NumbersOf&& numbers_of) {
    for (int64_t c = 0; c < channels; ++c) {
        const auto numbers = numbers_of(c);
        for (int64_t k = 0; k < inner; k += Pack<A>::lanes) table.set_pack(c * inner + k, numbers);
    }
}

// A channel's numbers for each of its columns, which come once in every position of a row.
template <class A, class NumbersOf>
void fill_rows(Table<A>& table, int64_t channels, int64_t positions, NumbersOf&& numbers_of) {
    for (int64_t c = 0; c < channels; ++c) {
        const auto numbers = numbers_of(c);
        for (int64_t k = 0; k < positions; ++k) table.set(c + k * channels, numbers);
    }
}

template <class A>
int64_t table_bytes(int64_t width) {
    return kNumbers * (padded_width(width) * int64_t(sizeof(A)) + 2 * kPack);
}

template <class E, class Act>
void forward_block(const View<E>& view, int64_t first, int64_t channels, int64_t ahead) {
    using A = Compute<E>;
    const Job& job = view.job;
    const int64_t width = channels * job.inner;
    Scratch scratch(ColumnMoments<A>::bytes(width) + table_bytes<A>(width));
    if ((job.phases & statistics) && job.inner >= kShortPlane) {
        for (int64_t c = first; c < first + channels; ++c) {
            keep(job, c, short_moments(view.short_plane(0, c).x, job.batch, view.layout.pitch, job.inner));
        }
    } else if (job.phases & statistics) {
        ColumnMoments<A> moments(scratch, width);
        moments.add(view.block(0, first, width).x, job.batch, view.layout.pitch);
        for (int64_t c = 0; c < channels; ++c) {
            keep(job, first + c, merged_columns(moments, c * job.inner, 1, job.inner));
        }
    }
    if (!(job.phases & apply)) return;
    Table<A> table = table_of<A>(scratch, width);
    fill_blocks(table, channels, job.inner, [&](int64_t c) { return forward_numbers<A>(job, first + c); });
    bundled<kRows>(0, job.batch, [&](int64_t n, auto rows) {
        const Run<E> run = view.block(n, first, width);
        normalize_rows<decltype(rows){}, E, Act>(run, view.step(), table, job.slope, {view.past_caches(), ahead});
    });
}

template <class E, class Act>
void forward_blocks(const View<E>& view, const Member& me) {
    const int64_t blocks = ceil_div(view.job.channels, view.layout.group);
    for (int64_t b = me.begin(blocks); b < me.end(blocks); ++b) {
        const int64_t first = b * view.layout.group, ahead = b + 1 < me.end(blocks) ? view.layout.width : 0;
        forward_block<E, Act>(view, first, least_of(view.layout.group, view.job.channels - first), ahead);
    }
}

template <class E>
void row_moments(const View<E>& view, const Member& me, Running* partial) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    const int64_t first = me.begin(layout.rows), last = me.end(layout.rows);
    Scratch scratch(ColumnMoments<A>::bytes(layout.width));
    ColumnMoments<A> moments(scratch, layout.width);
    moments.add(view.row(first, layout.width).x, last - first, layout.pitch);
    for (int64_t c = 0; c < job.channels; ++c) {
        partial[me.rank * job.channels + c] = merged_columns(moments, c, job.channels, layout.group);
    }
    if (me.rank == me.size - 1) {
        const E* x = view.row(layout.rows, layout.rest).x;
        for (int64_t j = 0; j < layout.rest; ++j) {
            partial[me.rank * job.channels + j % job.channels].merge(1, double(load(x + j, Part{1}).part[0][0]), 0);
        }
    }
    me.wait();
    for (int64_t c = me.begin(job.channels); c < me.end(job.channels); ++c) {
        Running total;
        for (int rank = 0; rank < me.size; ++rank) {
            const Running& part = partial[rank * job.channels + c];
            total.merge(part.count, part.mean, part.m2);
        }
        keep(job, c, total);
    }
    me.wait();
}

// The rows whose statistics were taken last are still in the cache and come first, in stretches long enough for the
// machine's own prefetching.
template <class E, class Body>
void latest_first(const View<E>& view, const Member& me, Body&& body) {
    const int64_t first = me.begin(view.layout.rows), last = me.end(view.layout.rows);
    const int64_t stretch = 1 + kStretch / (view.layout.width * int64_t(sizeof(E)));
    for (int64_t end = last; end > first; end -= stretch) {
        bundled<kRows>(end - stretch < first ? first : end - stretch, end, body);
    }
}

template <class E, class Act>
void forward_rows(const View<E>& view, const Member& me, Running* partial) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    if (job.phases & statistics) row_moments(view, me, partial);
    if (!(job.phases & apply)) return;
    Scratch scratch(table_bytes<A>(layout.width));
    Table<A> table = table_of<A>(scratch, layout.width);
    fill_rows(table, job.channels, layout.group, [&](int64_t c) { return forward_numbers<A>(job, c); });
    const Traffic traffic{view.past_caches(), kApplyAhead / int64_t(sizeof(E))};
    if (layout.rest && me.rank == me.size - 1) {
        normalize_rows<1, E, Act>(view.row(layout.rows, layout.rest), {}, table, job.slope, traffic);
    }
    latest_first(view, me, [&](int64_t r, auto rows) {
        normalize_rows<decltype(rows){}, E, Act>(view.row(r, layout.width), view.step(), table, job.slope, traffic);
    });
}

template <class E, class Act>
void forward(const Job& job) {
    const View<E> view{job, layout_of(job)};
    const bool few = view.layout.cut == Cut::planes && job.channels < 4 * job.threads && job.batch > 1;
    Scratch scratch(job.threads * job.channels * int64_t(sizeof(Running)));
    Running* partial = scratch.take<Running>(job.threads * job.channels);
    in_team(job.threads, [&](const Member& me) {
        if (few) forward_few_planes<E, Act>(view, me, partial);
        else if (view.layout.cut == Cut::planes) forward_planes<E, Act>(view, me);
        else if (view.layout.cut == Cut::blocks) forward_blocks<E, Act>(view, me);
        else forward_rows<E, Act>(view, me, partial);
        if (view.past_caches()) stream_fence();
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
