# SPDX-License-Identifier: Apache-2.0
"""What is here runs inside the virtual machine: `make vm-test`."""

from __future__ import annotations

import os

if "ASSENT_VM" not in os.environ:
    collect_ignore_glob = ["test_*.py"]
