"""Who is who: our own key and certificate, the nodes that a host knows, and how they get to know each other.

An identity is a self-signed certificate that never expires; its name in the world is the SHA-256 of its DER.

- ``own``: the certificate and key of this side, made on first start.
- ``nodes``: the certificates that a host has enrolled, by node name.
- ``codes``, ``limiter``, ``registrar``: join codes issued and redeemed, on the host.
- ``join_code``, ``enrolment``: what is pasted, and what then goes over the wire.
- ``host_entry``: what a node writes into its configuration once a host has enrolled it.
- ``desk``: the registrar as D-Bus sees it.

``cryptography`` costs 10 MB of memory: ``making`` and ``checking``, which alone import it, run as short-lived
processes (``child``).
"""
