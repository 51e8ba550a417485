"""Does a candidate compute what eager PyTorch computes: figures, bounds with reasons, a verdict."""
