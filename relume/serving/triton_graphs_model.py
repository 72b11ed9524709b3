"""Runs a release of several graphs inside Triton's python backend; such a release has it as 1/model.py.

It runs in the server's own environment, so it imports nothing of relume. The parameters of the configuration name the
graphs: of each the output that is asked for, the side of its tiles, and its folder. What runs one graph is beside it as
one_graph.py. Requests for the output `estimated` alone are answered by the level estimator, which ONNX Runtime computes
whatever computes the tiles, so that a level does not depend on it.
"""

import json
import os

import one_graph
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of the model: one model of each graph, and a session of the level estimator."""

    def initialize(self, args):
        """Loads the graphs."""
        config, version = json.loads(args["model_config"]), args["model_version"]
        parameters = {name: value["string_value"] for name, value in config["parameters"].items()}
        outputs = {output["name"]: output for output in config["output"]}
        self.models = {}
        for graph in parameters["graphs"].split(", "):
            output, side, folder = graph.split()
            restored = {**outputs[output], "name": "restored"}
            image, *further = config["input"]
            scale = int(parameters.get("scale", "1"))
            image = {**image, "dims": [image["dims"][0], int(side), int(side)]}
            restored["dims"] = [restored["dims"][0], scale * int(side), scale * int(side)]
            of_graph = json.dumps({**config, "input": [image, *further], "output": [restored]})
            model = one_graph.TritonPythonModel()
            place = os.path.normpath(os.path.join(version, folder))
            model.initialize({**args, "model_config": of_graph, "model_version": place})
            self.models[output, int(side)] = model
        if "estimated" in outputs:
            path = os.path.join(args["model_repository"], version, "estimator", "model.onnx")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1  # at most 16 small tiles of each image
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        """Restores the tiles of each request by the graph that it asks for, or estimates their levels."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        asked = request.requested_output_names()
        # In one that asks for nothing in particular all are: it is answered as a product's is.
        output = "restored" if "restored" in asked else next(iter(asked))
        image = pb_utils.get_input_tensor_by_name(request, "image")
        if output == "estimated":
            levels = self.session.run(["estimated"], {"image": image.as_numpy()})[0]
            return pb_utils.InferenceResponse([pb_utils.Tensor("estimated", levels)])
        model = self.models.get((output, image.shape()[-1]))
        if model is None:
            error = pb_utils.TritonError(f"there is no graph of {output} for tiles of {image.shape()[-1]} pixels")
            return pb_utils.InferenceResponse(error=error)
        response = model.execute([request])[0]
        if output == "restored":
            return response
        return pb_utils.InferenceResponse([pb_utils.Tensor(output, response.output_tensors()[0].as_numpy())])
