"""N:M structured sparsity: of every M weights along the reduction, at most N differ from zero."""

from __future__ import annotations

import re
from dataclasses import dataclass

from archsim.errors import InputError

__all__ = ["Sparsity"]

#: groups are of so many weights at most
MOST = 256


@dataclass(frozen=True)
class Sparsity:
    """``n`` of every ``m`` weights are kept, each with an index that says which of the ``m`` it is.

    Equation: ``kept(k) = floor(k / m) n + min(k mod m, n)``, stored in ``kept (b + ceil(log2 m))`` bits, where b are
    those of a weight; groups are stored one behind the other, also across rows. Reference: Mishra et al., "Accelerating
    sparse deep neural networks", 2021 (2:4 with two bits a weight); other patterns: SCALE-Sim v3, blocked ELLPACK.

    >>> half = Sparsity.of("2:4")
    >>> half.kept(4096), half.kept(7), half.bits(4096, 16)
    (2048, 4, 36864)
    """

    n: int
    m: int

    @classmethod
    def of(cls, text: str, what: str = "a sparsity") -> Sparsity:
        """The pattern ``N:M``; InputError, naming ``what`` it is, where it is none."""
        found = re.fullmatch(r"(\d{1,3}):(\d{1,3})", text)
        n, m = (int(group) for group in found.groups()) if found else (0, 0)
        if not 1 <= n < m <= MOST:
            raise InputError(f"{what} {text}: must be N:M, N of every M weights (1 <= N < M <= {MOST}), as in 2:4")
        return cls(n, m)

    @classmethod
    def chosen(cls, text: str) -> Sparsity | None:
        """What an option ``--sparsity`` says: a pattern, or ``none``."""
        return None if text == "none" else cls.of(text, "--sparsity")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def kept(self, k: int) -> int:
        """Weights that are left of ``k`` along the reduction."""
        return k // self.m * self.n + min(k % self.m, self.n)

    def bits(self, k: int, width: int) -> int:
        """Bits of ``k`` weights of ``width`` bits as they are stored, with the index of each that is kept."""
        return self.kept(k) * (width + (self.m - 1).bit_length())
