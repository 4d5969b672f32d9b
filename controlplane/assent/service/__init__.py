# SPDX-License-Identifier: Apache-2.0
"""assentd: the daemon, its API and everything that owns tasks, sockets and files."""
