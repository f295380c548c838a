// SHA-256 (FIPS 180-4): checks a bundle's files, and names prefixes by their content.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vprm::internal {

class Sha256 {
  public:
    void add(const void *data, std::size_t bytes);
    void add(std::string_view text) { add(text.data(), text.size()); }
    void add(std::uint64_t number) { add(&number, sizeof number); }

    // The digest's 32 bytes; nothing may be added afterwards.
    std::string digest();

  private:
    void take_block(const unsigned char *block);

    std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<unsigned char, 64> pending_{};
    std::size_t pending_bytes_ = 0;
    std::uint64_t total_bytes_ = 0;
};

std::string hexadecimal(std::string_view bytes);

}  // namespace vprm::internal
