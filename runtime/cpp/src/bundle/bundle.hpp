// A bundle directory: opening checks the manifest and every file's size.
#pragma once

#include <filesystem>
#include <string>

#include "bundle/manifest.hpp"

namespace vprm::internal {

struct Bundle {
    std::filesystem::path path;
    Manifest manifest;

    // Throws a bundle error if it is none, or if a file is missing or of another size.
    static Bundle open(const std::filesystem::path &path);

    // Throws a bundle error naming the files whose SHA-256 differs from the manifest's.
    void verify() const;

    std::filesystem::path tokenizer_path() const { return path / "tokenizer.json"; }
};

// The whole of a file. Throws a bundle error if it cannot be read.
std::string read_file(const std::filesystem::path &path);

}  // namespace vprm::internal
