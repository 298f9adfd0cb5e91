// How a tensor is cut into runs of contiguous elements. Where the bit of an element's mask lies depends on shape, layout and
// dtype alone, so that what a forward writes is read back alike whatever the instruction-set level and the number of threads.
#pragma once

#include <cstdint>

#include "job.hpp"

namespace normscope {

// Elements per bit-mask word and alignment of every cut: one pack of float32.
constexpr int64_t kGrain = 16;
// Elements of a cache line of the narrowest type.
constexpr int64_t kLongestLine = 32;
// Bytes of a bit mask past its last word.
constexpr int64_t kMaskPadding = 4;
// Planes from this length are added up by whole packs; shorter ones by columns. What is added up in a backward, two tensors
// and their product, gains less by packs.
constexpr int64_t kShortPlane = 16;
constexpr int64_t kShortProduct = 64;
// Planes from this length are worked on one by one; shorter ones side by side, as columns of a row.
constexpr int64_t kLongPlane = 256;
// Elements that a row of short planes or of few channels is brought up to, where the shape lets it.
constexpr int64_t kRow = 1024;
// Rows are not lengthened until fewer than this are left: each column costs a little whatever the number of rows.
constexpr int64_t kFewestRows = 64;
// Rows longer than this would not leave room in the first-level cache for their per-column numbers.
constexpr int64_t kLongestRow = 2048;

constexpr int64_t common_divisor(int64_t a, int64_t b) { return b == 0 ? a : common_divisor(b, a % b); }

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

enum class Cut {
    planes,  // contiguous: one channel's plane of one sample is a run
    blocks,  // contiguous, short planes: the planes of `group` neighbouring channels of one sample are a run
    rows,    // channels_last or no spatial dimensions: `group` positions with all their channels are a run
};

struct Layout {
    Cut cut;
    int64_t group;  // channels (blocks) or positions (rows) side by side
    int64_t width;  // elements of a run
    int64_t rows;   // whole runs of a block or of the tensor
    int64_t pitch;  // elements from one run to the next
    int64_t rest;   // rows: elements left over after the last whole run
    int64_t words;  // mask words per plane (planes), per sample (blocks) or per run (rows)
    int64_t total;  // mask words in all
};

inline int64_t repeats_to_grain(int64_t length) { return kGrain / common_divisor(length, kGrain); }

inline Layout rows_of(int64_t positions, int64_t channels) {
    int64_t group = repeats_to_grain(channels);
    if (group * channels > kLongestRow) group = 1;
    while (2 * group * channels <= kRow / 2 && positions >= kFewestRows * 2 * group) group *= 2;
    Layout l{Cut::rows, group, group * channels, positions / group, group * channels, 0, 0, 0};
    l.rest = (positions % group) * channels;
    l.words = ceil_div(l.width, kGrain);
    l.total = (l.rows + 1) * l.words;
    return l;
}

inline Layout layout_of(const Job& job) {
    if (job.channels_last || job.inner == 1) return rows_of(job.batch * job.inner, job.channels);
    const int64_t sample = job.channels * job.inner;
    // Rows of bfloat16 are cut at twice the grain, where its cache lines end.
    const int64_t least = repeats_to_grain(job.inner) * (job.dtype == Dtype::bfloat16 ? 2 : 1);
    if (job.inner >= kLongPlane || least * job.inner > kLongestRow) {
        const int64_t words = job.inner / kGrain + (job.inner % kGrain ? 2 : 0);
        return {Cut::planes, 1, job.inner, job.batch, sample, 0, words, words * job.batch * job.channels};
    }
    const int64_t most = least * (kRow < least * job.inner ? 1 : kRow / (least * job.inner));
    const int64_t share = ceil_div(ceil_div(job.channels, job.threads), least) * least;
    const int64_t group = most < share ? most : share;
    const int64_t words = ceil_div(sample, kGrain);
    return {Cut::blocks, group, group * job.inner, job.batch, sample, 0, words, words * job.batch};
}

}  // namespace normscope
