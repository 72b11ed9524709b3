"""Exports the final model to the ONNX file that is served, with proof of parity."""
