"""usbip-agent: plug a USB device in here, use it there.

The rooms of the house, in the order a device walks through them: ``kernel`` (sysfs, netlink), ``policy``
(what the configuration says), ``device_side`` or ``application_side`` (what is to be done), ``transport``
(sockets fit for the kernel), ``bus`` and ``service`` (telling desktop and systemd), ``cli``.
"""

__version__ = "1.0.0"
