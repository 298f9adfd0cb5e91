// Rows that hold every channel, `group` times: the statistics of the channels from the sums down the columns, and the
// channels' numbers in a table. All in arrays with an entry per channel, so that many channels are worked on at once.
#pragma once

#include "columns.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// What a thread found of every channel: mean and m2, or two sums.
struct Found {
    double *first, *second;

    Found(double* memory, int64_t channels, int rank)
        : first(memory + 2 * channels * rank), second(first + channels) {}
};

template <class A>
void channel_moments(const ColumnMoments<A>& moments, int64_t channels, int64_t group, const Found& to) {
    const double count = double(moments.count), share = 1 / double(group);
    double *mean = to.first, *m2 = to.second;
    const double *means = moments.mean, *m2s = moments.m2;
    NORMSCOPE_SIMD
    for (int64_t c = 0; c < channels; ++c) mean[c] = m2[c] = 0;
    for (int64_t k = channels; k < group * channels; k += channels) {
        NORMSCOPE_SIMD
        for (int64_t c = 0; c < channels; ++c) mean[c] += means[c + k] - means[c];
    }
    NORMSCOPE_SIMD
    for (int64_t c = 0; c < channels; ++c) mean[c] = means[c] + mean[c] * share;
    for (int64_t k = 0; k < group * channels; k += channels) {
        NORMSCOPE_SIMD
        for (int64_t c = 0; c < channels; ++c) {
            const double gap = means[c + k] - mean[c];
            m2[c] += m2s[c + k] + count * gap * gap;
        }
    }
}

// `pool` for channels that all have as many values.
inline void pool_all(
    double count, double* mean, double* m2, double other_count, const double* other_mean, const double* other_m2,
    int64_t first, int64_t last) {
    const double share = other_count / (count + other_count), between = count * share;
    NORMSCOPE_SIMD
    for (int64_t c = first; c < last; ++c) pool(mean[c], m2[c], other_mean[c], other_m2[c], share, between);
}

template <class A>
void channel_sums(const ColumnSums<A>& sums, int64_t channels, int64_t group, const Found& to) {
    double *first = to.first, *second = to.second;
    const double *wide1 = sums.wide1, *wide2 = sums.wide2;
    NORMSCOPE_SIMD
    for (int64_t c = 0; c < channels; ++c) first[c] = wide1[c], second[c] = wide2[c];
    for (int64_t k = channels; k < group * channels; k += channels) {
        NORMSCOPE_SIMD
        for (int64_t c = 0; c < channels; ++c) first[c] += wide1[c + k], second[c] += wide2[c + k];
    }
}

// Calls body with a function that gives the parameter of a channel: beforehand, whether there are parameters is known.
template <class A, class Body>
NORMSCOPE_INLINE void with_parameter(const void* values, double otherwise, Body&& body) {
    const A* from = static_cast<const A*>(values);
    if (from) body([from](int64_t c) NORMSCOPE_LAMBDA { return double(from[c]); });
    else body([otherwise](int64_t) NORMSCOPE_LAMBDA { return otherwise; });
}

// What is in the first `channels` entries, again for the other positions of a row.
template <class A>
void repeat(const Table<A>& table, Number first, Number last, int64_t channels, int64_t group) {
    for (int number = first; number <= last; ++number) {
        for (int64_t k = 1; k < group; ++k) {
            __builtin_memcpy(table.value[number] + k * channels, table.value[number], size_t(channels) * sizeof(A));
        }
    }
}

template <class A>
void fill_forward(const Table<A>& table, const Job& job, int64_t group) {
    const int64_t channels = job.channels;
    const double count = job.count, eps = job.eps, *mean = job.mean, *m2 = job.m2;
    A *to_centre = table.value[centre], *to_scale = table.value[scale], *to_shift = table.value[shift];
    with_parameter<A>(job.weight, 1, [&](auto gamma) {
        with_parameter<A>(job.bias, 0, [&](auto beta) {
            NORMSCOPE_SIMD
            for (int64_t c = 0; c < channels; ++c) {
                const auto n = forward_numbers<A>(Channel{mean[c], m2[c], gamma(c), beta(c), 0, 0}, count, eps);
                to_centre[c] = n.centre, to_scale[c] = n.scale, to_shift[c] = n.shift;
            }
        });
    });
    repeat(table, centre, shift, channels, group);
}

template <class A>
void fill_backward(const Table<A>& table, const Job& job, int64_t group) {
    const int64_t channels = job.channels;
    const double count = job.count, eps = job.eps, *mean = job.mean, *m2 = job.m2;
    const double *sum_dy = job.sum_dy, *sum_dy_x = job.sum_dy_x;
    A *to_dy_gain = table.value[dy_gain], *to_x_gain = table.value[x_gain], *to_offset = table.value[offset];
    with_parameter<A>(job.weight, 1, [&](auto gamma) {
        NORMSCOPE_SIMD
        for (int64_t c = 0; c < channels; ++c) {
            const Channel channel{mean[c], m2[c], gamma(c), 0, sum_dy[c], sum_dy_x[c]};
            const auto n = backward_numbers<A>(channel, count, eps);
            to_dy_gain[c] = n.dy_gain, to_x_gain[c] = n.x_gain, to_offset[c] = n.offset;
        }
    });
    repeat(table, dy_gain, offset, channels, group);
}

}  // namespace normscope::NORMSCOPE_LEVEL
