"""The data plane and the domain: market data in, decisions and orders out."""

__version__ = "0.1.0"
