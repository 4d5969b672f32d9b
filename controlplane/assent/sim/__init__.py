# SPDX-License-Identifier: Apache-2.0
"""The engine and the gate in virtual time, over links of any distance (docs/simulator.md)."""
