"""Runs a release's model.onnx with OpenVINO inside Triton's python backend; a release for it has it as 1/model.py.

It runs in the server's own environment, so it imports nothing of relume. The precision is a parameter of the
configuration and always stated to OpenVINO, which takes bfloat16 by itself on some CPUs and not on others.
"""

import json
import os
import sys

# It would send an event at the import, and OpenVINO does without it.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import openvino  # noqa: E402
import triton_python_backend_utils as pb_utils  # noqa: E402

MAX_THREADS = 8
DTYPES = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


class TritonPythonModel:
    """One instance of the model: one compiled model and its request."""

    def initialize(self, args):
        """Compiles the model and compares its tensors with the configuration."""
        config = json.loads(args["model_config"])
        # bfloat16 would round what float tiles hold, and what a mean is taken of.
        uint8 = config["input"][0]["data_type"] == "TYPE_UINT8"
        precision = config["parameters"]["precision"]["string_value"] if uint8 else "f32"
        core = openvino.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise pb_utils.TritonModelException("this CPU does not compute in bfloat16; release for openvino_f32")
        instances = sum(group["count"] for group in config["instance_group"])
        # The threads of this process's cores, shared by the model's instances.
        threads = max(1, min(MAX_THREADS, len(os.sched_getaffinity(0))) // instances)
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.compiled = core.compile_model(
            path,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": precision,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
            },
        )
        for found, expected in [(self.compiled.inputs, config["input"]), (self.compiled.outputs, config["output"])]:
            found = [(each.any_name, each.element_type.to_dtype(), str(each.partial_shape[1:])) for each in found]
            expected = [
                (each["name"], np.dtype(DTYPES[each["data_type"]]), f"[{','.join(map(str, each['dims']))}]")
                for each in expected
            ]
            if found != expected:
                raise pb_utils.TritonModelException(f"{path} holds {found}, config.pbtxt says {expected}")
        self.inputs = [tensor["name"] for tensor in config["input"]]

    def execute(self, requests):
        """Restores the tiles of each request, in an adjustable model each at its own level."""
        return [pb_utils.InferenceResponse([self._restore(request)]) for request in requests]

    def _restore(self, request):
        batch = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        restored = [  # one by one: a batch is not faster on a CPU, and its memory grows with its size
            self.compiled({name: values[i : i + 1] for name, values in batch.items()})["restored"].copy()
            for i in range(len(batch["image"]))
        ]
        return pb_utils.Tensor("restored", np.concatenate(restored))
