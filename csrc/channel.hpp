// Per-channel arithmetic, in float64: merging moments, and the numbers that the element-wise passes multiply and add.
#pragma once

#include "job.hpp"
#include "simd.hpp"

namespace normscope::NORMSCOPE_LEVEL {

inline int64_t least_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Count, mean and sum of squared deviations, merged by Chan, Golub & LeVeque (1979).
struct Running {
    double count = 0, mean = 0, m2 = 0;

    void merge(double other_count, double other_mean, double other_m2) {
        if (other_count == 0) return;
        const double total = count + other_count, delta = other_mean - mean, share = other_count / total;
        m2 += other_m2 + delta * delta * count * share;
        mean += delta * share;
        count = total;
    }

    // A sample of `other_count` values given by its sums of (x - pivot) and (x - pivot)^2.
    void merge_sums(double other_count, double pivot, double first, double second) {
        const double delta = first / other_count, within = second - first * delta;
        merge(other_count, pivot + delta, within < 0 ? 0 : within);  // keeps a NaN
    }
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

inline double number_at(const void* values, Dtype dtype, int64_t i, double otherwise) {
    if (!values) return otherwise;
    return dtype == Dtype::float64 ? static_cast<const double*>(values)[i] : static_cast<const float*>(values)[i];
}

inline double inverse_deviation(const Job& job, int64_t c) {
    return 1 / __builtin_sqrt(job.m2[c] / job.count + job.eps);
}

// Every NaN as the one whose low half is 0: see `rounded`.
template <class A>
A settled(double value) {
    return value == value ? A(value) : A(__builtin_nan(""));
}

template <class A>
Forward<A> forward_numbers(const Job& job, int64_t c) {
    const double scale = number_at(job.weight, job.dtype, c, 1) * inverse_deviation(job, c);
    const A centre = settled<A>(job.mean[c]);
    const double low = job.mean[c] - double(centre);
    return {centre, settled<A>(scale), settled<A>(number_at(job.bias, job.dtype, c, 0) - low * scale)};
}

template <class A>
Backward<A> backward_numbers(const Job& job, int64_t c) {
    const double inverse = inverse_deviation(job, c);
    const double gain = number_at(job.weight, job.dtype, c, 1) * inverse;
    if (!job.batch_statistics) return {settled<A>(gain), 0, 0};
    const double low = job.mean[c] - double(A(job.mean[c]));
    const double x_gain = -gain * inverse * job.sum_dy_x[c] / job.count;
    return {settled<A>(gain), settled<A>(x_gain), settled<A>(-gain * job.sum_dy[c] / job.count - x_gain * low)};
}

// The sums of dy and dy * (x - centre) become dbeta and dgamma.
template <class A>
void keep_sums(const Job& job, int64_t c, double sum_dy, double sum_dy_centred) {
    const double low = job.mean[c] - double(A(job.mean[c]));
    job.sum_dy[c] = sum_dy;
    job.sum_dy_x[c] = (sum_dy_centred - low * sum_dy) * inverse_deviation(job, c);
}

}  // namespace normscope::NORMSCOPE_LEVEL
