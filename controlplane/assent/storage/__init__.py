# SPDX-License-Identifier: Apache-2.0
"""Block storage over flows (seed UTCP, "Integration with NexFS"): active where it is configured.

`blocks` keeps blocks on disk, `dag` gives them structure, `engine` is the sans-IO exchange with a
peer, `session` runs it over a flow.
"""
