"""Who a node is: its Ed25519 key, the CellID that follows from it, and pre-shared keys."""
