"""Networks outside of Python: programs for PyTorch in C++."""

from .load import load as load
from .package import cmake_prefix_path as cmake_prefix_path
from .package import package as package
