# SPDX-License-Identifier: Apache-2.0
"""Measurements of this machine, beside tools that everyone has."""
