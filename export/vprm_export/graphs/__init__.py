"""The two ONNX graphs, built node by node with onnx_ir."""
