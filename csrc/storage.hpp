// How elements lie in memory and come into packs: float32 and float64 as they are, bfloat16 widened to float32.
#pragma once

#include "simd.hpp"

namespace normscope::NORMSCOPE_LEVEL {

struct bfloat16 {
    uint16_t bits;
};

// How many elements so many bytes are.
template <class E>
constexpr int64_t elements(int64_t bytes) {
    return bytes / int64_t(sizeof(E));
}

// A whole pack, or its first `count` lanes.
struct Whole {};
struct Part {
    int64_t count;
};

template <class E>
struct ComputeOf {
    using type = E;
};
template <>
struct ComputeOf<bfloat16> {
    using type = float;
};
template <class E>
using Compute = typename ComputeOf<E>::type;

template <class A>
NORMSCOPE_INLINE Pack<A> load(const A* from, Whole) {
    Pack<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) out.part[p] = load_register<A>(from + p * (kRegister / int(sizeof(A))));
    return out;
}

// The compilers that were looked at make five instructions of the conversion that these intrinsics are.
NORMSCOPE_INLINE Register<uint32_t> widened(Register<uint16_t, kRegister / 2> narrow) {
#if defined(NORMSCOPE_AVX512)
    return (Register<uint32_t>)_mm512_cvtepu16_epi32((__m256i)narrow);
#elif defined(__AVX2__)
    return (Register<uint32_t>)_mm256_cvtepu16_epi32((__m128i)narrow);
#else
    return __builtin_convertvector(narrow, Register<uint32_t>);
#endif
}

NORMSCOPE_INLINE Pack<float> load(const bfloat16* from, Whole) {
    Pack<float> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
        const auto narrow = load_register<uint16_t, kRegister / 2>(from + p * (kRegister / 4));
        out.part[p] = (Register<float>)(widened(narrow) << 16);
    }
    return out;
}

// Round to nearest even. A NaN stays one as long as its low half is 0, which holds of every NaN that arithmetic makes and
// of those widened from bfloat16; the per-channel numbers see to the rest (see `settled`).
NORMSCOPE_INLINE Register<uint32_t> rounded(Register<float> value) {
    const Register<uint32_t> bits = (Register<uint32_t>)value;
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// A pack in 32 bytes, in as many registers as the level has for them.
constexpr int kNarrowParts = kPack / 2 / (kRegister < kPack / 2 ? kRegister : kPack / 2);
struct Narrow {
    Register<uint16_t, kPack / 2 / kNarrowParts> part[kNarrowParts];
};

NORMSCOPE_INLINE Narrow narrowed(const Pack<float>& value) {
    Narrow out;
#if defined(__AVX512BF16__)
    out.part[0] = (Register<uint16_t, 32>)_mm512_cvtneps_pbh((__m512)value.part[0]);  // below 2^-126 it gives 0
#elif defined(NORMSCOPE_AVX512)
    out.part[0] = (Register<uint16_t, 32>)_mm512_cvtepi32_epi16((__m512i)rounded(value.part[0]));
#elif defined(__AVX2__)
    const __m256i both = _mm256_packus_epi32((__m256i)rounded(value.part[0]), (__m256i)rounded(value.part[1]));
    out.part[0] = (Register<uint16_t, 32>)_mm256_permute4x64_epi64(both, 0xd8);  // packed by halves of 128 bits
#else
    for (int p = 0; p < kParts; ++p) {
        const Register<uint32_t> wide = rounded(value.part[p]);
        for (int i = 0; i < kRegister / 4; ++i) out.part[p / 2][p % 2 * (kRegister / 4) + i] = uint16_t(wide[i]);
    }
#endif
    return out;
}

template <class A>
NORMSCOPE_INLINE void store(A* to, const Pack<A>& value, Whole) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) store_register<A>(to + p * (kRegister / int(sizeof(A))), value.part[p]);
}

NORMSCOPE_INLINE void store(bfloat16* to, const Pack<float>& value, Whole) {
    const Narrow narrow = narrowed(value);
#pragma GCC unroll 4
    for (int p = 0; p < kNarrowParts; ++p) {
        store_register<uint16_t, sizeof(narrow.part[0])>(to + p * (sizeof(narrow.part[0]) / 2), narrow.part[p]);
    }
}

#if defined(NORMSCOPE_AVX512)
NORMSCOPE_INLINE Pack<float> load_masked(const float* from, unsigned lanes, float fill) {
    return {{(Register<float>)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16(lanes), from)}};
}

NORMSCOPE_INLINE Pack<double> load_masked(const double* from, unsigned lanes, double fill) {
    return {{(Register<double>)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), __mmask8(lanes), from)}};
}

NORMSCOPE_INLINE Pack<float> load_masked(const bfloat16* from, unsigned lanes, float fill) {
    const auto bits = widened((Register<uint16_t, 32>)_mm256_maskz_loadu_epi16(__mmask16(lanes), from)) << 16;
    return {{(Register<float>)_mm512_mask_blend_ps(__mmask16(lanes), _mm512_set1_ps(fill), (__m512)bits)}};
}

NORMSCOPE_INLINE void store_masked(float* to, const Pack<float>& value, unsigned lanes) {
    _mm512_mask_storeu_ps(to, __mmask16(lanes), (__m512)value.part[0]);
}

NORMSCOPE_INLINE void store_masked(double* to, const Pack<double>& value, unsigned lanes) {
    _mm512_mask_storeu_pd(to, __mmask8(lanes), (__m512d)value.part[0]);
}

NORMSCOPE_INLINE void store_masked(bfloat16* to, const Pack<float>& value, unsigned lanes) {
    _mm256_mask_storeu_epi16(to, __mmask16(lanes), (__m256i)narrowed(value).part[0]);
}
#endif

// Lanes past the count hold `fill`. Where there are no masks it is a call: it is rare, and long.
#if defined(NORMSCOPE_AVX512)
template <class E>
NORMSCOPE_INLINE Pack<Compute<E>> load(const E* from, Part part, Compute<E> fill = 0) {
    return load_masked(from, (1u << part.count) - 1, fill);
}
#else
template <class E>
NORMSCOPE_CALL Pack<Compute<E>> load(const E* from, Part part, Compute<E> fill = 0) {
    E narrow[Pack<Compute<E>>::lanes] = {};
    __builtin_memcpy(narrow, from, part.count * sizeof(E));
    Compute<E> wide[Pack<Compute<E>>::lanes];
    store(wide, load(narrow, Whole{}), Whole{});
    for (int64_t i = part.count; i < Pack<Compute<E>>::lanes; ++i) wide[i] = fill;
    return load(wide, Whole{});
}
#endif

template <class E>
NORMSCOPE_INLINE Pack<Compute<E>> load(const E* from, Whole whole, Compute<E>) {
    return load(from, whole);
}

#if defined(NORMSCOPE_AVX512)
template <class E>
NORMSCOPE_INLINE void store(E* to, const Pack<Compute<E>>& value, Part part) {
    store_masked(to, value, (1u << part.count) - 1);
}
#else
template <class E>
NORMSCOPE_CALL void store(E* to, Pack<Compute<E>> value, Part part) {  // by reference, a loop would keep it in memory
    E narrow[Pack<Compute<E>>::lanes];
    store(narrow, value, Whole{});
    __builtin_memcpy(to, narrow, part.count * sizeof(E));
}
#endif

template <class V>
NORMSCOPE_INLINE void stream_register(void* to, V value) {
#if defined(NORMSCOPE_AVX512)
    if constexpr (sizeof(V) == 64) return _mm512_stream_si512((__m512i*)to, (__m512i)value);
#endif
#if defined(__AVX2__)
    if constexpr (sizeof(V) == 32) return _mm256_stream_si256((__m256i*)to, (__m256i)value);
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(V) == 16) return _mm_stream_si128((__m128i*)to, (__m128i)value);
#endif
    __builtin_memcpy(to, &value, sizeof(V));
}

// Past the caches, to an address aligned to the pack.
template <class A>
NORMSCOPE_INLINE void stream(A* to, const Pack<A>& value, Whole) {
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) stream_register(to + p * (kRegister / int(sizeof(A))), value.part[p]);
}

NORMSCOPE_INLINE void stream(bfloat16* to, const Pack<float>& value, Whole) {
    const Narrow narrow = narrowed(value);
#pragma GCC unroll 4
    for (int p = 0; p < kNarrowParts; ++p) {
        stream_register(to + p * (sizeof(narrow.part[0]) / 2), narrow.part[p]);
    }
}

template <class E>
NORMSCOPE_INLINE void stream(E* to, const Pack<Compute<E>>& value, Part part) {
    store(to, value, part);
}

// Packs that are worked on together because they make a cache line. A line written past the caches in two halves, with
// others in between, goes to memory twice.
#if defined(NORMSCOPE_AVX512)
template <class E>
constexpr int kLine = int(sizeof(Compute<E>) / sizeof(E));

// A line of two packs, aligned to it.
NORMSCOPE_INLINE void stream_line(bfloat16* to, const Pack<float>& low, const Pack<float>& high) {
#if defined(__AVX512BF16__)
    const auto line = (Register<uint16_t>)_mm512_cvtne2ps_pbh((__m512)high.part[0], (__m512)low.part[0]);
#else
    const __m512i both = _mm512_castsi256_si512((__m256i)narrowed(low).part[0]);
    const auto line = (Register<uint16_t>)_mm512_inserti64x4(both, (__m256i)narrowed(high).part[0], 1);
#endif
    stream_register(to, line);
}
#else
// There are too few registers for it.
template <class E>
constexpr int kLine = 1;
#endif

NORMSCOPE_INLINE void stream_fence() {
#if defined(__SSE2__)
    _mm_sfence();
#endif
}

}  // namespace normscope::NORMSCOPE_LEVEL
