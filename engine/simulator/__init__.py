"""A Binance-compatible exchange in one process. Doors: `python -m engine.simulator …`, `main(argv)`, `Server`."""
