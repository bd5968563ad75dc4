"""Suite `npu`: Gemmini's RTL, a real TPU v3 core, and ONNXim, each on the chip preset of its name.

Constants that stand in those presets and were fitted say so there: Gemmini's bubble, the bandwidth that ONNXim's memory
controllers sustain. Nothing is fitted to the cycles of the TPU but its launch gap.
"""

from __future__ import annotations

from archsim.validation.npu.gemmini import compare_gemmini
from archsim.validation.npu.onnxim import compare_layers, compare_products
from archsim.validation.npu.tpu import compare_tpu
from archsim.validation.suite import Reference, Suite

__all__ = ["NPU"]

NPU = Suite(
    name="npu",
    title="cycles of systolic NPUs: Gemmini's RTL, a TPU v3 core, ONNXim",
    references=(
        Reference(
            "gemmini_rtl_gt_from_onnxim_tests.csv",
            frozenset({"test", "kind", "mapping", "gemmini_rtl_compute_cycles"}),
            compare_gemmini,
        ),
        Reference("tpuv3_measured_cycles_pytorchsim_artifact.csv", frozenset({"Workload", "TPUv3"}), compare_tpu),
        Reference(
            "onnxim_golden.csv",
            frozenset({"case", "config", "M", "N", "K", "simulated_cycles", "status", "notes"}),
            compare_products,
        ),
        Reference("onnxim_layers.csv", frozenset({"case", "config", "layer", "layer_cycles"}), compare_layers),
    ),
    band={"mape_pct": 10.0},
)
