"""Evaluation of engines: parity with the PyTorch network, and latency."""
