"""Do the readers of request traces give what the files say, and name the line that is wrong?"""

from __future__ import annotations

import csv
import json
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsim.errors import InputError
from archsim.serving import read_arrivals

DATA = Path(__file__).parents[1] / "data"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
MOONCAKE = "timestamp_ms,input_length,output_length,hash_id_ranges\n"


@pytest.mark.parametrize("name", ["azure_llm_2023_code", "azure_llm_2023_conv"])
def test_azure(name: str) -> None:
    arrivals = read_arrivals(DATA / f"{name}.csv")
    rows = list(csv.DictReader((DATA / f"{name}.csv").open()))
    times = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows]
    seconds = [(time - times[0]).total_seconds() for time in times]
    assert len(arrivals) == 40
    assert arrivals.requests["arrival_s"] == pytest.approx(seconds, abs=1e-6)
    assert arrivals.requests["input_tokens"].tolist() == [int(row["ContextTokens"]) for row in rows]
    assert arrivals.requests["output_tokens"].tolist() == [int(row["GeneratedTokens"]) for row in rows]
    assert arrivals.block_tokens == 0
    assert len(arrivals.prefix(0)) == 0
    assert arrivals.reuse() == 0.0


@pytest.mark.parametrize("name", ["mooncake_conversation", "mooncake_synthetic"])
def test_mooncake_blocks_cover_the_prompts(name: str) -> None:
    arrivals = read_arrivals(DATA / f"{name}.csv")
    assert arrivals.block_tokens == 512
    tokens = arrivals.requests["input_tokens"]
    assert np.diff(arrivals.block_offsets).tolist() == (-(-tokens // 512)).tolist()


def test_mooncake_prefixes() -> None:
    arrivals = read_arrivals(DATA / "mooncake_conversation.csv")
    assert tuple(arrivals.requests[1]) == (0.0, 7322, 490)
    assert arrivals.prefix(1).tolist() == [0, *range(14, 28)]
    seen = set[int]()
    again = 0
    for i in range(len(arrivals)):
        again += sum(block in seen for block in arrivals.prefix(i).tolist())
        seen.update(arrivals.prefix(i).tolist())
    assert arrivals.reuse() == pytest.approx(again / len(arrivals.blocks))


def test_published_json_lines_and_run_lengths_are_the_same(tmp_path: Path) -> None:
    ranges = read_arrivals(DATA / "mooncake_synthetic.csv")
    lines = [
        json.dumps(
            {
                "timestamp": round(float(request["arrival_s"]) * 1000),
                "input_length": int(request["input_tokens"]),
                "output_length": int(request["output_tokens"]),
                "hash_ids": ranges.prefix(i).tolist(),
            }
        )
        for i, request in enumerate(ranges.requests)
    ]
    (tmp_path / "trace.jsonl").write_text("\n".join(lines))
    published = read_arrivals(tmp_path / "trace.jsonl")
    for field in ("requests", "blocks", "block_offsets"):
        assert np.array_equal(getattr(published, field), getattr(ranges, field))


def test_azure_2024_times(tmp_path: Path) -> None:
    path = tmp_path / "week.csv"
    path.write_text(AZURE + "2024-05-10 00:00:00.009930+00:00,2162,5\r\n2024-05-10 00:00:01+00:00,2399,6")
    assert read_arrivals(path).requests["arrival_s"].tolist() == [0.0, pytest.approx(0.99007)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", ":1: is no request trace that archsim knows"),
        ("a,b\n1,2\n", ":1: is no request trace that archsim knows"),
        (AZURE, ": has no requests"),
        (AZURE + "2023-11-16 18:17:03,1\n", ":2: 3 columns are expected, not 2"),
        (AZURE + "2023-11-16,1,1\n", ":2: '2023-11-16' is not a time"),
        (AZURE + "2023-13-16 18:17:03,1,1\n", ":2: "),
        (AZURE + "\n2023-11-16 18:17:03,1,-1\n", ":3: '-1' is not a number of tokens"),
        (AZURE + "2023-11-16 18:17:03,1e99,1\n", ":2: '1e99' is not a number of tokens"),
        (AZURE + "2023-11-16 18:17:03,1,1\n2023-11-16 18:17:02,1,1\n", ":3: the request came before the one above"),
        (MOONCAKE + "0,512,1,0-281474976710655\n", ":2: 281474976710656 prefix blocks are more than 512"),
        (MOONCAKE + "0,512,1,3-1\n", ":2: the range '3-1' runs backwards"),
        (MOONCAKE + "0,512,1,x\n", ":2: 'x' is not a hash id"),
        ('{"timestamp": 0}\n', ":1: is not an object with timestamp"),
        ("{\n", ":1: is not JSON"),
        ("[" * 100_000, ":1: is no request trace"),
        ('{"a": ' + "[" * 100_000, ":1: "),
    ],
)
def test_faults_name_the_line(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_arrivals(path)
    assert str(caught.value).startswith(f"{path}{what}")


def test_missing_file_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_arrivals(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not text"):
        read_arrivals(tmp_path / "bytes.csv")


@given(st.sampled_from(sorted(DATA.glob("*.csv"))), st.integers(0, 3000), st.binary(max_size=3))
def test_damage_is_an_input_error_or_a_request_trace(source: Path, where: int, put: bytes) -> None:
    data = source.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.csv"
        path.write_bytes(data[:where] + put + data[where + len(put) :])
        try:
            requests, fault = len(read_arrivals(path)), ""
        except InputError as error:
            requests, fault = 0, str(error)
    assert requests or fault.startswith(str(path))
