"""From texts to token ids, positions and score positions."""
