"""A Triton model repository: what a bundle says of itself, in the words of NVIDIA's Triton Inference Server."""
