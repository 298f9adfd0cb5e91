// The forward: moments, then normalization, residual and activation.
#pragma once

#include "blocks.hpp"
#include "planes.hpp"
#include "rows.hpp"
#include "team.hpp"
#include "views.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Bytes of a stretch of rows that is walked in rising order.
constexpr int64_t kStretch = int64_t(1) << 20;

template <class E>
Uniform<Compute<E>> forward_uniform(const Job& job, int64_t channel) {
    Uniform<Compute<E>> numbers;
    numbers.set(forward_numbers<Compute<E>>(job, channel));
    return numbers;
}

template <class E, class Act>
void normalize_planes(const View<E>& view, int64_t channel, int64_t first, int64_t last, Traffic traffic) {
    const auto numbers = forward_uniform<E>(view.job, channel);
    for (int64_t n = first; n < last; ++n) {
        normalize_rows<1, E, Act>(view.plane(n, channel), {}, 1, numbers, view.job.slope, traffic);
    }
}

// The plane cut into packs where the one before is, beside which it is added up; when it is added up alone as well, so that
// a channel's moments come out the same. Its `mask` does not fit this phase.
template <class E>
Run<E> beside_previous(const View<E>& view, int64_t sample, int64_t channel) {
    Run<E> run = view.plane(sample, channel);
    run.phase = (run.phase + kLongestLine - view.layout.width % kLongestLine) % kLongestLine;
    return run;
}

template <class E>
Running plane_moments(const View<E>& view, int64_t channel, int64_t first, int64_t last) {
    PlaneMoments<E> moments;
    for (int64_t n = first; n < last; ++n) add_pieces(beside_previous(view, n, channel), moments);
    return moments.result();
}

// How far it is from element `begin` of a plane to what is fetched meanwhile: a little ahead in the next channel.
template <class E>
int64_t ahead_in_next(const View<E>& view, int64_t sample, int64_t begin) {
    const int64_t width = view.layout.width, target = begin + elements<E>(kAppliedAhead);
    const int64_t planes = sample + target / width, channels = 1 + planes / view.job.batch;
    return (planes % view.job.batch - sample) * view.layout.pitch + channels * width + target % width - begin;
}

// Normalizes a channel and returns the moments of the next: what must be read for these comes from memory while the former
// is written to it.
template <class E, class Act>
Running normalize_and_gather(const View<E>& view, int64_t channel) {
    const auto numbers = forward_uniform<E>(view.job, channel);
    PlaneMoments<E> moments;
    for (int64_t n = 0; n < view.job.batch; ++n) {
        const Run<E> here = view.plane(n, channel), next = beside_previous(view, n, channel + 1);
        for (int64_t k = 0; k < pieces(here); ++k) {
            const Run<E> part = piece(here, k);
            const Traffic traffic{view.past_caches(), ahead_in_next(view, n, part.x - here.x)};
            moments.template add_beside<Act>(piece(next, k), part, numbers, view.job.slope, traffic);
        }
    }
    return moments.result();
}

template <class E, class Act>
void forward_planes(const View<E>& view, const Member& me) {
    const Job& job = view.job;
    const int64_t last = me.end(job.channels);
    const bool both = (job.phases & statistics) && (job.phases & apply);
    bool known = !(job.phases & statistics);
    for (int64_t c = me.begin(job.channels); c < last; ++c) {
        if (!known) keep(job, c, plane_moments(view, c, 0, job.batch));
        if (both && c + 1 < last) {
            keep(job, c + 1, normalize_and_gather<E, Act>(view, c));
            known = true;
        } else if (job.phases & apply) {
            normalize_planes<E, Act>(view, c, 0, job.batch, {view.past_caches(), 0});
        }
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

// While a block is written, the channels of the next one are summed by turns, and the one after that is fetched: neither has
// to wait for the other.
template <class E, class Act>
void forward_blocks(const View<E>& view, const Member& me) {
    const Job& job = view.job;
    const int64_t group = view.layout.group, blocks = ceil_div(job.channels, group), last = me.end(blocks);
    const auto channels_of = [&](int64_t b) { return least_of(group, job.channels - b * group); };
    const bool both = (job.phases & statistics) && (job.phases & apply), by_turns = both && job.inner >= kShortPlane;
    const int64_t fetched = by_turns ? 2 : 1;
    bool known = !(job.phases & statistics);
    for (int64_t b = me.begin(blocks); b < last; ++b) {
        if (!known) gather_block(view, b * group, 0, channels_of(b));
        if (!(job.phases & apply)) continue;
        const int64_t ahead = both && b + fetched < last ? fetched * view.layout.width : 0;
        int64_t gathered = 0;
        normalize_block<E, Act>(view, b * group, channels_of(b), ahead, [&](int64_t rows) {
            if (!by_turns || b + 1 == last) return;
            const int64_t due = channels_of(b + 1) * rows / job.batch;
            gather_block(view, (b + 1) * group, gathered, due);
            gathered = due;
        });
        known = by_turns || !(job.phases & statistics);
    }
}

// Positions whose rows are a thread's.
template <class E>
double positions_of(const View<E>& view, const Member& who) {
    const Layout& layout = view.layout;
    const int64_t rest = who.rank == who.size - 1 ? layout.rest / view.job.channels : 0;
    return double((who.end(layout.rows) - who.begin(layout.rows)) * layout.group + rest);
}

template <class E>
void row_moments(const View<E>& view, const Member& me, double* memory) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    const int64_t channels = job.channels, first = me.begin(layout.rows), last = me.end(layout.rows);
    const int64_t width = summed_width<A>(layout.width, channels), rows = (last - first) * (layout.width / width);
    Scratch scratch(ColumnMoments<A>::bytes(width) + 2 * Scratch::padded<double>(channels));
    ColumnMoments<A> moments(scratch, width);
    const E* top = view.row(first, layout.width).x;
    in_way<A>(width, view.streamed(1), [&](auto way) {
        using W = decltype(way);
        moments.template add<kMomentRows<E, W>, W::streamed, W::held>(
            top, rows, width, view.summed_ahead(1, kFetchesItself<E, W::held>));
    });
    const Found mine(memory, channels, me.rank);
    channel_moments(moments, channels, width / channels, mine);
    if (layout.rest && me.rank == me.size - 1) {
        double *value = scratch.take<double>(channels), *nothing = scratch.take_zeroed<double>(channels);
        const E* x = view.row(layout.rows, layout.rest).x;
        double count = double((last - first) * layout.group);
        for (int64_t j = 0; j < layout.rest; j += channels) {
            for (int64_t c = 0; c < channels; ++c) value[c] = double(load(x + j + c, Part{1}).part[0][0]);
            pool_all(count, mine.first, mine.second, 1, value, nothing, 0, channels);
            count += 1;
        }
    }
    me.wait();
    double count = 0;
    const int64_t begin = me.begin(channels), end = me.end(channels);
    for (int64_t c = begin; c < end; ++c) job.mean[c] = job.m2[c] = 0;
    for (int rank = 0; rank < me.size; ++rank) {
        const Found part(memory, channels, rank);
        const double positions = positions_of(view, Member{rank, me.size});
        if (positions) pool_all(count, job.mean, job.m2, positions, part.first, part.second, begin, end);
        count += positions;
    }
    me.wait();
}

// The rows whose statistics were taken last are still in the cache and come first, in stretches long enough for the
// machine's own prefetching, which one row after the other suits best.
template <class E, class Body>
void latest_first(const View<E>& view, const Member& me, Body&& body) {
    const int64_t first = me.begin(view.layout.rows), last = me.end(view.layout.rows);
    const int64_t stretch = 1 + elements<E>(kStretch) / view.layout.width;
    for (int64_t end = last; end > first; end -= stretch) {
        const int64_t begin = end - stretch < first ? first : end - stretch;
        body(view.row(begin, view.layout.width), end - begin);
    }
}

template <class E, class Act>
void forward_rows(const View<E>& view, const Member& me, double* partial) {
    using A = Compute<E>;
    const Job& job = view.job;
    const Layout& layout = view.layout;
    if (job.phases & statistics) row_moments(view, me, partial);
    if (!(job.phases & apply)) return;
    Scratch scratch(table_bytes<A>(layout.width));
    const Table<A> table = table_of<A>(scratch, layout.width);
    fill_forward(table, job, layout.group);
    const Traffic traffic{view.past_caches(), view.ahead()};
    if (layout.rest && me.rank == me.size - 1) {
        normalize_rows<1, E, Act>(view.row(layout.rows, layout.rest), {}, 1, table, job.slope, traffic);
    }
    latest_first(view, me, [&](const Run<E>& top, int64_t rows) {
        normalize_rows<1, E, Act>(top, view.step(), rows, table, job.slope, traffic);
    });
}

template <class E, class Act>
void forward(const Job& job) {
    const View<E> view{job, layout_of(job)};
    const bool few = view.layout.cut == Cut::planes && job.channels < 4 * job.threads && job.batch > 1;
    const int64_t shares = job.threads * job.channels;
    Scratch scratch(Scratch::padded<Running>(shares) + Scratch::padded<double>(2 * shares));
    Running* running = scratch.take<Running>(shares);
    double* found = scratch.take<double>(2 * shares);
    in_team(job.threads, [&](const Member& me) {
        if (few) forward_few_planes<E, Act>(view, me, running);
        else if (view.layout.cut == Cut::planes) forward_planes<E, Act>(view, me);
        else if (view.layout.cut == Cut::blocks) forward_blocks<E, Act>(view, me);
        else forward_rows<E, Act>(view, me, found);
        if (view.past_caches()) stream_fence();
    });
}

}  // namespace normscope::NORMSCOPE_LEVEL
