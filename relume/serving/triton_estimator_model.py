"""Runs a release with a level estimator inside Triton's python backend; such a release has it as 1/model.py.

It runs in the server's own environment, so it imports nothing of relume. Requests for the output `estimated` alone
are answered by the level estimator, which ONNX Runtime computes whatever computes the tiles, so that a level does not
depend on it. All others go to the program of releases without one, beside it as restoring.py.
"""

import json
import os

import onnxruntime
import restoring
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model: that of releases without a level estimator, and a session of the network."""

    def initialize(self, args):
        """Loads both."""
        config = json.loads(args["model_config"])
        plan = {name: value["string_value"] for name, value in config["parameters"].items()}
        del config["output"][1:]
        if "further_windows" not in plan:
            for tensor in [config["input"][0], config["output"][0]]:
                tensor["dims"][1:] = [plan["tile"], plan["tile"]]
        self.restoring = restoring.TritonPythonModel()
        self.restoring.initialize({**args, "model_config": json.dumps(config)})
        path = os.path.join(args["model_repository"], args["model_version"], "estimator", "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # at most 16 small tiles of each image
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        """Restores the tiles of each request, or estimates their levels."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        if "restored" in request.requested_output_names():  # as in one that asks for nothing in particular
            return self.restoring.execute([request])[0]
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        levels = self.session.run(["estimated"], {"image": image})[0]
        return pb_utils.InferenceResponse([pb_utils.Tensor("estimated", levels)])
