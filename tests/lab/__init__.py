"""A laboratory of real kernels: QEMU guests that plug, export and import USB devices.

``image`` builds a Debian disk, ``snapshot`` boots it once and freezes it, ``guest`` starts
copies of the frozen machine in seconds, ``pair`` wires a node and a host together.
"""
