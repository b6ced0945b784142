"""Seconds on SPU, predicted and measured, on emulated networks.

Each protocol's table is measured first (what ``calibrate-cost --backend spu`` writes), then networks run between
real processes behind a relay that delays and paces; medians of the images after the first. Rows are written after
every protocol.

    PI_DATA_DIR=... python bench/spu_seconds.py [PROTOCOL ...]     # about three minutes on a quiet machine
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import rows

from pi_compiler import api, files
from pi_compiler.cost_mpc import NETWORKS, MpcPrices, load_mpc_prices, total_cost
from pi_compiler.models.data import load
from pi_compiler.models.zoo import ZOO, model_path
from pi_compiler.options import Options
from pi_compiler.runtime.mpc.launcher import Link, Plan
from pi_compiler.runtime.mpc.spu.backend import SpuMpc
from pi_compiler.runtime.mpc.spu.library import PROTOCOLS
from pi_compiler.runtime.mpc.spu.measure import measure

_NAME = "spu_seconds"
_NETWORKS = ("digits_cnn", "lenet")
_PLACES = ("lan", "man", "wan")
_IMAGES = 6


def measured(network: str, protocol: str, prices: MpcPrices) -> Iterator[rows.Row]:
    """One network under one protocol everywhere."""
    calibration = load(ZOO[network].dataset, "calibration").x[:256]
    options = Options(target="mpc", protocol=protocol)
    compiled = api.compile_secure(model_path(network), calibration=calibration, options=options)
    given = compiled.stacked(load(ZOO[network].dataset, "test").take(_IMAGES).x)
    predicted = total_cost(compiled.program, prices)
    for place in _PLACES:
        asked = NETWORKS[place]
        link = Link(asked.rtt / 2, asked.bandwidth / 8)
        backend = SpuMpc(Plan(3 if protocol == "aby3" else 2, spu=protocol, timeout=300.0, link=link))
        backend.run(compiled.program, given)
        taken = statistics.median(backend.parties[1].each[1:])
        title = f"{network}_{protocol}_{place}_predicted"
        yield rows.cost(title, asked.seconds(predicted), "s", "measured", taken)


def main(protocols: tuple[str, ...]) -> None:
    """Measure and write, protocol by protocol."""
    found = {row.name: row for row in rows.read(_NAME)}
    for protocol in protocols:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "costs.json"
            files.write_json(table, measure(protocol))
            prices = load_mpc_prices(protocol, table)
        for network in _NETWORKS:
            found |= {row.name: row for row in measured(network, protocol, prices)}
        rows.write(_NAME, list(found.values()))
    print(rows.machine())


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or PROTOCOLS)
