# SPDX-License-Identifier: Apache-2.0
"""The bindings of TCP/UP: whole frames between sockets, or flow 0, and whoever owns the covenants.

    links      what an owner sees of all of them
    tls        the TLS that the two over TCP demand
    sockets    connections: how many, from whom, how fast
    websocket  one link a connection
    http2      one link a stream
    fabric     one link a pair of cells in session

A binding knows where a frame ends, and nothing else of it: what it carries is unverified.
"""
