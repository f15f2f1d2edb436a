"""`python -m sidecar COMMAND`."""

from sidecar.cli import main

main()
