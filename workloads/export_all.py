"""Make the shipped traces again: `python workloads/export_all.py` (needs `pip install archsim[export]`).

The bytes of a file depend only on its content, so an unchanged model leaves the working tree clean.
"""

from __future__ import annotations

import json
from pathlib import Path

from archsim.trace import capture
from archsim.trace.trace import PHASES

HERE = Path(__file__).resolve().parent
#: models that only the validation suites need, in the phases that their configurations name, else in training
VALIDATION = HERE.parent / "archsim" / "validation" / "data" / "models"


def main() -> None:
    """Export every model of `configs/` in every phase, beside this file, and those of the validation data."""
    for config in sorted((HERE / "configs").glob("*.json")):
        for phase in PHASES:
            export(config, phase, HERE)
    for config in sorted(VALIDATION.glob("*.json")):
        for phase in json.loads(config.read_text()).get("_phases", ["train"]):
            export(config, phase, VALIDATION)


def export(config: Path, phase: str, folder: Path) -> None:
    """Make one trace."""
    trace = capture(json.loads(config.read_text()), phase=phase, name=config.stem)
    out = folder / f"{config.stem}.{phase}.h5"
    trace.save(out)
    print(f"{out.name}: {out.stat().st_size:,} bytes, {trace.content_hash[:12]}")


if __name__ == "__main__":
    main()
