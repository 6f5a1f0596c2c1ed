"""MLP-Mixer with dilated patches in JAX and Flax."""

__version__ = '0.3.0'
