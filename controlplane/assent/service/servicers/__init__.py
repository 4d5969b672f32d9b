# SPDX-License-Identifier: Apache-2.0
"""gRPC servicers: protobuf in, domain values out, and back again; no decisions."""
