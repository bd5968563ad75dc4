"""Is YAML read as YAML 1.2, with the place of every key, and without harm from a hostile file?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsim.errors import InputError
from archsim.hardware.document import MAX_BYTES, parse_scalar_text, read_document, to_yaml


def refusal(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_document(path, "x.yaml")
    return str(caught.value)


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "a: 1e9\nb: no\nc: 12:30\nd: '12'\ne: 012\nf: ~\ng: true\nh: 1.5\ni: -3\nj: 3 TB/s\nk: [1, {l: 2}]\n"
    )
    document = read_document(path, "x.yaml")
    read = document.data
    assert [read[key] for key in "abcdefghij"] == [1e9, "no", "12:30", "12", 12, None, True, 1.5, -3, "3 TB/s"]
    assert read["k"] == [1, {"l": 2}]
    assert document.mark(("k", 1, "l")) == "x.yaml:11:9"
    assert document.mark(("k", 1, "unknown")) == "x.yaml:11:8"
    assert document.mark(("unknown",)) == "x.yaml:1:1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 1\na: 2\n", "x.yaml:2:1: a: duplicate key, first given on line 1"),
        ('a: "\\e[31m"\n', "x.yaml:1:4: the character U+001B is not allowed in text"),
        ("a: 1\n\u202eb: 2\n", "x.yaml:2:1: the character U+202E is not allowed in text"),
        ("a: {b: 1, b: 2}\n", "x.yaml:1:11: a.b: duplicate key, first given on line 1"),
        ("a: &x [1]\nb: *x\n", "x.yaml:1:4: anchors and aliases are not allowed"),
        (
            "a: !!python/name:os.system\n",
            "x.yaml:1:4: tags such as 'tag:yaml.org,2002:python/name:os.system' are not allowed",
        ),
        ("- 1\n", "x.yaml:1:1: expected a map of keys and values"),
        ("", "x.yaml:1:1: expected a map of keys and values"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: one file holds one document"),
        ("? [a]\n: 1\n", "x.yaml:1:3: a key must be plain text"),
        ("a: b: c\n", "x.yaml:1:5: not valid YAML, mapping values are not allowed in this context"),
        (b"\xff\xfe", "x.yaml: is not a UTF-8 text file"),
        ("a" * (MAX_BYTES + 1), "x.yaml: is larger than 64 KiB, which no hardware description needs"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert refusal(tmp_path / "x.yaml", content) == message


def test_an_alias_bomb_is_refused_at_its_first_anchor(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    assert refusal(tmp_path / "x.yaml", "\n".join(lines)) == "x.yaml:1:5: anchors and aliases are not allowed"


@pytest.mark.parametrize("unit", ["[", "{", "- ", "? ", "a: ", "!", "'", "&a ", "|", "{a: "])
def test_deep_or_endless_input_ends_quickly(tmp_path: Path, unit: str) -> None:
    begin = time.process_time()
    message = refusal(tmp_path / "x.yaml", unit * (MAX_BYTES // len(unit)))
    assert time.process_time() - begin < 5
    assert message.startswith("x.yaml")
    assert len(message) < 300


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^x.yaml: cannot be read \(Is a directory\)$"):
        read_document(tmp_path, "x.yaml")


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_an_input_error(text: str) -> None:
    message = "--set a=b: "
    try:
        parse_scalar_text(text, "--set a=b")
    except InputError as error:
        message = str(error)
    assert message.startswith("--set a=b: ")


@given(
    st.dictionaries(
        st.text("abc_", min_size=1, max_size=5),
        st.recursive(
            st.integers(-(10**9), 10**9) | st.booleans() | st.none() | st.text("ab12 :-~.e", max_size=8),
            lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, data: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_text(to_yaml(data))
    assert read_document(path, "x.yaml").data == data
