// The threads of a call: torch's own pool when torch was loaded first, because both then use one OpenMP runtime.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <cstdint>

#include "simd.hpp"

namespace normscope::NORMSCOPE_LEVEL {

struct Member {
    int rank, size;

    int64_t begin(int64_t work) const { return work * rank / size; }
    int64_t end(int64_t work) const { return work * (rank + 1) / size; }

    void wait() const {
#if defined(_OPENMP)
        if (size > 1) {
#pragma omp barrier
        }
#endif
    }
};

// Calls work(Member) on `threads` threads at once.
template <class Work>
void in_team(int threads, Work&& work) {
#if defined(_OPENMP)
    if (threads > 1) {
#pragma omp parallel num_threads(threads)
        work(Member{omp_get_thread_num(), omp_get_num_threads()});
        return;
    }
#endif
    work(Member{0, 1});
}

}  // namespace normscope::NORMSCOPE_LEVEL
