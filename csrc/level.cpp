// The kernels of one instruction-set level; compiled once for each, with NORMSCOPE_LEVEL naming it.
#include "backward.hpp"

#define NORMSCOPE_TEXT_OF(name) #name
#define NORMSCOPE_TEXT(name) NORMSCOPE_TEXT_OF(name)

namespace normscope::NORMSCOPE_LEVEL {

template <class Visit>
void with_element(const Job& job, Visit&& visit) {
    switch (job.dtype) {
        case Dtype::float32: return visit(float{});
        case Dtype::bfloat16: return visit(bfloat16{});
        case Dtype::float64: return visit(double{});
    }
}

template <class Visit>
void with_activation(const Job& job, Visit&& visit) {
    switch (job.activation) {
        case Activation::none: return visit(Identity{});
        case Activation::relu: return visit(Relu{});
        case Activation::relu6: return visit(Relu6{});
        case Activation::leaky_relu: return visit(LeakyRelu{});
        case Activation::silu: return visit(Silu{});
    }
}

void any_forward(const Job& job) {
    with_element(job, [&](auto element) {
        with_activation(job, [&](auto activation) {
            forward<decltype(element), decltype(activation)>(job);
        });
    });
}

void any_backward(const Job& job) {
    with_element(job, [&](auto element) {
        using E = decltype(element);
        if (job.activation == Activation::none) return backward<E, Open>(job);
        with_activation(job, [&](auto activation) {
            using Act = decltype(activation);
            if constexpr (Act::gates) {
                if (job.mask) return backward<E, Remembered<Act>>(job);
            }
            if constexpr (!__is_same(Act, Identity)) backward<E, Recomputed<Act>>(job);
        });
    });
}

extern const Level level;
const Level level{NORMSCOPE_TEXT(NORMSCOPE_LEVEL), any_forward, any_backward};

}  // namespace normscope::NORMSCOPE_LEVEL
