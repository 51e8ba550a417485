"""TensorRT 8.6 to 11 and TensorRT-RTX, behind one adapter.

driver     is there a GPU, and which: asked before any library is touched
library    the Python module, under either name, or why it cannot be had
log        what the library says while it works
dialect    what sets versions apart, found by what a module has; `building` and `running` are its two sides
network    an ONNX file parsed, or what the parser refused, node by node
build      a parsed network compiled into a plan
monitor    the build's progress, and how Ctrl-C stops it
timing     tactic timings kept from build to build
gate       a plan is refused by its record, or tried in a child process, before this process loads it
memory     buffers on both sides of the bus
capture    launches recorded as a CUDA graph
run        a plan executed
inspector  the layers of an engine, joined to the nodes of its graph
backend    the two Backends made of all that
"""
