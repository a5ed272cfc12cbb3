#pragma once

/// kSlowBuild: this build is many times slower, as it is not optimised, checks the order of ops, or is
/// sanitized; tests that repeat then repeat less.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WEFT_TEST_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(WEFT_TEST_SANITIZED) || \
    defined(WEFT_CHECKED) || !defined(NDEBUG)
constexpr bool kSlowBuild = true;
#else
constexpr bool kSlowBuild = false;
#endif
