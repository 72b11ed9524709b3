"""Restoring whole images: one tiler, in process with ONNX Runtime or through a Triton server."""
