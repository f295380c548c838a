#include "bundle/bundle.hpp"

#include <array>
#include <fstream>
#include <system_error>

#include "base/error.hpp"
#include "base/sha256.hpp"

namespace vprm::internal {

namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t kMostTextBytes = 1 << 26;  // of a manifest or a tokenizer: real ones have 11 MB

void check_files(const Bundle &bundle) {
    for (const auto &[name, info] : bundle.manifest.files) {
        const fs::path file = bundle.path / name;
        std::error_code error;
        if (!fs::is_regular_file(file, error))
            throw bundle_error("bundle file " + excerpt(file.string()) +
                               " is missing: copy the whole directory, or export it again");
        const auto size = fs::file_size(file, error);
        if (error || size != info.size_bytes)
            throw bundle_error("bundle file " + excerpt(file.string()) + " has " + std::to_string(size) +
                               " bytes, its manifest says " + std::to_string(info.size_bytes) +
                               ": the copy is incomplete or damaged; copy or export it again");
    }
}

std::string sha256_of(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> chunk(1 << 20);
    Sha256 hash;
    while (file) {
        file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        hash.add(chunk.data(), static_cast<std::size_t>(file.gcount()));
    }
    if (!file.eof()) throw bundle_error("cannot read " + excerpt(path.string()) + ": check its permissions");
    return hexadecimal(hash.digest());
}

}  // namespace

std::string read_file(const fs::path &path) {
    std::error_code problem;
    std::ifstream file(path, std::ios::binary);
    if (!fs::is_regular_file(path, problem) || fs::file_size(path, problem) > kMostTextBytes)
        throw bundle_error(excerpt(path.string()) + " is no file of a bundle: it is too large, or no regular file");
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file) throw bundle_error("cannot read " + excerpt(path.string()) + ": check its permissions");
    return text;
}

Bundle Bundle::open(const fs::path &path) {
    std::error_code error;
    const std::string name = excerpt(path.string());
    if (fs::is_regular_file(path, error))
        throw bundle_error(name + " is a file: a bundle is a directory; make one:  vprm export CHECKPOINT BUNDLE");
    if (!fs::is_directory(path, error))
        throw bundle_error("no bundle directory at " + name + ": make one with  vprm export CHECKPOINT BUNDLE");
    if (!fs::is_regular_file(path / "manifest.json", error)) {
        const bool is_checkpoint = fs::is_regular_file(path / "config.json", error);
        throw bundle_error(name + " has no manifest.json: it is " +
                           (is_checkpoint ? "a checkpoint; export it first:" : "not a bundle; make one:") +
                           "  vprm export CHECKPOINT BUNDLE");
    }
    Bundle bundle{path, {}};
    try {
        bundle.manifest = Manifest::from_json(read_file(path / "manifest.json"));
    } catch (const Error &problem) {
        throw Error(problem.code(), std::string(problem.what()) + " (bundle " + name + ")", problem.reason());
    }
    check_files(bundle);
    return bundle;
}

void Bundle::verify() const {
    check_manifest_hash(read_file(path / "manifest.json"));
    std::string damaged;
    for (const auto &[name, info] : manifest.files)
        if (sha256_of(path / name) != info.sha256) damaged += (damaged.empty() ? "" : ", ") + name;
    if (!damaged.empty())
        throw bundle_error("sha256 differs from the manifest for " + excerpt(damaged) + ": the bundle at " +
                           excerpt(path.string()) + " is damaged; copy or export it again");
}

}  // namespace vprm::internal
