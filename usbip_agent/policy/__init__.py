"""What the configuration says: YAML → document → rules → decision, with its trace.

``agent`` and ``usbipa`` are the doors, one for each side; ``match`` knows devices, ``keys`` how a key is
declared, ``document`` how text becomes a tree with lines. The only input is the files; nothing here waits.
"""
