"""Stands in for Triton's ONNX Runtime backend, which is C++ and comes with NVIDIA's container only.

The server is NVIDIA's own: it reads config.pbtxt, versions, labels and warm-up files, queues and joins requests, calls
ensembles step by step. This file does what its backend does with one batch: join the requests' tensors along the
first axis where the model batches, run the graph once, hand each request its rows.

Tensors are passed by DLPack: Triton's own way to NumPy is compiled for NumPy 1 and gives empty arrays under NumPy 2.
In the server's log, each tensor that is handed over leaves a traceback (`PyCapsule_GetPointer called with incorrect
name`), which is printed and not raised; the answers are whole.
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, arguments):
        config = json.loads(arguments["model_config"])
        folder = Path(arguments["model_repository"]) / arguments["model_version"]
        self.batches = config["max_batch_size"] > 0
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(folder / config["default_model_filename"]), options)
        print(f"onnxruntime {onnxruntime.__version__} has {arguments['model_name']} {arguments['model_version']}")

    def execute(self, requests):
        calls = [requests] if self.batches else [[request] for request in requests]
        return [response for call in calls for response in self.run(call)]

    def run(self, requests):
        inputs = [{tensor.name(): np.from_dlpack(tensor) for tensor in request.inputs()} for request in requests]
        joined = {name: np.concatenate([tensors[name] for tensors in inputs]) if self.batches else inputs[0][name]
                  for name in inputs[0]}  # fmt: skip
        print(f"ran {json.dumps({name: array.shape for name, array in joined.items()})}", flush=True)
        names = [output.name for output in self.session.get_outputs()]
        outputs = dict(zip(names, self.session.run(names, joined), strict=True))
        if not self.batches:
            return [self.response(outputs)]
        ends = np.cumsum([len(next(iter(tensors.values()))) for tensors in inputs])[:-1]
        rows = {name: np.split(array, ends) for name, array in outputs.items()}
        return [self.response({name: pieces[index] for name, pieces in rows.items()}) for index in range(len(requests))]

    def response(self, given):
        return triton.InferenceResponse(
            [triton.Tensor.from_dlpack(name, np.ascontiguousarray(array)) for name, array in given.items()]
        )
