"""Runs a release with tiles of several sizes inside Triton's python backend; such a release has it as 1/model.py.

It runs in the server's own environment, so it imports nothing of relume. Each size has a graph of its own, which the
program of releases of one size, beside it as one_tile.py, runs; a request's tiles say which.
"""

import json
import os

import one_tile
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model: one model of each size."""

    def initialize(self, args):
        """Loads the graph of each size, those of further windows from folders of their own."""
        config, version = json.loads(args["model_config"]), args["model_version"]
        plan = {name: value["string_value"] for name, value in config["parameters"].items()}
        first, *further = plan["tile"], *(window.split()[0] for window in plan["further_windows"].split(", "))
        self.models = {}
        for side in dict.fromkeys([first, *further]):
            for tensor in [config["input"][0], config["output"][0]]:
                tensor["dims"][1:] = [side, side]
            folder = version if side == first else os.path.join(version, side)
            model = one_tile.TritonPythonModel()
            model.initialize({**args, "model_config": json.dumps(config), "model_version": folder})
            self.models[int(side)] = model

    def execute(self, requests):
        """Restores the tiles of each request by the graph of their size."""
        return [self._of(request).execute([request])[0] for request in requests]

    def _of(self, request):
        return self.models[pb_utils.get_input_tensor_by_name(request, "image").shape()[-1]]
