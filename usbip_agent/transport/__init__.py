"""How a stream socket that is fit for the kernel comes to be, and how its end is noticed."""
