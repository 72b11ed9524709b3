"""Runs a release's model.onnx inside Triton's python backend; copied beside it as 1/model.py.

It runs in the server's own environment, so it imports nothing of relume. Tiles are run one by one: on a CPU a batch is
not faster, and its memory grows with its size (a demo model takes 190 MB for each tile of 192 pixels). An ONNX file
that cannot be read or has other tensors than the configuration refuses the load; what was served before stays served.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

MAX_THREADS = 8
ONNX_TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)"}


class TritonPythonModel:
    """One instance of the model: one ONNX Runtime session."""

    def initialize(self, args):
        """Opens the session and compares its tensors with the configuration."""
        config = json.loads(args["model_config"])
        options = onnxruntime.SessionOptions()
        # The threads of this process's cores, shared by the model's instances.
        instances = sum(group["count"] for group in config["instance_group"])
        options.intra_op_num_threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))) // instances)
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # planned memory was twice that of the arena, and no faster
        # Spinning threads would take the cores from the server and from a client on the same machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for found, expected in [
            (self.session.get_inputs(), config["input"]),
            (self.session.get_outputs(), config["output"]),
        ]:
            found = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in found]
            expected = [
                (tensor["name"], ONNX_TYPES[tensor["data_type"]], [int(size) for size in tensor["dims"]])
                for tensor in expected
            ]
            if found != expected:
                raise pb_utils.TritonModelException(f"{path} holds {found}, config.pbtxt says {expected}")
        self.inputs = [tensor["name"] for tensor in config["input"]]

    def execute(self, requests):
        """Restores the tiles of each request, in an adjustable model each at its own level."""
        return [pb_utils.InferenceResponse([self._restore(request)]) for request in requests]

    def _restore(self, request):
        batch = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        restored = [
            self.session.run(["restored"], {name: values[i : i + 1] for name, values in batch.items()})[0]
            for i in range(len(batch["image"]))
        ]
        return pb_utils.Tensor("restored", np.concatenate(restored))
