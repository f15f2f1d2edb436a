"""Logs: one line per event, JSON or for a console. Never a token, an SDP or a secret."""

from __future__ import annotations

import logging
import re
import sys

import structlog
from structlog.stdlib import BoundLogger
from structlog.typing import EventDict, Processor, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")

_OURS = "sidecar"
# A JWT, from whichever line it tries to get out: ours have none, a library's error text might quote a request.
_TOKEN = re.compile(r"eyJ[\w-]{8,}(\.[\w-]*){0,4}")


def set_up(*, level: str, json: bool) -> BoundLogger:
    """Send our own lines and those of the libraries (Sanic, gRPC, asyncio) through one formatter to standard error."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if json
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )  # no traceback shows local variables: one of them could be a token
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render, _mask_tokens],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    set_level(level)
    logging.getLogger("sanic.error").addFilter(_is_news)
    logging.getLogger("websockets").setLevel(
        logging.CRITICAL
    )  # a peer's protocol error is in its connection's line
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logger: BoundLogger = structlog.stdlib.get_logger(_OURS)
    return logger


def set_level(level: str) -> None:
    """From now on our own lines of `level` (one of `LEVELS`) and above are written; the libraries' from warning on."""
    logging.getLogger(_OURS).setLevel(level.upper())


def _is_news(record: logging.LogRecord) -> bool:
    """A preflight that came with a body is answered without reading it, whatever Sanic thinks of that."""
    return not record.getMessage().endswith("body not consumed.")


def _mask_tokens(_logger: WrappedLogger, _method: str, line: EventDict | str) -> str:
    return _TOKEN.sub("[token]", str(line))
