"""The tests, by tier: static, unit, component, package, lab. ``tests/run`` runs them."""
