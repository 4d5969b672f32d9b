# SPDX-License-Identifier: Apache-2.0
"""assent, the command line: a client of the daemon's API.

One module a noun, each with `register(root)`. They import typer and nothing else at their top: what
a command needs it imports when it runs, so that help and completion are quick.
"""
