"""Other people's images and captions become data sets."""
