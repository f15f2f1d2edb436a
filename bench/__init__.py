"""Load against the shipped sidecar and its peers: `python -m bench`, `python -m bench.check`."""
