// What Python asks of the kernels: plain numbers and addresses, the same for every instruction-set level.
#pragma once

#include <cstdint>

namespace normscope {

enum class Dtype : int { float32, bfloat16, float64 };

enum class Activation : int { none, relu, relu6, leaky_relu, silu };

// Both halves in one call keep a channel in cache between them; a collective can slot between two calls.
enum Phase : int { statistics = 1, apply = 2 };

// Forward:   statistics  x -> mean, m2                   apply  y = activation((x - mean) * scale + beta + residual)
// Backward:  statistics  dy, x -> sum_dy, sum_dy_x       apply  dx, dresidual
// Per-channel numbers are float64; weight and bias have the type the kernel computes in.
struct Job {
    Dtype dtype;
    int64_t batch, channels, inner;  // inner: the product of the spatial dimensions
    bool channels_last;
    int threads;
    int phases;

    const void* x;
    const void* dy;
    const void* residual;  // null where there is none
    void* out;             // y or dx
    void* dresidual;       // null where it is not wanted
    void* mask;            // one bit per element: written by the forward of a residual, read by its backward; or null

    const void* weight;  // null for 1
    const void* bias;    // null for 0
    double eps;
    double count;  // what m2 is divided by: values per channel, or 1 where m2 holds running variances
    double* mean;
    double* m2;
    double* sum_dy;    // dbeta
    double* sum_dy_x;  // dgamma: dy times the normalized x

    bool batch_statistics;  // backward: whether mean and m2 depend on x
    Activation activation;
    double slope;  // of leaky ReLU below zero
};

struct Level {
    const char* name;
    void (*forward)(const Job&);
    void (*backward)(const Job&);
};

}  // namespace normscope
