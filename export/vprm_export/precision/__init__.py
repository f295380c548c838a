"""Precision: recipes, quantisers, smoothing, and how a quantised Linear looks in a graph."""
