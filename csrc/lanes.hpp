// Which lanes of a pack, as bits and by number.
#pragma once

#include "simd.hpp"

namespace normscope::NORMSCOPE_LEVEL {

#if defined(NORMSCOPE_AVX512)
// The last `count` lanes.
template <class A>
NORMSCOPE_INLINE Lanes<A> last_lanes(int64_t count) {
    constexpr int lanes = Pack<A>::lanes;
    return {uint16_t(((1u << lanes) - 1) ^ ((1u << (lanes - count)) - 1))};
}

// One bit per lane, in a word of 16.
template <class A>
NORMSCOPE_INLINE uint16_t to_bits(Lanes<A> where) {
    return where.bits;
}

// Bits past the lanes are ignored.
template <class A>
NORMSCOPE_INLINE Lanes<A> from_bits(uint16_t bits) {
    return {bits};
}
#else
template <class A>
NORMSCOPE_INLINE Lanes<A> last_lanes(int64_t count) {
    constexpr int per_part = Pack<A>::lanes / kParts;
    Lanes<A> out;
    for (int p = 0; p < kParts; ++p) {
        for (int i = 0; i < per_part; ++i) {
            out.part[p][i] = p * per_part + i >= Pack<A>::lanes - count ? Integer<A>(-1) : Integer<A>(0);
        }
    }
    return out;
}

template <class A>
NORMSCOPE_INLINE uint16_t to_bits(const Lanes<A>& where) {
    constexpr int per_part = Pack<A>::lanes / kParts;
    unsigned bits = 0;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
        unsigned part = 0;
#if defined(__AVX2__)
        if constexpr (sizeof(A) == 4) part = unsigned(_mm256_movemask_ps((__m256)where.part[p]));
        else part = unsigned(_mm256_movemask_pd((__m256d)where.part[p]));
#else
        for (int i = 0; i < per_part; ++i) part |= unsigned(where.part[p][i] & 1) << i;
#endif
        bits |= part << (p * per_part);
    }
    return uint16_t(bits);
}

template <class A>
NORMSCOPE_INLINE Lanes<A> from_bits(uint16_t bits) {
    constexpr int per_part = Pack<A>::lanes / kParts;
    using I = Integer<A>;
    Register<I> weights;
    for (int i = 0; i < per_part; ++i) weights[i] = I(1) << i;
    Lanes<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
        const Register<I> all = Register<I>{} + I(bits >> (p * per_part));
        out.part[p] = (all & weights) == weights;
    }
    return out;
}
#endif

}  // namespace normscope::NORMSCOPE_LEVEL
