"""The delivered model for others: loaded and asked, exported for open_clip and ONNX, put to work on many images."""

from raymds.release.recogniser import Prediction, Recogniser, load

__all__ = ["Prediction", "Recogniser", "load"]
