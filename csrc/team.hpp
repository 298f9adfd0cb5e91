// The threads of a call: torch's own pool when torch was loaded first, because both then use one OpenMP runtime, GCC's. Its
// functions are called by name: from `#pragma omp parallel` Clang makes calls of another runtime, whose pool would stand
// beside torch's, and both would wait for processors that the other one holds.
#pragma once

#include <cstdint>

#include "simd.hpp"

#if defined(NORMSCOPE_OPENMP)
extern "C" {
void GOMP_parallel(void (*work)(void*), void* data, unsigned threads, unsigned flags);
void GOMP_barrier();
int omp_get_thread_num();
int omp_get_num_threads();
}
#endif

namespace normscope::NORMSCOPE_LEVEL {

struct Member {
    int rank, size;

    int64_t begin(int64_t work) const { return work * rank / size; }
    int64_t end(int64_t work) const { return work * (rank + 1) / size; }

    void wait() const {
#if defined(NORMSCOPE_OPENMP)
        if (size > 1) GOMP_barrier();
#endif
    }
};

// Calls work(Member) on `threads` threads at once.
template <class Work>
void in_team(int threads, Work work) {
#if defined(NORMSCOPE_OPENMP)
    if (threads > 1) {
        const auto member = [](void* shared) noexcept {
            (*static_cast<Work*>(shared))(Member{omp_get_thread_num(), omp_get_num_threads()});
        };
        return GOMP_parallel(member, &work, unsigned(threads), 0);
    }
#endif
    work(Member{0, 1});
}

}  // namespace normscope::NORMSCOPE_LEVEL
