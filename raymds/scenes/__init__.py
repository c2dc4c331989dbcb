"""The renderer of driving scenes."""
