"""The application side: takes what nodes export, and hangs it on vhci-hcd.

- ``imports``: which port carries whose device; pure.
- ``records``: what outlives the process of each import; ``adoption``: what to make of it at start, pure.
- ``listener``, ``negotiation``: from a TCP connection to a request, and from a decision to its reply.
- ``keeper``: the life of every import, from its reservation until its port is free again.
- ``usbipa``: the daemon, as policy, bus and peers see it; ``main``: its composition.
"""
