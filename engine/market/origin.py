"""Which exchange's market a data folder holds: of two in one history come features, labels and limits of neither.

The exchange's demo and a simulator have prices, volumes and filters of their own. The first engine or collector that
an exchange answers writes its name into the folder; under another name both refuse to start there.
"""

from __future__ import annotations

from engine.config import Config
from engine.errors import ConfigError

NAME = "exchange"


def check_origin(config: Config) -> None:
    """Raise ConfigError where the data folder holds the market of another exchange."""
    path = config.data_dir / NAME
    held = path.read_text().strip() if path.is_file() else config.exchange.name
    if held != config.exchange.name:
        raise ConfigError(
            [
                f"data_dir {config.data_dir}: holds the market data of exchange '{held}', not of "
                f"'{config.exchange.name}'; choose another folder: --data-dir, or TA_DATA_DIR"
            ]
        )


def claim_origin(config: Config) -> None:
    """Write down that the folder is this exchange's, which has answered."""
    path = config.data_dir / NAME
    if not path.is_file():
        path.write_text(config.exchange.name + "\n")
