"""The system bus: what the daemons publish and answer there, and how the commands ask.

Nothing outside of this package knows of dbus-next, and nothing in it knows of devices: it carries reports
(``usbip_agent.report``) out and calls (``operations``) in.

- ``operations``: what a daemon implements to be called.
- ``server``, ``publisher``: a daemon's presence on the bus.
- ``client``: a command's view of a daemon.
- ``systemd``: the one question that we ask systemd.

Below them: ``marshalling`` (bytes ↔ messages), ``connection`` (one socket to the bus), ``methods`` (who may
call what), ``dispatch`` (a call's way to its answer).
"""
