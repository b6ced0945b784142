import pytest

from pi_compiler.cost import CostTable


def _table(factor):
    """A price list of the right shape, so that plans do not depend on the machine that tests run on."""
    levels = range(16)
    key_switch = [factor * 7e-4 * (1 + 0.4 * i + 0.28 * i * i) for i in levels]
    linear = [factor * 6e-5 * (1 + i) for i in levels]
    names = ("add", "sub", "add_plain", "mul_plain", "mul", "square", "rescale", "drop_level", "neg", "decrypt")
    return {
        **{n: linear for n in names},
        "rotate": key_switch,
        "relinearize": key_switch,
        "encode": [10 * v for v in linear],
        "encrypt": [20 * v for v in linear],
    }


@pytest.fixture(scope="session")
def costs():
    return CostTable("clear", "made up", {n: _table(2.2 ** (n - 13)) for n in range(11, 17)}, 0.0, False)
