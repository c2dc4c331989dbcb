"""The delivered model for others: gated, loaded and asked, exported for open_clip and ONNX, put to work on images."""
