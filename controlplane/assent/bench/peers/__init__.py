# SPDX-License-Identifier: Apache-2.0
"""Programs that move data from one network namespace to another, each in a way of its own.

All speak to their measurement in the same way (`part`), so that each can take another's place.
"""
