"""Cells become prompts: here, on other servers, on Ray."""
