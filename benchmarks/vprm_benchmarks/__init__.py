"""Benchmarks and proofs of vprm: the PyTorch reference, the parity kit, random checkpoints. Needs the extra
``reference``."""
