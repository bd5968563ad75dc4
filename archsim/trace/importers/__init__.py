"""Traces from other tools' files: ONNX models and MLCommons Chakra execution traces."""

from archsim.trace.importers.chakra import export_chakra, import_chakra
from archsim.trace.importers.onnx import import_onnx

__all__ = ["export_chakra", "import_chakra", "import_onnx"]
