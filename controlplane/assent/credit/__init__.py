# SPDX-License-Identifier: Apache-2.0
"""Prepaid credit: what a node has promised and what it still may promise."""
