"""Parity of a candidate with eager PyTorch: metrics, tolerances with reasons, a verdict."""
