"""Figures from the laboratory: how quick the product is, and what it costs. See README.md."""
