"""Seeds that no random generator takes are refused before anything runs."""

from __future__ import annotations

import pytest

from configs.exits import ConfigError
from configs.load import load_settings


@pytest.mark.parametrize(
    "override", ["seed=99999999999999999999", "seed=9223372036854775808", "seeds=[0, 18446744073709551616]"]
)
def test_a_seed_beyond_63_bits_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="must be below"):
        load_settings("results", [override])


def test_the_largest_seed_is_taken() -> None:
    assert load_settings("quickstart", ["seed=9223372036854775807"]).seed == 2**63 - 1
