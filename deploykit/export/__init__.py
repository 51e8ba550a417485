"""nn.Module to ONNX: catalog, weights, tracing, rewrites, and the contract of every export."""
