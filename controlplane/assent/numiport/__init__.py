# SPDX-License-Identifier: Apache-2.0
"""Numiport: single datagrams between validators, scheduled by the slot clock (docs/numiport.md)."""
