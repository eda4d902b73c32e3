"""The only room that knows sysfs and netlink."""
