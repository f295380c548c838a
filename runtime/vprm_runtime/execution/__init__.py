"""Running prompts on an engine: blocks of tokens, cached prefixes, logits to scores."""
