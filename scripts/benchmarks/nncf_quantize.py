"""Quantize an ONNX file with NNCF at its defaults: nncf_quantize.py GRAPH.onnx SAMPLES.npy OUTPUT.xml

`scripts/benchmarks/latency nncf` runs it in the environment that has NNCF, so it imports nothing of deploykit.
"""

import sys

import nncf
import numpy as np
import openvino


def main() -> None:
    graph, samples, output = sys.argv[1:]
    array = np.load(samples)
    dataset = nncf.Dataset([array[index : index + 1] for index in range(len(array))])
    quantized = nncf.quantize(openvino.Core().read_model(graph), dataset, subset_size=len(array))
    openvino.save_model(quantized, output, compress_to_fp16=False)


if __name__ == "__main__":
    main()
