"""TensorRT 8.6 to 11 and TensorRT-RTX behind one adapter.

library    import of the Python module `tensorrt` or `tensorrt_rtx`
log        the library's error messages
dialect    differences between versions, detected by which classes and members the module has
builder    wraps the library's builder and builder configuration
runtime    wraps the library's runtime, engines and execution contexts
network    ONNX parsing, with the parser's errors by node
compile    compilation of a parsed network into a plan file
monitor    build progress and cancellation by Ctrl-C
timing     the timing cache, kept between builds
gate       checks before a plan is loaded: its record, then a trial in a child process
capture    CUDA graph capture
runner     execution of a plan
inspector  the engine's layers, matched to the nodes of its graph
backend    the two backends, TensorRt and TensorRtRtx
"""
