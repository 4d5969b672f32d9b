# SPDX-License-Identifier: Apache-2.0
"""Consent between cells: what it means and what it opens."""
