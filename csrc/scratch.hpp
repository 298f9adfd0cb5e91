// Memory of a call.
#pragma once

#include <cstdint>
#include <cstdlib>

namespace normscope::NORMSCOPE_LEVEL {

// Memory for the length of a call, in whole cache lines.
class Scratch {
   public:
    explicit Scratch(int64_t bytes) : memory_(std::aligned_alloc(64, size_t(bytes + 63) / 64 * 64 + 64)) {
        next_ = static_cast<char*>(memory_);
    }
    ~Scratch() { std::free(memory_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    template <class V>
    V* take(int64_t count) {
        V* taken = reinterpret_cast<V*>(next_);
        next_ += padded<V>(count);
        return taken;
    }
    template <class V>
    V* take_zeroed(int64_t count) {
        return static_cast<V*>(__builtin_memset(take<V>(count), 0, size_t(padded<V>(count))));
    }
    template <class V>
    static int64_t padded(int64_t count) {
        return (count * int64_t(sizeof(V)) + 63) / 64 * 64;
    }

   private:
    void* memory_;
    char* next_;
};

}  // namespace normscope::NORMSCOPE_LEVEL
