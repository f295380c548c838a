// Reading of `tokenizer.json` into a `Tokenizer`.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "text/tokenizer.hpp"

namespace vprm::internal {

class TokenizerReader {
  public:
    explicit TokenizerReader(std::string_view json_text);

    Bpe model() const;
    void read_normalizer(Tokenizer &tokenizer) const;
    void read_pre_tokenizer(Tokenizer &tokenizer) const;
    void read_added_tokens(Tokenizer &tokenizer) const;

  private:
    nlohmann::json document_;
};

}  // namespace vprm::internal
