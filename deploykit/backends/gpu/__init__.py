"""What every backend on NVIDIA GPUs needs.

driver           the GPU and its driver, queried before any library is imported
memory_library   the calls of a CUDA library that are used: contexts, memory, copies, streams, events
memory_pycuda    those calls through pycuda
memory_bindings  those calls through cuda-bindings
memory           GPU and page-locked buffers in the primary context
device_arrays    arrays of other libraries in GPU memory
gpu_array        arrays in GPU memory that deploykit returns
foreign_engines  engines that were built for another machine
call_timings     the parts of one call
"""
