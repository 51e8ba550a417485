"""ONNX Runtime on a GPU: needs no TensorRT, and runs on every GPU that its CUDA provider has kernels for.

backend    compiles a graph: makes its form, chooses layout and form by their time on this GPU
form       the graph as the provider computes it fastest
session    opens sessions that run on the GPU or fail
runner     runs them on page-locked and GPU memory, with a CUDA graph per batch size
receipt    which provider and type each node ran in, from the session's profile
"""
