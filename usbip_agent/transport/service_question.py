"""A program: prints the SRV records of a name. Run by ``services``, for one question.

Its output: the time to live in seconds, then ``priority weight port target`` for each record. Ending with
status 1: in one line, what was wrong. It imports nothing of its package, so as to start fast.
"""

from __future__ import annotations

import sys
import time

LIFETIME = 10.0
"""Seconds for the question, over all name servers."""


def main(name: str) -> int:
    """The exit status."""
    try:
        import dns.exception
        import dns.name
        import dns.resolver
    except ImportError:
        print("dnspython is not installed (apt install python3-dnspython)")
        return 1
    try:
        answer = dns.resolver.Resolver().resolve(dns.name.from_text(name), "SRV", lifetime=LIFETIME)
    except dns.resolver.NXDOMAIN:
        print("there is no such name")
    except dns.resolver.NoAnswer:
        print("it has no SRV records")
    except dns.resolver.NoNameservers:
        print("no name server has an answer")
    except dns.exception.Timeout:
        print(f"no name server answers in {LIFETIME:.0f} s")
    except (dns.exception.DNSException, OSError) as problem:
        print(" ".join(str(problem).split()) or type(problem).__name__)
    else:
        print(max(0.0, answer.expiration - time.time()))
        for record in answer:
            print(record.priority, record.weight, record.port, record.target)
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
