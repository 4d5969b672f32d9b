# SPDX-License-Identifier: Apache-2.0
"""Covenants in the daemon: what is stored of them, and how the gate follows."""
