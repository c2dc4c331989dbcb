"""Develop a vision-language model further without losing anything it could do before."""

__version__ = "0.1.0"
