"""Do quantities read and write exactly, and refuse what is ambiguous or of the wrong dimension?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from archsim.errors import InputError
from archsim.units import AS_TEXT, FROM_FILE, Bandwidth, Size, Time, UnitError, format_quantity, parse

DIMENSIONS = ("time", "frequency", "size", "bandwidth", "transfer rate", "compute rate", "power", "area")


@pytest.mark.parametrize(
    ("text", "dimension", "expected"),
    [
        ("40 ns", "time", 40e-9),
        ("40ns", "time", 40e-9),
        ("1.83 GHz", "frequency", 1.83e9),
        ("256 KiB", "size", 262144),
        ("80 GB", "size", 80e9),
        ("8 Gb", "size", 1e9),
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("400 Gb/s", "bandwidth", 50e9),
        ("1 GiB/s", "bandwidth", 2**30),
        ("6400 MT/s", "transfer rate", 6.4e9),
        ("989 TFLOP/s", "compute rate", 989e12),
        ("989 TFLOPS", "compute rate", 989e12),
        ("1979 TOP/s", "compute rate", 1979e12),
        ("0.7 kW", "power", 700),
        ("814 mm^2", "area", 814),
        ("1e3 MHz", "frequency", 1e9),
        ("-3 us", "time", -3e-6),
    ],
)
def test_a_quantity_reads_as_si(text: str, dimension: str, expected: float) -> None:
    assert parse(text, dimension) == expected


@pytest.mark.parametrize(
    ("text", "dimension", "message"),
    [
        ("3 TB/s", "frequency", "'3 TB/s' is a bandwidth, expected a frequency such as '1.83 GHz'"),
        ("5 GHz", "time", "'5 GHz' is a frequency, expected a time such as '40 ns'"),
        ("5", "time", "'5' needs a unit, expected a time such as '40 ns'"),
        ("256 KB", "size", "'256 KB' has the unknown unit 'KB', write 'kB' (1000) or 'KiB' (1024)"),
        (
            "2 Ghz",
            "frequency",
            "'2 Ghz' has the unknown unit 'Ghz' (did you mean 'GHz'?), expected a frequency such as '1.83 GHz'",
        ),
        ("fast", "frequency", "'fast' is not a quantity, expected a frequency such as '1.83 GHz'"),
        ("", "size", "'' is not a quantity, expected a size such as '256 KiB'"),
        ("1e400 s", "time", "'1e400 s' is too large"),
        ("1,5 ns", "time", "'1,5 ns' is not a quantity, expected a time such as '40 ns'"),
    ],
)
def test_the_message_says_what_was_expected(text: str, dimension: str, message: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse(text, dimension)
    assert str(caught.value) == message
    assert isinstance(caught.value, InputError)


@given(st.floats(1e-15, 1e18), st.sampled_from([d for d in DIMENSIONS if d != "size"]))
def test_what_is_written_reads_back_exactly(value: float, dimension: str) -> None:
    assert parse(format_quantity(value, dimension), dimension) == value


@given(st.integers(0, 2**63 - 1))
def test_sizes_are_exact_integers(size: int) -> None:
    class Holder(BaseModel):
        size: Size

    if size > 0:
        text = format_quantity(size, "size")
        assert Holder.model_validate({"size": text}, context=FROM_FILE).size == size


@given(st.text(max_size=30), st.sampled_from(DIMENSIONS))
def test_any_text_is_a_quantity_or_a_unit_error(text: str, dimension: str) -> None:
    message = ""
    try:
        parse(text, dimension)
    except UnitError as error:
        message = str(error)
    assert len(message) < 200


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (0, "time", "0 s"),
        (5e-7, "time", "500 ns"),
        (1e-15, "time", "0.001 ps"),
        (80_000_000_000, "size", "80 GB"),
        (50 * 2**20, "size", "50 MiB"),
        (3.35e12, "bandwidth", "3.35 TB/s"),
        (2039e9, "bandwidth", "2039 GB/s"),
    ],
)
def test_quantities_are_written_in_their_most_readable_unit(value: float, dimension: str, text: str) -> None:
    assert format_quantity(value, dimension) == text


def test_rounding_is_asked_for_by_digits() -> None:
    assert format_quantity(989.4e12, "compute rate", 3) == "989 TFLOP/s"
    assert format_quantity(2039e9, "bandwidth", 3) == "2.04 TB/s"


class Part(BaseModel):
    rate: Bandwidth
    delay: Time = 0.0
    room: Size = 1


def test_python_may_give_si_numbers_but_a_file_must_give_units() -> None:
    assert Part(rate=3e12).rate == 3e12
    with pytest.raises(ValidationError, match=r"3000000000000.0 needs a unit, expected a bandwidth"):
        Part.model_validate({"rate": 3e12}, context=FROM_FILE)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf"), True, None, [1], "-3 TB/s", "0 B/s"])
def test_impossible_rates_are_refused(rate: object) -> None:
    with pytest.raises(ValidationError):
        Part.model_validate({"rate": rate})


def test_a_fraction_of_a_byte_is_refused() -> None:
    with pytest.raises(ValidationError, match="valid integer"):
        Part.model_validate({"rate": 1.0, "room": "1.5 B"})


def test_models_write_quantities_with_units_on_request() -> None:
    part = Part(rate=3.35e12, delay=4e-8, room=262144)
    assert part.model_dump() == {"rate": 3.35e12, "delay": 4e-8, "room": 262144}
    assert part.model_dump(context=AS_TEXT) == {"rate": "3.35 TB/s", "delay": "40 ns", "room": "256 KiB"}
