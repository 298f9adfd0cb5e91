// The tensors of a job as typed addresses, and where each run of its layout lies.
#pragma once

#include "layout.hpp"
#include "runs.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Outputs from this size on are written past the caches, if their runs are aligned.
constexpr int64_t kPastCaches = int64_t(1) << 20;
constexpr int64_t kShortestStream = 768;
// What is read from this size on comes from memory.
constexpr int64_t kStreamed = int64_t(16) << 20;
// Of a tensor from this size on, little is left in a cache when it is read again.
constexpr int64_t kBeyondCaches = int64_t(32) << 20;

template <class E>
struct View {
    const Job& job;
    Layout layout;

    Run<E> at(int64_t offset, int64_t length, int64_t phase, int64_t word) const {
        Run<E> run;
        run.x = moved(static_cast<const E*>(job.x), offset);
        run.dy = moved(static_cast<const E*>(job.dy), offset);
        run.residual = moved(static_cast<const E*>(job.residual), offset);
        run.out = moved(static_cast<E*>(job.out), offset);
        run.dresidual = moved(static_cast<E*>(job.dresidual), offset);
        run.mask = job.mask ? static_cast<uint8_t*>(job.mask) + 2 * word : nullptr;
        run.phase = phase;
        run.length = length;
        return run;
    }

    Run<E> plane(int64_t sample, int64_t channel) const {
        const int64_t index = sample * job.channels + channel, offset = index * layout.width;
        const int64_t phase = offset % kLongestLine;
        return at(offset, layout.width, phase, index * layout.words - phase / kGrain);
    }

    // A short plane of one channel; its phase is its place in the sample's mask.
    Run<E> short_plane(int64_t sample, int64_t channel) const {
        const int64_t inside = channel * job.inner;
        return at(sample * layout.pitch + inside, job.inner, inside, sample * layout.words);
    }

    // Row `sample` of the block of channels that begins with `channel`.
    Run<E> block(int64_t sample, int64_t channel, int64_t width) const {
        const int64_t inside = channel * job.inner;
        return at(sample * layout.pitch + inside, width, 0, sample * layout.words + inside / kGrain);
    }

    Run<E> row(int64_t index, int64_t width) const {
        return at(index * layout.pitch, width, 0, index * layout.words);
    }

    Step step() const { return {layout.pitch, layout.words}; }

    // Whether a pass that reads so many tensors waits for memory.
    bool streamed(int tensors) const { return tensors * bytes() >= kStreamed; }

    // How many elements ahead rows are fetched that are read again: from memory, the machine fetches them better by itself.
    int64_t ahead() const { return beyond_caches(1) ? 0 : elements<E>(kAppliedAhead); }

    // The same of rows of so many tensors that are added up; not all of these the machine fetches better.
    int64_t summed_ahead(int tensors, bool by_itself) const {
        return by_itself && beyond_caches(tensors) ? 0 : elements<E>(kSummedAhead);
    }

    bool beyond_caches(int tensors) const { return tensors * bytes() >= kBeyondCaches; }

    int64_t bytes() const { return job.batch * job.channels * job.inner * int64_t(sizeof(E)); }

    bool past_caches() const {
        const int64_t run = layout.width * int64_t(sizeof(E)), pitch = layout.pitch * int64_t(sizeof(E));
        const bool aligned = (uintptr_t(job.out) | uintptr_t(job.dresidual)) % kPack == 0;
        if (!aligned || bytes() < kPastCaches) return false;
        return layout.cut == Cut::planes ? run >= kShortestStream : pitch % kPack == 0 && run % kPack == 0;
    }
};

}  // namespace normscope::NORMSCOPE_LEVEL
