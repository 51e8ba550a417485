"""Precision in the graph: what values tensors take, and typed casts that follow from it."""
