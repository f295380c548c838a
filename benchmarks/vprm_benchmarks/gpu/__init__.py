"""One GPU suite: parity, speed and memory of every engine found, on random weights of the real size."""
