// The binding: addresses and numbers in, results in memory; it is not linked to torch. Which level runs is picked here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "layout.hpp"
#include "pages.hpp"

namespace nb = nanobind;

namespace normscope {

namespace baseline {
extern const Level level;
}
#if defined(NORMSCOPE_X86_LEVELS)
namespace x86_64_v3 {
extern const Level level;
}
namespace x86_64_v4 {
extern const Level level;
}
#endif
#if defined(NORMSCOPE_X86_BF16)
namespace x86_64_v4_bf16 {
extern const Level level;
}
#endif

namespace {

// Below this many elements a second thread and the release of the interpreter lock cost more than they give.
constexpr int64_t kSmall = 1 << 15;

// Best first: those that this machine can run.
std::vector<const Level*> runnable_levels() {
    std::vector<const Level*> levels;
#if defined(NORMSCOPE_X86_LEVELS)
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
#if defined(NORMSCOPE_X86_BF16)
    if (v4 && __builtin_cpu_supports("avx512bf16")) levels.push_back(&x86_64_v4_bf16::level);
#endif
    if (v4) levels.push_back(&x86_64_v4::level);
    if (v3) levels.push_back(&x86_64_v3::level);
#endif
    levels.push_back(&baseline::level);
    return levels;
}

const std::vector<const Level*>& levels() {
    static const std::vector<const Level*> found = runnable_levels();
    return found;
}

int64_t element_size(Dtype dtype) {
    return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
}

template <class V>
V* address(uintptr_t value) {
    return reinterpret_cast<V*>(value);
}

template <class V>
V* advanced(V* base, int64_t bytes) {
    return base ? reinterpret_cast<V*>(uintptr_t(base) + uintptr_t(bytes)) : nullptr;
}

Job shaped(int dtype, int64_t batch, int64_t channels, int64_t inner, bool channels_last, int threads, int phases) {
    Job job{};
    job.dtype = Dtype(dtype);
    job.batch = batch, job.channels = channels, job.inner = inner;
    job.channels_last = channels_last;
    job.threads = batch * channels * inner < kSmall ? 1 : threads;
    job.phases = phases;
    return job;
}

// Bytes of the mask of one job, without padding.
int64_t mask_size(const Job& job) { return 2 * layout_of(job).total; }

// Runs `groups` jobs of equal shape that lie one after the other in every tensor.
void run(void (*kernel)(const Job&), Job job, int64_t groups) {
    const int64_t bytes = job.batch * job.channels * job.inner * element_size(job.dtype);
    const int64_t mask_bytes = mask_size(job);
    if (job.phases & apply) {
        settle(job.out, bytes * groups);
        if (job.dresidual) settle(job.dresidual, bytes * groups);
    }
    for (int64_t g = 0; g < groups; ++g) {
        kernel(job);
        job.x = advanced(job.x, bytes), job.dy = advanced(job.dy, bytes), job.out = advanced(job.out, bytes);
        job.residual = advanced(job.residual, bytes), job.dresidual = advanced(job.dresidual, bytes);
        job.mask = advanced(job.mask, mask_bytes);
        job.mean += job.channels, job.m2 += job.channels;
        if (job.sum_dy) job.sum_dy += job.channels, job.sum_dy_x += job.channels;
    }
}

void run_released(void (*kernel)(const Job&), const Job& job, int64_t groups) {
    if (job.batch * job.channels * job.inner * groups < kSmall) return run(kernel, job, groups);
    nb::gil_scoped_release released;
    run(kernel, job, groups);
}

// Whether a variance is so large that its square roots and inverses leave the range of float32, in which all but float64 is
// computed; a NaN is not.
bool overflows(const Job& job, int64_t groups) {
    if (job.dtype == Dtype::float64) return false;
    bool beyond = false;
    for (int64_t i = 0; i < groups * job.channels; ++i) beyond |= job.m2[i] > 1e36 * job.count;
    return beyond;
}

bool forward(
    int level, int dtype, int64_t batch, int64_t channels, int64_t inner, bool channels_last, int threads, int phases,
    int64_t groups, uintptr_t x, uintptr_t residual, uintptr_t out, uintptr_t mask, uintptr_t weight, uintptr_t bias,
    double eps, double count, uintptr_t moments, int activation, double slope) {
    Job job = shaped(dtype, batch, channels, inner, channels_last, threads, phases);
    job.x = address<void>(x), job.residual = address<void>(residual), job.out = address<void>(out);
    job.mask = address<void>(mask), job.weight = address<void>(weight), job.bias = address<void>(bias);
    job.eps = eps, job.count = count;
    job.mean = address<double>(moments), job.m2 = job.mean + groups * channels;
    job.activation = Activation(activation), job.slope = slope;
    run_released(levels().at(size_t(level))->forward, job, groups);
    // No kernel writes the padding, which reading the last bits reaches into.
    if (mask) std::memset(advanced(address<char>(mask), mask_size(job) * groups), 0, kMaskPadding);
    return overflows(job, groups);
}

// The sum over groups of `sums`, in the type of the parameters.
void gather(Dtype dtype, void* to, const double* sums, int64_t groups, int64_t channels) {
    if (!to) return;
    for (int64_t c = 0; c < channels; ++c) {
        double total = 0;
        for (int64_t g = 0; g < groups; ++g) total += sums[g * channels + c];
        if (dtype == Dtype::float64) static_cast<double*>(to)[c] = total;
        else static_cast<float*>(to)[c] = float(total);
    }
}

void backward(
    int level, int dtype, int64_t batch, int64_t channels, int64_t inner, bool channels_last, int threads, int phases,
    int64_t groups, uintptr_t dy, uintptr_t x, uintptr_t dx, uintptr_t dresidual, uintptr_t mask, uintptr_t weight,
    uintptr_t bias, double eps, double count, uintptr_t moments, uintptr_t sums, uintptr_t dweight, uintptr_t dbias,
    bool batch_statistics, int activation, double slope) {
    Job job = shaped(dtype, batch, channels, inner, channels_last, threads, phases);
    job.dy = address<void>(dy), job.x = address<void>(x), job.out = address<void>(dx);
    // Which pass writes it is the kernels' to choose, if there are two.
    job.dresidual = phases & apply ? address<void>(dresidual) : nullptr;
    job.mask = address<void>(mask);
    job.weight = address<void>(weight), job.bias = address<void>(bias);
    job.eps = eps, job.count = count;
    job.mean = address<double>(moments), job.m2 = job.mean + groups * channels;
    std::vector<double> own(sums ? 0 : size_t(2 * groups * channels));
    double* const sum_dy = sums ? address<double>(sums) : own.data();
    double* const sum_dy_x = sum_dy + groups * channels;
    job.sum_dy = sum_dy, job.sum_dy_x = sum_dy_x;
    job.batch_statistics = batch_statistics, job.activation = Activation(activation), job.slope = slope;
    run_released(levels().at(size_t(level))->backward, job, groups);
    gather(job.dtype, address<void>(dbias), sum_dy, groups, channels);
    gather(job.dtype, address<void>(dweight), sum_dy_x, groups, channels);
}

// (1 - factor) * running + factor * batch in place, variance Bessel-corrected; running statistics of float32 or float64.
template <class A>
void updated(A* running_mean, A* running_var, const double* mean, const double* m2, int64_t channels, double count,
             double factor) {
    for (int64_t c = 0; c < channels; ++c) {
        running_mean[c] = A((1 - factor) * double(running_mean[c]) + factor * mean[c]);
        running_var[c] = A((1 - factor) * double(running_var[c]) + factor * m2[c] / (count - 1));
    }
}

void update(bool wide, uintptr_t running_mean, uintptr_t running_var, uintptr_t moments, int64_t channels, double count,
            double factor) {
    const double *from_mean = address<double>(moments), *from_m2 = from_mean + channels;
    if (wide) {
        updated(address<double>(running_mean), address<double>(running_var), from_mean, from_m2, channels, count, factor);
    } else {
        updated(address<float>(running_mean), address<float>(running_var), from_mean, from_m2, channels, count, factor);
    }
}

void increment(uintptr_t counter) { ++*address<int64_t>(counter); }

// Whether every mean lies within `limit` deviations of zero; a NaN does not, nor a deviation beyond float32 (inverse 0).
bool near_zero(uintptr_t mean, uintptr_t inverse_deviation, int64_t channels, double limit) {
    const auto *means = address<float>(mean), *inverses = address<float>(inverse_deviation);
    bool near = true;
    for (int64_t c = 0; c < channels; ++c) {
        near &= inverses[c] > 0 && __builtin_fabs(double(means[c]) * double(inverses[c])) <= limit;
    }
    return near;
}

int64_t mask_bytes(int dtype, int64_t batch, int64_t channels, int64_t inner, bool channels_last, int64_t groups) {
    return mask_size(shaped(dtype, batch, channels, inner, channels_last, 1, 0)) * groups + kMaskPadding;
}

std::vector<std::string> level_names() {
    std::vector<std::string> names;
    for (const Level* level : levels()) names.emplace_back(level->name);
    return names;
}

}  // namespace
}  // namespace normscope

NB_MODULE(_kernels, module) {
    module.def("forward", &normscope::forward);
    module.def("backward", &normscope::backward);
    module.def("update", &normscope::update);
    module.def("increment", &normscope::increment);
    module.def("near_zero", &normscope::near_zero);
    module.def("mask_bytes", &normscope::mask_bytes);
    module.def("level_names", &normscope::level_names);
    module.attr("fingerprint") = NORMSCOPE_FINGERPRINT;
#if defined(NORMSCOPE_OPENMP)
    module.attr("openmp") = true;
#else
    module.attr("openmp") = false;
#endif
}
