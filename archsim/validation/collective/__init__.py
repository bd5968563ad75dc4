"""Suite `collective`: collectives against measured ones, and against ASTRA-sim where its model is sound."""

from __future__ import annotations

from archsim.validation.collective.astra import compare_astra
from archsim.validation.collective.measured import compare_measured, compare_sampled
from archsim.validation.suite import Reference, Suite

__all__ = ["COLLECTIVE"]

MEASURED = {"system", "gpus", "collective", "backend_or_algorithm", "dtype", "bytes", "time_us"}
SAMPLED = {"device", "collective", "num_gpus", "gpus_per_node", "size_bytes", "latency_us", "source_file"}
ASTRA = {"backend", "topology", "npus", "npus_per_dim", "collective", "algorithm", "bytes", "simulated_us"}

COLLECTIVE = Suite(
    name="collective",
    title="time of collectives, against NCCL and DeepEP as measured, and against ASTRA-sim where its model is sound",
    references=(
        Reference("collectives_measured.csv", frozenset(MEASURED), compare_measured),
        Reference("measured_allreduce.csv", frozenset(SAMPLED), compare_sampled),
        Reference("collectives_golden.csv", frozenset(ASTRA), compare_astra),
    ),
    band={"mape_pct": 10.0},
)
