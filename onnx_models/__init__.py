"""The networks: torch definitions, training, export, model cards and the shipped ONNX files.

Importing this package imports nothing else; `onnx_models.cards` needs only the standard library,
the other modules need the `train` extra (torch, onnx, PyAV, OpenCV).
"""
