# SPDX-License-Identifier: Apache-2.0
"""What touches the kernel: BPF objects, the gate's maps, and attachment to interfaces."""
