// Random numbers that are a pure function of a seed and a counter.
//
// Nothing is stored, so any number can be computed at any time, in any order, by any thread.
//
//   mix(x)         the 64-bit finaliser of SplitMix64 (Steele, Lea and Flood 2014; Stafford's variant 13): a bijection
//                  in which each input bit flips each output bit with probability close to one half
//   draw(key, x)   mix(key + golden * (x + 1)) : the x-th number of the SplitMix64 stream that starts at `key`
//   key            draw(draw(mix(seed), purpose), epoch), so each purpose and epoch has a stream of its own
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace nucel {

inline std::uint64_t mix(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

inline std::uint64_t draw(std::uint64_t key, std::uint64_t x) { return mix(key + 0x9e3779b97f4a7c15u * (x + 1)); }

enum class Purpose : std::uint64_t { order, crop, strand, pass };

inline std::uint64_t stream_key(std::uint64_t seed, Purpose purpose, std::uint64_t epoch) {
    return draw(draw(mix(seed), static_cast<std::uint64_t>(purpose)), epoch);
}

// A keyed bijection of [0, n) in constant memory: a balanced Feistel network on the smallest even number of bits that
// holds n, walked along its cycle until it comes back into [0, n) (Black and Rogaway 2002). The walk takes fewer than
// four steps on average, but for tiny n: there the network keeps 6 bits, since with halves of one bit it would reach
// few of the orders.
class Permutation {
  public:
    Permutation(std::uint64_t n, std::uint64_t key) : n_(n) {
        while (half_bits_ < 32 && (n - 1) >> (2 * half_bits_) != 0) ++half_bits_;
        for (std::size_t r = 0; r < round_keys_.size(); ++r) round_keys_[r] = draw(key, r);
    }

    std::uint64_t operator()(std::uint64_t x) const {
        do x = network(x);
        while (x >= n_);
        return x;
    }

  private:
    std::uint64_t network(std::uint64_t x) const {
        const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
        std::uint64_t left = x >> half_bits_;
        std::uint64_t right = x & mask;
        for (const std::uint64_t key : round_keys_) {
            const std::uint64_t next = left ^ (mix(right + key) & mask);
            left = right;
            right = next;
        }
        return left << half_bits_ | right;
    }

    std::uint64_t n_;
    int half_bits_ = 3;
    std::array<std::uint64_t, 6> round_keys_{};
};

}  // namespace nucel
