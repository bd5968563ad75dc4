"""Readers of public request traces: when requests arrived, and how many tokens they had.

======================  ===========================================================================================
format                  first line, or what a line holds
======================  ===========================================================================================
Azure LLM inference     ``TIMESTAMP,ContextTokens,GeneratedTokens`` (CSV; 2023 and 2024 files), time as a date
Mooncake                JSON lines with ``timestamp`` (ms), ``input_length``, ``output_length``, ``hash_ids``
Mooncake, run lengths   ``timestamp_ms,input_length,output_length,hash_id_ranges`` (CSV); ``0;14-27`` stands for the
                        hash ids 0, 14, 15, ..., 27
======================  ===========================================================================================

A hash id of Mooncake names one block of 512 prompt tokens *and everything before it*: two requests that start with the
same ids share that prefix, and the second may reuse its KV cache.

Sources: github.com/Azure/AzurePublicDataset (Patel et al., Splitwise, ISCA 2024; CC-BY-4.0),
github.com/kvcache-ai/Mooncake (Qin et al., FAST 2025; Apache-2.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archsim.errors import InputError

__all__ = ["REQUEST", "Arrivals", "read_arrivals"]

#: one request: seconds since the first one arrived, prompt tokens, generated tokens
REQUEST = np.dtype([("arrival_s", np.float64), ("input_tokens", np.int64), ("output_tokens", np.int64)])

MOONCAKE_BLOCK = 512
_MAX_FILE_BYTES = 2**31
_MAX_LINE = 2**20
_MAX_TOKENS = 2**24
_MAX_BLOCK_ID = 2**48
_AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"
_RUN_LENGTHS = "timestamp_ms,input_length,output_length,hash_id_ranges"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:\+00:00|Z)?", re.ASCII)

# Time (in nanoseconds), prompt tokens, generated tokens and prefix blocks of one line.
_Row = tuple[int, int, int, "list[int]"]


@dataclass(frozen=True, eq=False)
class Arrivals:
    """Requests in the order in which they came.

    requests: table of dtype ``REQUEST``. blocks, block_offsets: ids of the prefix blocks of all requests one after
    another; those of request ``i`` are ``blocks[block_offsets[i]:block_offsets[i + 1]]`` (see ``prefix``).
    block_tokens: prompt tokens of one block, 0 where the format names no blocks.
    """

    requests: NDArray[np.void]
    blocks: NDArray[np.int64]
    block_offsets: NDArray[np.int64]
    block_tokens: int

    def __len__(self) -> int:
        return len(self.requests)

    def prefix(self, index: int) -> NDArray[np.int64]:
        """Ids of the prefix blocks of request `index`."""
        return self.blocks[self.block_offsets[index] : self.block_offsets[index + 1]]

    def reuse(self) -> float:
        """Share of the prefix blocks that came before: the hit rate of a prefix cache that never forgets."""
        return 1 - len(np.unique(self.blocks)) / len(self.blocks) if len(self.blocks) else 0.0


def read_arrivals(path: str | Path) -> Arrivals:
    """Read a request trace; the format is found by its first line. Faults are InputErrors that name file and line."""
    path = Path(path)
    lines = _lines(path)
    number, first = next(lines, (1, ""))
    if first == _AZURE:
        parse, block_tokens = _azure, 0
    elif first == _RUN_LENGTHS:
        parse, block_tokens = _run_lengths, MOONCAKE_BLOCK
    elif first.startswith("{"):
        parse, block_tokens, lines = _json_line, MOONCAKE_BLOCK, _lines(path)
    else:
        raise InputError(
            f"{path}:{number}: is no request trace that archsim knows (Azure LLM inference or Mooncake): "
            f"the first line is '{first[:60]}'"
        )
    return _collect(path, lines, parse, block_tokens)


def _collect(path: Path, lines: Iterator[tuple[int, str]], parse: Callable[[str], _Row], block_tokens: int) -> Arrivals:
    times, prompts, answers, blocks, ends = list[int](), list[int](), list[int](), list[int](), [0]
    for number, line in lines:
        try:
            time, prompt, answer, ids = parse(line)
            if times and time < times[-1]:
                raise ValueError("the request came before the one above it")
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}:{number}: {error}") from None
        times.append(time)
        prompts.append(prompt)
        answers.append(answer)
        blocks += ids
        ends.append(len(blocks))
    if not times:
        raise InputError(f"{path}: has no requests")
    requests = np.empty(len(times), dtype=REQUEST)
    requests["arrival_s"] = (np.array(times, dtype=np.int64) - times[0]) * 1e-9
    requests["input_tokens"], requests["output_tokens"] = prompts, answers
    return Arrivals(requests, np.array(blocks, dtype=np.int64), np.array(ends, dtype=np.int64), block_tokens)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, with their numbers."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise InputError(f"{path}: is larger than {_MAX_FILE_BYTES} bytes")
        with path.open(encoding="utf-8-sig", newline=None) as handle:
            number = 0
            while line := handle.readline(_MAX_LINE):
                number += 1
                if len(line) == _MAX_LINE:
                    raise InputError(f"{path}:{number}: is longer than {_MAX_LINE} characters")
                if line.strip():
                    yield number, line.strip()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text (UTF-8)") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _azure(line: str) -> _Row:
    time, prompt, answer = _cells(line, 3)
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(f"'{time}' is not a time such as 2023-11-16 18:17:03.9799600")
    stamp = np.datetime64(f"{match[1]}T{match[2]}", "ns")
    return int(stamp.astype(np.int64)), _tokens(prompt), _tokens(answer), []


def _run_lengths(line: str) -> _Row:
    time, prompt, answer, ranges = _cells(line, 4)
    tokens = _tokens(prompt)
    ids: list[int] = []
    for run in filter(None, ranges.split(";")):
        first, dash, last = run.partition("-")
        low = _whole(first, "a hash id", _MAX_BLOCK_ID)
        high = _whole(last, "a hash id", _MAX_BLOCK_ID) if dash else low
        if high < low:
            raise ValueError(f"the range '{run}' runs backwards")
        _room(len(ids) + high - low + 1, tokens)
        ids.extend(range(low, high + 1))
    return _milliseconds(_whole(time, "a time in ms", 10**12)), tokens, _tokens(answer), ids


def _json_line(line: str) -> _Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"is not JSON ({error})") from None
    if not isinstance(row, dict) or not {"timestamp", "input_length", "output_length", "hash_ids"} <= row.keys():
        raise ValueError("is not an object with timestamp, input_length, output_length and hash_ids")
    hashes = row["hash_ids"]
    if not isinstance(hashes, list):
        raise ValueError("hash_ids is not a list")
    tokens = _tokens(row["input_length"])
    _room(len(hashes), tokens)
    ids = [_whole(item, "a hash id", _MAX_BLOCK_ID) for item in hashes]
    return _milliseconds(_whole(row["timestamp"], "a time in ms", 10**12)), tokens, _tokens(row["output_length"]), ids


def _cells(line: str, count: int) -> list[str]:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != count:
        raise ValueError(f"{count} columns are expected, not {len(cells)}")
    return cells


def _tokens(value: object) -> int:
    return _whole(value, "a number of tokens", _MAX_TOKENS)


def _whole(value: object, what: str, most: int) -> int:
    """`value` as a whole number from 0 to `most`."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"'{str(value)[:40]}' is not {what} (a whole number up to {most:,})")
    return value


def _milliseconds(value: int) -> int:
    return value * 1_000_000


def _room(blocks: int, tokens: int) -> None:
    if blocks > -(-tokens // MOONCAKE_BLOCK):
        raise ValueError(f"{blocks} prefix blocks are more than {tokens} prompt tokens have")
