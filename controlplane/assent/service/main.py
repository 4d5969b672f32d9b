# SPDX-License-Identifier: Apache-2.0
"""The `assentd` command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assent.service.config import LOG_FORMATS, LOG_LEVELS, ConfigError, load

if TYPE_CHECKING:
    from assent.service.daemon import Daemon

EXIT_FAILED = 1
EXIT_USAGE = 2

log = logging.getLogger("assent.service.main")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the daemon until SIGTERM or SIGINT. The dataplane goes on without it.

    Returns:
        0 after an orderly stop, 1 where the host or the daemon failed, 2 for wrong settings.
    """
    options = vars(_parser().parse_args(arguments))
    path = options.pop("config", None)
    try:
        config = load(path, options)
    except ConfigError as error:
        return _complain(error, EXIT_USAGE)
    # Files that are made anywhere below are the daemon's own, whatever its parent's umask.
    os.umask(0o077)
    try:
        from assent.service.daemon import Daemon, StartError
    except ImportError as error:
        return _complain(error, EXIT_FAILED)
    from assent.service import logs

    logs.configure(config.log_level, config.log_format)
    try:
        asyncio.run(_serve(Daemon(config)), debug=False)
    except StartError as error:
        return _complain(error, EXIT_FAILED)
    except Exception:
        log.exception("daemon failed")
        return EXIT_FAILED
    return 0


async def _serve(daemon: Daemon) -> None:
    from assent.service.notify import notify

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with daemon:
        notify("READY=1")
        try:
            await daemon.run_until(stop)
        finally:
            notify("STOPPING=1")


def _parser() -> argparse.ArgumentParser:
    # A flag that is not given is absent, so that the file's setting stands.
    parser = argparse.ArgumentParser(
        prog="assentd",
        description="Control plane of an Assent host.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="TOML file; flags win over it")
    add("--instance", metavar="NAME", help="name of this fabric instance (default: default)")
    add("--socket", metavar="PATH", help="API socket (default: /run/assent/<instance>/api.sock)")
    add("--state-dir", metavar="DIR", help="desired state (default: /var/lib/assent/<instance>)")
    add("--run-dir", metavar="DIR", help="runtime files (default: /run/assent/<instance>)")
    add("--pin-root", metavar="DIR", help="on bpffs (default: /sys/fs/bpf/assent)")
    add("--profile", metavar="NAME", help="sizes of the maps (default: default)")
    add(
        "--credit-capacity",
        dest="credit_capacity_blocks",
        type=int,
        metavar="BLOCKS",
        help="64-byte blocks that this node may promise in all (default: 1048576 = 64 MiB)",
    )
    for binding, name in (("wss", "WebSocket"), ("h2", "HTTP/2")):
        add(f"--covenant-{binding}", metavar="HOST:PORT", help=f"hear covenants over {name} there")
    add("--covenant-certificate", metavar="FILE", help="of this host, for those; PEM")
    add("--covenant-key", metavar="FILE", help="its private key; PEM")
    add("--covenant-client-ca", metavar="FILE", help="whose certificates clients must show; PEM")
    add("--covenant-ca", metavar="FILE", help="whose certificates servers must show; PEM")
    add("--log-level", choices=LOG_LEVELS, help="(default: info)")
    add("--log-format", choices=LOG_FORMATS, help="(default: text)")
    return parser


def _complain(error: Exception, status: int) -> int:
    first = str(error).strip().splitlines()
    print(f"assentd: {first[0] if first else type(error).__name__}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
