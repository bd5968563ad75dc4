"""What ``trtllm-bench`` of TensorRT-LLM 1.0 chooses for a benchmark of throughput.

With N requests whose caches fit (at most 4,096)::

    sequences = N, up to the next 32 (below 256, 64 at least), 128 (below 1,024) or 256
    tokens    = N (1 + input / output), at most 32,768, up to the next 256 (2,048 at least), 512 (below 8,192) or 1,024

and, since prompts are not cut, at least ``input + sequences`` tokens. Source: ``finetune_setting`` in
tensorrt_llm/bench/build/tuning.py, ``get_settings`` in tensorrt_llm/bench/benchmark/utils/general.py.
"""

from __future__ import annotations

from math import ceil

__all__ = ["bench_limits"]


def bench_limits(fit: float, input_tokens: int, output_tokens: int) -> tuple[int, int]:
    """Most sequences, and most tokens of an iteration, where the caches of ``fit`` requests have room.

    >>> bench_limits(5000, 128, 128), bench_limits(300, 1000, 1000), bench_limits(20, 20000, 2000)
    ((4096, 8192), (384, 2048), (64, 20064))
    """
    sequences = min(fit, 4096)
    tokens = min(sequences * (1 + input_tokens / output_tokens), 32768)
    step = 32 if sequences < 256 else 128 if sequences < 1024 else 256
    most = max(step * ceil(sequences / step), 64)
    step = 256 if tokens < 4096 else 512 if tokens < 8192 else 1024
    return most, max(step * ceil(tokens / step), 2048, input_tokens + most)
