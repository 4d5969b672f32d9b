"""Endpoints: what applications use to send and receive over a flow."""
