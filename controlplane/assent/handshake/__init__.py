"""Sans-IO handshakes: bytes and a clock in, events and bytes out."""
