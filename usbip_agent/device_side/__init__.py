"""The node: decides which device goes where, and keeps it there."""
