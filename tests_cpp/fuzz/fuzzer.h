#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>

#include "fuzz/mutate.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace weft::fuzz {

/// A mutation for libFuzzer: its own bit-level ones, ours with pieces of the grammar, and fresh starts from a
/// seed, so that a fuzzer needs no files beside it.
inline size_t mutate_input(uint8_t* data, size_t size, size_t max_size, unsigned seed,
                           std::span<const std::string> seeds, std::span<const std::string_view> dictionary) {
  std::mt19937_64 rng(seed);
  if (size > 4 && rng() % 2 == 0) return LLVMFuzzerMutate(data, size, max_size);
  std::string text(reinterpret_cast<const char*>(data), size);
  if (size <= 4 || rng() % 64 == 0) text = seeds[rng() % seeds.size()];
  text = mutate(std::move(text), dictionary, rng);
  if (text.size() > max_size) text.resize(max_size);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}

}  // namespace weft::fuzz
