"""WebRTC signaling sidecar for DysonNetwork's API gateway."""

__version__ = "0.1.0"
