// Per-channel arithmetic, in float64: merging moments, and the numbers that the element-wise passes multiply and add.
#pragma once

#include "job.hpp"
#include "simd.hpp"

namespace normscope::NORMSCOPE_LEVEL {

inline int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Chan, Golub & LeVeque (1979): adds the moments of other values. `share` is their part of all values, `between` what there
// were before times that.
NORMSCOPE_INLINE void pool(
    double& mean, double& m2, double other_mean, double other_m2, double share, double between) {
    const double delta = other_mean - mean;
    m2 += other_m2 + delta * (delta * between);  // in this order it is 0 where there were none before
    mean += delta * share;
}

// Count, mean and sum of squared deviations.
struct Running {
    double count = 0, mean = 0, m2 = 0;

    void merge(double other_count, double other_mean, double other_m2) {
        if (other_count == 0) return;
        const double share = other_count / (count + other_count);
        pool(mean, m2, other_mean, other_m2, share, count * share);
        count += other_count;
    }

    // A sample of `other_count` values given by its sums of (x - pivot) and (x - pivot)^2.
    void merge_sums(double other_count, double pivot, double first, double second) {
        const double delta = first / other_count, within = second - first * delta;
        merge(other_count, pivot + delta, within < 0 ? 0 : within);  // keeps a NaN
    }
};

struct Sums {
    double first = 0, second = 0;

    void add(const Sums& other) { first += other.first, second += other.second; }
};

// y = (x - centre) * scale + shift: the mean's part that the compute type cannot hold is in the shift.
template <class A>
struct Forward {
    A centre, scale, shift;
};

// dx = dy * dy_gain + (x - centre) * x_gain + offset.
template <class A>
struct Backward {
    A dy_gain, x_gain, offset;
};

template <class A>
double number_at(const void* values, int64_t i, double otherwise) {
    return values ? double(static_cast<const A*>(values)[i]) : otherwise;
}

NORMSCOPE_INLINE double inverse_deviation(double m2, double count, double eps) {
    return 1 / __builtin_sqrt(m2 / count + eps);
}

// Every NaN as the one whose low half is 0: see `rounded`.
template <class A>
A settled(double value) {
    return value == value ? A(value) : A(__builtin_nan(""));
}

// What the numbers of a channel are made of.
struct Channel {
    double mean, m2, gamma, beta, sum_dy, sum_dy_x;
};

template <class A>
NORMSCOPE_INLINE Forward<A> forward_numbers(const Channel& c, double count, double eps) {
    const double scale = c.gamma * inverse_deviation(c.m2, count, eps);
    const A centre = settled<A>(c.mean);
    return {centre, settled<A>(scale), settled<A>(c.beta - (c.mean - double(centre)) * scale)};
}

template <class A>
NORMSCOPE_INLINE Backward<A> backward_numbers(const Channel& c, double count, double eps) {
    const double inverse = inverse_deviation(c.m2, count, eps), gain = c.gamma * inverse;
    const double low = c.mean - double(A(c.mean)), x_gain = -gain * inverse * c.sum_dy_x / count;
    return {settled<A>(gain), settled<A>(x_gain), settled<A>(-gain * c.sum_dy / count - x_gain * low)};
}

template <class A>
Channel channel_at(const Job& job, int64_t c) {
    Channel channel{job.mean[c], job.m2[c], number_at<A>(job.weight, c, 1), number_at<A>(job.bias, c, 0), 0, 0};
    if (job.batch_statistics) channel.sum_dy = job.sum_dy[c], channel.sum_dy_x = job.sum_dy_x[c];
    return channel;
}

template <class A>
Forward<A> forward_numbers(const Job& job, int64_t c) {
    return forward_numbers<A>(channel_at<A>(job, c), job.count, job.eps);
}

template <class A>
Backward<A> backward_numbers(const Job& job, int64_t c) {
    return backward_numbers<A>(channel_at<A>(job, c), job.count, job.eps);
}

// dgamma from the sums of dy and dy * (x - centre).
template <class A>
NORMSCOPE_INLINE double dgamma(double mean, double m2, double count, double eps, double sum_dy, double sum_dy_centred) {
    const double low = mean - double(A(mean));
    return (sum_dy_centred - low * sum_dy) * inverse_deviation(m2, count, eps);
}

// The sums of dy and dy * (x - centre) become dbeta and dgamma.
template <class A>
void keep_sums(const Job& job, int64_t c, const Sums& sums) {
    job.sum_dy[c] = sums.first;
    job.sum_dy_x[c] = dgamma<A>(job.mean[c], job.m2[c], job.count, job.eps, sums.first, sums.second);
}

inline void keep(const Job& job, int64_t c, const Running& running) {
    job.mean[c] = running.mean;
    job.m2[c] = running.m2;
}

}  // namespace normscope::NORMSCOPE_LEVEL
