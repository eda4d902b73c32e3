"""The two commands, ``usbip-agent`` and ``usbipa``: words in, one exit status out.

One file per verb, named after it; it has a ``VERB`` for each program that knows it, and ``agent`` and
``usbipa`` list which those are. A new verb is a new file and its name in that list. Only the verb that is
asked for is imported, and it imports what it needs when it runs: ``--help`` and ``--version`` cost nothing.

Verbs look and ask; what changes a device is said to the daemon over the bus. A verb returns its exit status
or raises a ``Fault``, and ``program`` makes the one line on stderr of it.
"""
