"""What came out of a simulation: plain frozen data, its file, its provenance, and the comparison of two results."""

from archsim.results.compare import Comparison, compare
from archsim.results.hdf5 import load_result
from archsim.results.op_table import OpTable
from archsim.results.provenance import run_meta
from archsim.results.result import Result, Slice

__all__ = ["Comparison", "OpTable", "Result", "Slice", "compare", "load_result", "run_meta"]
