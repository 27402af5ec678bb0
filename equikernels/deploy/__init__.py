"""Networks outside of Python: programs for PyTorch in C++, ONNX files."""

from .load import load as load
from .onnx import export_onnx as export_onnx
from .onnx import onnxruntime_library as onnxruntime_library
from .package import cmake_prefix_path as cmake_prefix_path
from .package import package as package
