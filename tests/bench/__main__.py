"""Chooses benches, runs them one after the other, and prints what they found."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from types import ModuleType

from tests.bench import benches
from tests.bench.figures import Report
from tests.bench.laboratory import Laboratory, tell
from tests.lab.report import LabError


def main() -> int:
    known = _benches()
    parser = _parser(known)
    options = parser.parse_args()
    unknown = [name for name in options.benches if name not in known]
    if unknown:
        parser.error(f"no bench {', '.join(unknown)}: one of {', '.join(known)}")
    laboratory = Laboratory(options.debs)
    found: dict[str, Report] = {}
    try:
        for name in options.benches or known:
            tell(f"{name}: {_summary(known[name])}")
            found[name] = known[name].measure(laboratory, options)
            if not options.json:
                print(f"{found[name]}\n", flush=True)
    except LabError as failure:
        print(f"tests/bench: {failure}", file=sys.stderr)
        return 1
    finally:
        if options.json:
            print(json.dumps({"version": 1, **{name: report.as_json() for name, report in found.items()}}))
    return 0


def _benches() -> dict[str, ModuleType]:
    """Every module of ``benches``, in the order in which they are run."""
    names = [module.name for module in pkgutil.iter_modules(benches.__path__)]
    modules = {name: importlib.import_module(f"{benches.__name__}.{name}") for name in names}
    return dict(sorted(modules.items(), key=lambda item: int(item[1].ORDER)))


def _summary(bench: ModuleType) -> str:
    return (bench.__doc__ or "").partition("\n")[0]


def _parser(known: dict[str, ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures the product in the laboratory.\n\n"
                    + "\n".join(f"  {name:8} {_summary(bench)}" for name, bench in known.items()))
    parser.add_argument("benches", nargs="*", metavar="BENCH", help="which, by name (all)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout in place of tables")
    parser.add_argument("--debs", metavar="DIRECTORY", help="use these packages instead of building them")
    for name, bench in known.items():
        bench.add_options(parser.add_argument_group(name))
    return parser


if __name__ == "__main__":
    sys.exit(main())
